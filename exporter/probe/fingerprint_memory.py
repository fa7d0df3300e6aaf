"""What is known of the first tokens of a target's models, and when the next reading is due."""

import json
import math
import threading
from array import array
from collections.abc import Iterator, Mapping
from typing import Final

from exporter.probe.fingerprint import State, numbers_of, state_of
from exporter.probe.result import Identity

EVERY_SECONDS: Final = 3600.0
MODELS: Final = 8

_Name = tuple[str, str | None, str | None, str | None]


class Fingerprints:
    """One state for each identity that a server says it has, the last ``MODELS``. Thread-safe.

    Another name, version or quantization is another identity, which is learned again: a change of name needs no fingerprint.
    ``kept`` is what ``packed`` gave before a restart.
    """

    def __init__(self, kept: Mapping[str, bytes] | None = None) -> None:
        self._states: dict[_Name, State] = dict(_unpacked(kept or {}))
        self._not_before = -math.inf
        self._without: set[_Name] = set()
        self._lock = threading.Lock()

    def due(self, identity: Identity, now: float) -> bool:
        """Whether a reading is due (monotonic seconds): hourly, and at each chance while the model is being learned."""
        with self._lock:
            name = _name_of(identity)
            return name not in self._without and (now >= self._not_before or name not in self._states)

    def soon(self) -> None:
        """Let the next canary take a reading: something has changed that may have changed the answers too."""
        with self._lock:
            self._not_before = -math.inf
            self._without.clear()

    def state(self, identity: Identity) -> State:
        """What is known of a model; an empty state of one that was never read."""
        with self._lock:
            return self._states.get(_name_of(identity), State())

    def keep(self, identity: Identity, state: State, now: float, *, learning: bool) -> None:
        """Keep what is known after a reading."""
        with self._lock:
            name = _name_of(identity)
            self._states.pop(name, None)
            self._states[name] = state
            for oldest in list(self._states)[:-MODELS]:
                del self._states[oldest]
            self._not_before = -math.inf if learning else now + EVERY_SECONDS

    def packed(self) -> dict[str, bytes]:
        """All states, for a history to keep."""
        with self._lock:
            states = dict(self._states)
        return {json.dumps(name): array("d", numbers_of(state)).tobytes() for name, state in states.items()}

    def give_up(self, identity: Identity) -> None:
        """Note that this server gives no log-probabilities; it isn't asked again until something changes."""
        with self._lock:
            self._without.add(_name_of(identity))


def _unpacked(kept: Mapping[str, bytes]) -> Iterator[tuple[_Name, State]]:
    """What can be read of it; a state that can't is learned again."""
    for text, packed in kept.items():
        try:
            backend, version, model, quantization = json.loads(text)
            numbers = array("d", packed)
        except (ValueError, TypeError):
            continue
        yield (str(backend), version, model, quantization), state_of(numbers)


def _name_of(identity: Identity) -> _Name:
    return identity.backend, identity.backend_version, identity.model, identity.quantization
