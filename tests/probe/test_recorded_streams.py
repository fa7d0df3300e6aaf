"""Every recorded stream, read by the dialect of its folder: it brings text, and the same however its bytes are cut.

A folder of ``tests/fixtures/streams`` belongs to the backend whose id, or the name of whose program, its own name begins
with.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from exporter.backends import BACKENDS
from exporter.probe.dialects import DIALECTS
from exporter.probe.stream import Decoder, NdjsonDecoder, SseDecoder
from exporter.probe.timeline import Delta

STREAMS: Final = Path(__file__).parent.parent / "fixtures" / "streams"
LIMIT: Final = 1 << 20
DECODERS: Final[Mapping[str, Callable[[int], Decoder]]] = {
    "text/event-stream": SseDecoder,
    "application/x-ndjson": NdjsonDecoder,
}
# They have no stream here: simulators in tests/servers stand for them.
UNRECORDED = {"ollama", "openai", "simulator", "text_generation_webui"}


def backend_of(folder: str) -> str:
    """The backend of a folder's streams."""
    knowns = {known: row.id for row in BACKENDS.values() for known in (row.id, *(each.name for each in row.programs))}
    return max((known, backend) for known, backend in knowns.items() if folder.startswith(known))[1]


def streams() -> dict[str, tuple[str, bytes]]:
    """The body of each recorded stream, with its content type."""
    found = {}
    for path in sorted(STREAMS.glob("*/*.txt")):
        head, body = re.split(rb"\r?\n\r?\n", path.read_bytes(), maxsplit=1)
        kind = re.search(rb"(?im)^content-type: *([^;\r\n]*)", head)
        if kind and kind[1].decode() in DECODERS:
            found[f"{path.parent.name}/{path.stem}"] = (kind[1].decode(), body)
    return found


RECORDED: Final = streams()


def read(name: str, size: int) -> list[Delta]:
    """What a stream says, fed in pieces of so many bytes."""
    kind, body = RECORDED[name]
    decoder = DECODERS[kind](LIMIT)
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    events = [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()
    dialect = DIALECTS[backend_of(name.partition("/")[0])]
    return [dialect.read(event) for event in events]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_is_read_by_its_dialect(name: str) -> None:
    """It says text or an error, and the same where its bytes come one by one."""
    whole = read(name, LIMIT)
    assert any(each.answer or each.reasoning or each.error for each in whole)
    assert read(name, 1) == whole


def test_which_backends_have_a_recorded_stream() -> None:
    """Each backend has one, but for those that are named here: a new one must bring one."""
    assert {backend_of(name.partition("/")[0]) for name in RECORDED} == set(BACKENDS) - UNRECORDED


def test_a_backend_is_called_real_by_a_stream_of_a_real_one() -> None:
    """A folder whose name ends in "-imitated" holds no recording, and the table of backends says so of its backend."""
    folders = {name.partition("/")[0] for name in RECORDED}
    recorded = {backend_of(folder) for folder in folders if not folder.endswith("-imitated")}
    assert recorded == {row.id for row in BACKENDS.values() if row.configurable and not row.imitated}
