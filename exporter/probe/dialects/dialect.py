"""What all dialects share: the records that cross from the run of a probe to a backend and back, and the Protocol.

A dialect knows one kind of inference server: how to recognise it, and which reads show its state and cost it nothing. It also
knows how to ask it for a measured answer, and what its stream says. Dialects hold no state and never touch the network
themselves.
"""

import json
import re
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, Protocol

from exporter.probe.client import Reply, Request
from exporter.probe.dialects.keep_alive import KeepAlive
from exporter.probe.failure import ProbeFailure, refuse
from exporter.probe.newcomers import ReadConnected, unseen
from exporter.probe.result import Identity
from exporter.probe.slots import SlotReading
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta
from exporter.probe.users import Served

WHY_NOT: Final = "why-not"


class Get(Protocol):
    """A read of a path, made once for each path and status check; ``body`` makes it a POST (Ollama's ``/api/show``).

    Raises ProbeFailure if nothing answers at that address. A reply of status 0 says that this one path brought no usable
    answer, and its header ``WHY_NOT`` why.
    """

    def __call__(self, path: str, body: bytes | None = None, /) -> Reply:
        """The reply, whatever its status."""


MOST_TOKENS: Final = 10**9
MOST_VALUES: Final = 100_000
MOST_LISTED: Final = 4096
KEY_WANTED: Final = "the server requires an API key (api_key_file)"
_ERROR_BYTES: Final = 64 * 1024
_LARGE_BYTES: Final = 64 * 1024
_large: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What one round of reads that cost nothing says of a server that is up; None if this kind of server can't tell.

    ``model`` is what a probe would ask for; empty ``choices`` where that is settled, else the models among which nothing
    decides. ``notice`` is something that a person who reads the log of a probe should know.
    """

    identity: Identity
    loading: bool = False
    model: str | None = None
    choices: tuple[str, ...] = ()
    resident: bool | None = None
    resident_asked_at: float | None = None
    """Unix time at which the server was asked for that, if the answer costs it something."""
    running: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None
    generated_tokens: float | None = None
    """The server's own counter."""
    counts_at_end: bool = False
    """Whether that counter gets the tokens of a request only when it has ended."""
    sums: Served | None = None
    """The sums of its histograms, which show what users get."""
    ended: Served | None = None
    """The sums of the answers that have ended, if it counts no others and not when their first tokens came."""
    slot_readings: tuple[SlotReading, ...] | None = None
    """What llama-server's slots hold, if each status check may read them."""
    progress: tuple[float | SlotReading, ...] | None = None
    """What it counts of its work: the same at two status checks means that it has done nothing in between."""
    served: bool | None = None
    """Whether it has answered a request since its start."""
    started: str | None = None
    """Any text that is another one after a restart."""
    activity: str | None = None
    """Any text that is another one after a request, ours or somebody else's."""
    activity_is_free: bool = False
    """Whether reading it is no use of the model by itself."""
    queue: tuple[float, float] | None = None
    """The server's own count of requests that left its queue, and the seconds that they waited in it."""
    keep_alive: KeepAlive | None = None
    context_length: int | None = None
    """What the model in memory was loaded with."""
    digest: str | None = None
    """What the model's files hash to: two names with one digest are one model."""
    training_context: int | None = None
    """The longest context that the model was trained for."""
    slots: int | None = None
    """How many requests it answers at once."""
    slot: int | None = None
    """The slot that a probe takes, so that it leaves the prompt caches of the others alone."""
    slot_task: int | None = None
    """The server's number of the newest request on that slot."""
    own_task: int | None = None
    """The server's number of our last request on that slot."""
    conversation: bool = False
    """Whether a probe would replace the prompt cache of somebody's conversation."""
    uses: Mapping[str, str] = field(default_factory=dict)
    """``activity`` of each model in a router's memory."""
    recent: str | None = None
    """The model in memory whose use by us changes least in that order, as the one that was used last; None if that was not seen."""
    read_is_use: bool = False
    """Whether what runs was read in a way that counts as a use of the model: regular status checks leave that out."""
    unloads: bool | None = False
    """Whether the server unloads or evicts models that nobody uses, by itself."""
    drafts: bool = False
    """Whether the server says that it drafts tokens (speculative decoding)."""
    unable: str = ""
    """Why the model generates no text; empty if it may."""
    missing: str = ""
    """What is wrong with the configured name, if the server has no such model."""
    would_reload: str = ""
    """Why a probe could make the server load its model again; empty if it can't."""
    key_refused: bool = False
    router: bool = False
    metrics_wanted: bool = False
    """Whether ``/metrics`` may be read to learn who waits, though that resets what the user's own Prometheus reads there."""
    crowded: bool = False
    """Whether several models are in memory, of which the server evicts one for another by how they were used."""
    notice: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known of a server from elsewhere: its launch settings, its configuration.

    ``sleeps`` says whether llama-server was started with a sleep timer, ``prompt_cache`` whether it keeps replaced prompts in
    the host's memory; ``server_metrics`` whether the user wants ``/metrics`` of llama-server read, which resets its rates.
    ``options`` are the runner options of Ollama's other clients. ``connected`` reads who is connected to it.
    """

    sleeps: bool | None = None
    prompt_cache: bool | None = None
    server_metrics: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    connected: ReadConnected = unseen


@dataclass(frozen=True, slots=True)
class StatusQuery:
    """What a status check goes by: how to read, the configured model, the status before (what can't have changed is not read
    again). ``thorough`` says that a request follows: reads that count as a use of the server are then no harm. ``now`` is
    Unix time.
    """

    get: Get
    wanted: str | None = None
    last: ServerStatus | None = None
    thorough: bool = False
    now: float = 0.0
    hints: Hints = Hints()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request to make: what it sends, and which fields the server is known not to take."""

    model: str | None
    prompt: str
    max_tokens: int
    salt: str
    status: ServerStatus
    may_load: bool = False
    rejected: frozenset[str] = field(default_factory=frozenset)
    keep_alive_seconds: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The module's own fields of the body."""
    completion: bool = False
    """Whether it is a plain completion, for a base model without a chat template."""


class Dialect(Protocol):
    """One kind of inference server."""

    @property
    def name(self) -> str:
        """The ``backend`` of configuration and metrics."""

    @property
    def optional(self) -> frozenset[str]:
        """The fields of its requests that a server may refuse and a probe can do without."""

    def recognise(self, get: Get) -> bool:
        """True if the answers to harmless reads are those of this kind of server."""

    def status(self, query: StatusQuery) -> ServerStatus:
        """The server's state by reads that cost it nothing. Raises ProbeFailure if it is not up or is loading."""

    def others(self, get: Get, status: ServerStatus, ours: int) -> float | None:  # noqa: ARG002 - most servers can't tell
        """Requests of others that run or wait while ``ours`` run, by a read that costs nothing then; None if no such read shows it."""
        return None

    def give_back(self, status: ServerStatus) -> tuple[str, bytes] | None:  # noqa: ARG002 - most servers owe nobody anything
        """Path and body of the request that undoes what probes did to the time that the model stays; None if nothing is owed."""
        return None

    def request(self, chat: ChatRequest) -> Request:
        """A streaming request for exactly that many tokens, counted by the server, past its prompt cache, if it can."""

    def read(self, event: Event) -> Delta:
        """What one event of its stream says. Raises ValueError if it is not of this API."""


def json_of(reply: Reply) -> Any:
    """The JSON of a reply of status 200, else None."""
    if reply.status != 200:
        return None
    try:
        return _json(reply.body)
    except ValueError:
        return None


def object_of(data: bytes) -> dict[str, Any]:
    """The JSON object that an event holds. Raises ValueError if it holds none."""
    value = _json(data)
    if not isinstance(value, dict):
        raise ValueError("an event is not a JSON object")  # noqa: TRY004 - what comes from outside is a value
    return value


def _json(data: bytes) -> Any:
    """JSON of no more values than a server can mean: each costs some 70 bytes here, and 3 there. Raises ValueError."""
    if len(data) > MOST_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")
    try:
        return json.loads(data)
    except UnicodeDecodeError:  # a character that was cut in two
        return json.loads(data.decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def listed(value: Any, key: str) -> list[dict[str, Any]]:
    """The objects in a list that is a member of an object; empty for anything else."""
    entries = value.get(key) if isinstance(value, Mapping) else None
    return [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []


def entries_of(reply: Reply, key: str) -> list[dict[str, Any]]:
    """The objects of a list in a reply of status 200, the first ``MOST_LISTED``; empty for anything else.

    Large replies are read one after the other: each is many times as large in memory, and what many hold at once is seldom
    given back. It takes no longer, since the interpreter does one at a time anyway.
    """
    with _large if len(reply.body) > _LARGE_BYTES else nullcontext():
        return listed(json_of(reply), key)[:MOST_LISTED]


def member(value: Any, *path: str) -> Any:
    """What lies at a path of keys in nested objects, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def text_of(value: Any) -> str | None:
    """A text that is one and is not empty, else None."""
    return value if isinstance(value, str) and value else None


def short_name(model: str | None) -> str | None:
    """A model's name as it is shown.

    A server that was started from a folder names a model by a path, which is long and names users' folders. Then the short name
    is the file's or folder's name, or in a Hugging Face cache the repository's. The revision that ``transformers serve`` adds
    is left out if it is ``main``, which every model has.
    """
    model = (model or "").removesuffix("@main") or None
    if model is None or not (model.startswith(("/", "./", "../", "~")) or "\\" in model):
        return model
    parts = PurePosixPath(model.replace("\\", "/")).parts
    repository = next((part for part in parts if part.startswith("models--")), None)
    return repository.removeprefix("models--").replace("--", "/") if repository else parts[-1]


def count_of(value: Any) -> int | None:
    """A number of things: a whole number from 0 to a sane bound, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value)


def size_of(value: Any) -> int | None:
    """A positive whole number without that bound (bytes, parameters), else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63 else None


def number_of(value: Any) -> float | None:
    """A finite number above 0, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return None
    return float(value)


def rejected_fields(status: int, body: bytes, optional: frozenset[str]) -> frozenset[str]:
    """Which of the optional fields an answer of status 400 or 422 complains about; all of them if it names none."""
    if status not in {400, 422}:
        return frozenset()
    words = set(re.findall(r"\w+", body.decode("utf-8", "replace")))
    return frozenset(optional & words) or optional


def without_ours(running: float | None, waiting: float | None, ours: int) -> float | None:
    """How many requests of others run or wait, of all that a server counts; None if it does not say."""
    return None if running is None else max(running + (waiting or 0) - ours, 0.0)


def unusable(path: str, reply: Reply) -> ProbeFailure:
    """What it means that a server does not answer its own health check as it should."""
    if reply.status == 0:
        why = reply.headers.get(WHY_NOT)
        return ProbeFailure("protocol", f"GET {path} brought nothing usable" + (f": {why}" if why else ""))
    return refuse(reply.status, reply.headers, reply.body[:_ERROR_BYTES], f"GET {path}")


def wants_key(backend: str, wanted: str | None) -> ServerStatus:
    """The status of a server that refuses the key, or the lack of one: it gets no chat until that changes."""
    return ServerStatus(Identity(backend, model=wanted), model=wanted, error=KEY_WANTED, key_refused=True)


def refused_without_key(reply: Reply) -> bool:
    """True for the answers of a server that wants an API key, or another one."""
    return reply.status in {401, 403}
