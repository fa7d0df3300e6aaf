"""The slots of a simulated llama-server: which request gets which, and which conversation lies in it.

Read in llama.cpp b11434, tools/server/server-context.cpp (get_available_slot, process_single_task), server-queue.cpp
(pop_deferred_task) and server-task.cpp (server_prompt_cache), and checked against a running b11434.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# A slot is chosen by its prompt where more than this part of the new prompt is its beginning (--slot-prompt-similarity).
SIMILARITY = 0.1
# Of a prompt of which less than this is kept, a copy goes to the host's memory first, where there is a cache.
KEPT = 0.5
# A prompt in the host's memory is taken only if at least this part of it is of use.
WORTH_LOADING = 0.25
POLL_SECONDS = 0.005


def common(one: list[str], other: list[str]) -> int:
    """How many tokens two prompts have in common at their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass(eq=False)
class Slot:
    """One slot, as ``/slots`` shows it, with the tokens of its prompt and answer so far."""

    number: int
    tokens: list[str] = field(default_factory=list)
    task: int | None = None
    busy: bool = False
    last_used: float = -1.0
    processed: int = 0
    cached: int = 0
    decoded: int = 0
    most: int = 0


@dataclass(eq=False)
class _Waiting:
    wants: int | None
    called: bool = False


class Slots:
    """The slots, the requests that wait for one, and the cache of prompts in the host's memory (``--cache-ram``).

    ``held`` requests of others are there without a connection: they take slots first, and the rest of them waits. ``lost`` are
    the conversations that were overwritten in a slot and are nowhere else.
    """

    def __init__(self, count: int, *, host_cache: bool) -> None:
        self.all = [Slot(number) for number in range(count)]
        self.host: list[list[str]] | None = [] if host_cache else None
        self.lost: list[list[str]] = []
        self.held = 0
        self._line: list[_Waiting] = []
        self._changed = threading.Condition()

    def is_busy(self, slot: Slot) -> bool:
        """Whether a request is processed in it."""
        return slot.busy or slot.number < self.held

    @property
    def running(self) -> int:
        """``requests_processing``."""
        return sum(self.is_busy(each) for each in self.all)

    @property
    def waiting(self) -> int:
        """``requests_deferred``."""
        return len(self._line) + max(self.held - len(self.all), 0)

    def take(self, tokens: list[str], wants: int | None, left: Callable[[], bool]) -> Slot | None:
        """The slot for a request, as soon as it has one; None where the client left before.

        A slot that becomes free goes to the first one that asked for just this slot (``id_slot``), even past those that came
        before it, else to the first one in line.
        """
        with self._changed:
            if not any(each.called for each in self._line) and (slot := self._choose(tokens, wants)):
                return self._begin(slot)
            me = _Waiting(wants)
            self._line.append(me)
            try:
                while True:
                    if me.called or (self._line[0] is me and not any(each.called for each in self._line)):
                        if slot := self._choose(tokens, wants):
                            return self._begin(slot)
                        if me.called:
                            # Called for a slot that it can't use: it goes to the end of the line.
                            me.called = False
                            self._line.append(self._line.pop(self._line.index(me)))
                    self._changed.wait(POLL_SECONDS)
                    if left():
                        return None
            finally:
                self._line.remove(me)
                self._changed.notify_all()

    def release(self, slot: Slot) -> None:
        """A request has ended or its client has left: its tokens stay in the slot."""
        with self._changed:
            slot.busy, slot.last_used = False, time.monotonic()
            slot.processed = slot.cached = slot.decoded = 0
            called = next((each for each in self._line if each.wants == slot.number), None)
            if called := called or next(iter(self._line), None):
                called.called = True
            self._changed.notify_all()

    def fill(self, slot: Slot, tokens: list[str], *, use_cache: bool) -> int:
        """Put a prompt into a slot; gives how many of its tokens are there already. The last one is always worked on again."""
        with self._changed:
            kept = common(slot.tokens, tokens)
            if len(slot.tokens) > 1 and kept < KEPT * len(slot.tokens) and not self._is_in_host(slot.tokens):
                self.lost.append(slot.tokens)
            slot.tokens = list(tokens)
            return min(kept, len(tokens) - 1) if use_cache else 0

    def _begin(self, slot: Slot) -> Slot:
        slot.busy = True
        if self.host is not None:
            # Idle slots are copied to the host's memory whenever a task begins (--cache-idle-slots).
            for each in self.all:
                if not self.is_busy(each):
                    self._save(each.tokens)
        return slot

    def _choose(self, tokens: list[str], wants: int | None) -> Slot | None:
        """By id, else the one with the most similar prompt, else the least recently used; of those never used the last."""
        wanted = None if wants is None else self.all[wants % len(self.all)]
        among = [each for each in self.all if not self.is_busy(each) and wanted in {None, each}]
        if not among:
            return None
        alike = {each: common(each.tokens, tokens) / len(tokens) for each in among if each.tokens}
        best = max(alike, key=lambda each: alike[each], default=None)
        if best is not None and alike[best] > SIMILARITY:
            chosen = best
            save = alike[best] * len(tokens) / len(chosen.tokens) < KEPT
        else:
            chosen = wanted or min(reversed(among), key=lambda each: each.last_used)
            save = True
        if save and self.host is not None:
            self._save(chosen.tokens)
            self._load(chosen, tokens)
        return chosen

    def _save(self, tokens: list[str]) -> None:
        if self.host is None or not tokens or self._is_in_host(tokens):
            return
        self.host = [each for each in self.host if common(each, tokens) < len(each)]
        self.host.append(list(tokens))

    def _is_in_host(self, tokens: list[str]) -> bool:
        return self.host is not None and any(common(each, tokens) == len(tokens) for each in self.host)

    def _load(self, slot: Slot, tokens: list[str]) -> None:
        best, kept = None, common(slot.tokens, tokens)
        keep, alike = kept / len(slot.tokens) if slot.tokens else -1.0, kept / len(tokens)
        for each in self.host or []:
            same = common(each, tokens)
            if same / len(each) >= WORTH_LOADING and same / len(each) > keep and same / len(tokens) > alike:
                best, keep, alike = each, same / len(each), same / len(tokens)
        if best is not None and self.host is not None:
            self.host.remove(best)
            slot.tokens = best
