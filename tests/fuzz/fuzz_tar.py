"""Fuzzing of what an engine's archive call answers: a stat in a header, a file in a tar (``make fuzz``).

Any bytes are a text of bounded length, or nothing.
"""

import base64
import io
import tarfile
from collections.abc import Iterator

from tests.fuzz import engine

with engine.instrumented():
    from exporter.containers.docker_archive import LARGEST_FILE, file_in, stat_of


def one_input(data: bytes) -> None:
    """One run of the fuzzer."""
    content = file_in(data)
    assert content is None or len(content) <= LARGEST_FILE
    for header in (data.decode("latin-1"), base64.b64encode(data).decode()):
        stat_of(header)


def seeds() -> Iterator[bytes]:
    """Archives of one member, in each format; a sparse one; a stat."""
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for headers in ({}, {"GNU.sparse.size": "4096", "GNU.sparse.map": "0,2,9,1", "GNU.sparse.numblocks": "2"}):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
                member = tarfile.TarInfo("version" if not headers else "x" * 90)
                member.size, member.pax_headers = 7, headers
                tar.addfile(member, io.BytesIO(b"7.2.0-4"))
            yield buffer.getvalue()[:2048]
    yield b'{"name":"version","size":8,"mode":420,"linkTarget":"/x"}'


if __name__ == "__main__":
    engine.run("tar", one_input, seeds())
