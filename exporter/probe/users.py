"""What users get from a server, by two readings of its own histograms: no probe is needed for it. Pure.

vLLM (and SGLang, under other names) sums up the seconds between tokens and the seconds to first tokens. Both sums move while an
answer runs, so the figures are those of answers that run now as well. What our own probes took is a part of the sums, and is
taken out by what the probes themselves measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from exporter.probe.exposition import MetricSample, total
from exporter.probe.timeline import Timeline

LEAST_TOKENS: Final = 8
"""This many tokens of users must lie between two readings for a speed."""
LEAST_SHARE: Final = 0.2
"""If less than this share of a sum is the users', what is left of it after ours is mostly the error of ours."""
LEAST_TTFT_SHARE: Final = 0.5
"""The same of the seconds to first tokens: those of our probes, as a client measures them, hold HTTP and the network too."""
_GAPS: Final = ("inter_token_latency_seconds_sum", "time_per_output_token_seconds_sum")
SUMS: Final = (*_GAPS, "time_to_first_token_seconds_", "generation_tokens_total")
"""What to read of an exposition, after the prefix of the server's names."""


@dataclass(frozen=True, slots=True)
class Served:
    """Sums since a server's start, or what ours are of them.

    They are requests that got a first token and the seconds until then, all tokens, and the seconds between tokens of one
    answer.
    """

    requests: float = 0.0
    first_token_seconds: float = 0.0
    tokens: float = 0.0
    gap_seconds: float = 0.0

    def __add__(self, other: "Served") -> "Served":
        return Served(
            self.requests + other.requests,
            self.first_token_seconds + other.first_token_seconds,
            self.tokens + other.tokens,
            self.gap_seconds + other.gap_seconds,
        )

    def __sub__(self, other: "Served") -> "Served":
        return Served(
            self.requests - other.requests,
            self.first_token_seconds - other.first_token_seconds,
            self.tokens - other.tokens,
            self.gap_seconds - other.gap_seconds,
        )


@dataclass(frozen=True, slots=True)
class UserFigures:
    """What one user got, in the mean over the answers between two readings; None if no user was served, or too little."""

    tokens_per_second: float | None = None
    ttft_seconds: float | None = None


def served_of(samples: tuple[MetricSample, ...], prefix: str = "vllm:") -> Served | None:
    """The sums that a server has by now; None if it has no such histograms (vLLM's ``--disable-log-stats``)."""
    requests = total(samples, f"{prefix}time_to_first_token_seconds_count")
    first = total(samples, f"{prefix}time_to_first_token_seconds_sum")
    tokens = total(samples, f"{prefix}generation_tokens_total")
    gaps = total(samples, *(prefix + name for name in _GAPS))
    if requests is None or first is None or tokens is None or gaps is None:
        return None
    return Served(requests, first, tokens, gaps)


def served_by_gaps(samples: tuple[MetricSample, ...], prefix: str = "sglang:") -> Served | None:
    """The same of a server whose histogram of time between tokens counts each token, while its counter of tokens moves only
    when an answer ends.
    """
    requests = total(samples, f"{prefix}time_to_first_token_seconds_count")
    first = total(samples, f"{prefix}time_to_first_token_seconds_sum")
    following = total(samples, f"{prefix}inter_token_latency_seconds_count")
    gaps = total(samples, f"{prefix}inter_token_latency_seconds_sum")
    if requests is None or first is None or following is None or gaps is None:
        return None
    return Served(requests, first, requests + following, gaps)


def ended_of(samples: tuple[MetricSample, ...], prefix: str = "llamacpp:") -> Served | None:
    """The sums of a server whose counters get an answer when it ends: tokens, and the seconds from the first to the last of each.

    How many answers they are, and when their first tokens came, it doesn't count.
    """
    tokens = total(samples, f"{prefix}tokens_predicted_total")
    seconds = total(samples, f"{prefix}tokens_predicted_seconds_total")
    return None if tokens is None or seconds is None else Served(tokens=tokens, gap_seconds=seconds)


def ours_of(timelines: Sequence[Timeline], output_tokens: Sequence[int]) -> Served:
    """What the streams of a probe added to a server's sums, with how many tokens each generated.

    A stream without a first token added nothing, as far as is known.
    """
    found = Served()
    for timeline, tokens in zip(timelines, output_tokens, strict=True):
        if timeline.sent_ns is not None and timeline.chunks:
            first, last = timeline.chunks[0].at_ns, timeline.chunks[-1].at_ns
            found += Served(1.0, (first - timeline.sent_ns) / 1e9, tokens, (last - first) / 1e9)
    return found


def users_between(before: Served, after: Served, ours: Served) -> UserFigures:
    """What users got between two readings of one run of a server, ``ours`` being what probes added between them.

    A reading taken while a probe runs belongs to neither side: readings are taken between probes.
    """
    whole = after - before
    theirs = whole - ours
    if min(whole.requests, whole.first_token_seconds, whole.tokens, whole.gap_seconds) < 0:
        return UserFigures()  # a counter fell: the server was started again
    following = theirs.tokens - theirs.requests
    speed = ttft = None
    if following >= LEAST_TOKENS and theirs.gap_seconds > LEAST_SHARE * whole.gap_seconds > 0:
        speed = following / theirs.gap_seconds
    if theirs.requests >= 1 and theirs.first_token_seconds > LEAST_TTFT_SHARE * whole.first_token_seconds > 0:
        ttft = theirs.first_token_seconds / theirs.requests
    return UserFigures(speed, ttft)


def speed_of_ended(before: Served, after: Served, ours: Served) -> float | None:
    """Decode speed of the users' answers that ended between two readings of one run of a server; None if too little did.

    The first token of an answer takes no time that is counted, and how many answers there were isn't known. They are taken for
    one, so many very short ones look a little faster than they are.
    """
    whole = after - before
    tokens, seconds = whole.tokens - ours.tokens, whole.gap_seconds - ours.gap_seconds
    if tokens - 1 < LEAST_TOKENS or not seconds > LEAST_SHARE * whole.gap_seconds > 0:
        return None
    return (tokens - 1) / seconds
