"""What llama-server does for its users, by two readings of its slots. Pure.

``/slots`` names the newest request of each slot (``id_task``) and how many tokens of its answer there are by now (``n_decoded``),
so a long answer has a speed while it runs. The server's own counter moves only when a request ends. A slot that has become idle
keeps its request's number and the length of what lies in it: how long the answer became follows from that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MOST: Final = 10**9


@dataclass(frozen=True, slots=True)
class SlotReading:
    """One slot: its newest request, whether that runs, the tokens of its answer, of its prompt that are worked through, and of
    all that lies in the slot. ``held`` is None if the build doesn't say it.
    """

    number: int
    task: int | None = None
    running: bool = False
    decoded: int = 0
    processed: int = 0
    held: int | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """What users' requests generated between two readings.

    ``tokens`` of all of them, None if a request ran of which nothing was seen. ``followed`` are the tokens of those answers
    that ran at both readings, ``answers`` how many they are; ``ended`` says that an answer which ran at the first reading is over.
    """

    tokens: int | None
    followed: int = 0
    answers: int = 0
    ended: bool = False


def slot_readings(slots: Iterable[Mapping[str, Any]]) -> tuple[SlotReading, ...]:
    """The slots of an answer to ``/slots``; what is no number counts as not said."""
    return tuple(
        SlotReading(
            number,
            task if (task := _count(each.get("id_task"))) is not None else None,
            each.get("is_processing") is True,
            _decoded(each),
            _count(each.get("n_prompt_tokens_processed")) or 0,
            _count(each.get("n_prompt_tokens")),
        )
        for each in slots
        if (number := _count(each.get("id"))) is not None
    )


def running_tokens(slots: Iterable[SlotReading]) -> int:
    """Tokens of the answers that run: the server's counter has them when they end."""
    return sum(each.decoded for each in slots if each.running)


def growth(before: Sequence[SlotReading], after: Sequence[SlotReading]) -> Growth:
    """What was generated between two readings of one run of a server, none of it by a probe."""
    earlier = {each.number: each for each in before}
    tokens: int | None = 0
    followed = answers = 0
    ended = False
    for now in after:
        then = earlier.get(now.number) or SlotReading(now.number)
        more = _growth_of(then, now)
        tokens = None if tokens is None or more is None else tokens + more
        same = then.task == now.task
        ended = ended or (then.running and not (same and now.running))
        if same and then.running and now.running and then.decoded:
            followed, answers = followed + now.decoded - then.decoded, answers + 1
    return Growth(tokens, followed, answers, ended)


def _growth_of(then: SlotReading, now: SlotReading) -> int | None:
    """Tokens that one slot generated; None if that was not seen."""
    if then.task == now.task:
        if now.running:
            return max(now.decoded - then.decoded, 0)
        if not then.running:
            return 0
        if not then.decoded or then.held is None or now.held is None:
            return None  # all but the prompt was generated, and how long that is was not seen
        return max(now.held - then.held, 0)
    # What ran before in this slot ended unseen, or a whole request came and went.
    return now.decoded if now.running and not then.running else None


def _decoded(slot: Mapping[str, Any]) -> int:
    """``next_token`` is a list in builds from 2025 on, an object before."""
    token = slot.get("next_token")
    token = token[0] if isinstance(token, list) and token else token
    return (_count(token.get("n_decoded")) if isinstance(token, Mapping) else None) or 0


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < MOST else None
