"""What users get by a server's histograms: recorded ones, and a replay of requests whose speeds are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.probe.exposition import parse
from exporter.probe.timeline import Chunk, Timeline
from exporter.probe.users import (
    SUMS,
    Served,
    UserFigures,
    ended_of,
    ours_of,
    served_of,
    speed_of_ended,
    users_between,
)
from tests.servers.captured import load

NOTHING = Served()


def recorded(name: str) -> Served:
    """The sums of a recorded exposition of vLLM."""
    found = served_of(parse(load(f"vllm/{name}").body.decode(), *(f"vllm:{name}" for name in SUMS)))
    assert found is not None
    return found


def answer(tokens: int, speed: float, ttft: float) -> Served:
    """What one answer adds to a server's sums."""
    return Served(1, ttft, tokens, (tokens - 1) / speed)


def test_recorded_histograms_give_what_their_requests_got() -> None:
    """12 requests and 169 tokens of a real vLLM: 157 tokens after the first in 1.21 s, first tokens after 67 ms."""
    found = users_between(recorded("get-metrics-before"), recorded("get-metrics-after"), NOTHING)
    assert found.tokens_per_second == pytest.approx(157 / 1.2093315840000969)
    assert found.ttft_seconds == pytest.approx(0.8008513450622559 / 12)


def test_a_server_without_histograms_says_nothing() -> None:
    """``--disable-log-stats`` leaves none."""
    assert served_of(parse("process_start_time_seconds 1.0\n")) is None


@given(
    users=st.lists(
        st.tuples(st.integers(20, 2000), st.floats(1.0, 500.0), st.floats(0.01, 20.0)), min_size=1, max_size=6
    ),
    probes=st.lists(st.tuples(st.integers(2, 64), st.floats(20.0, 500.0), st.floats(0.01, 0.5)), max_size=2),
    since=st.integers(0, 1000),
)
def test_users_are_told_from_probes(
    users: list[tuple[int, float, float]], probes: list[tuple[int, float, float]], since: int
) -> None:
    """Whatever probes ran beside them, the speed is the users' tokens over the users' time, and so is the TTFT."""
    before = Served(since, since * 0.3, since * 50, since * 2.0)
    theirs, ours = NOTHING, NOTHING
    for each in users:
        theirs += answer(*each)
    for each in probes:
        ours += answer(*each)
    found = users_between(before, before + theirs + ours, ours)
    if found.tokens_per_second is not None:
        assert found.tokens_per_second == pytest.approx(
            (theirs.tokens - theirs.requests) / theirs.gap_seconds, rel=1e-6
        )
    if found.ttft_seconds is not None:
        assert found.ttft_seconds == pytest.approx(theirs.first_token_seconds / theirs.requests, rel=1e-6)
    if not probes:
        assert None not in {found.tokens_per_second, found.ttft_seconds}


def test_a_long_answer_has_a_speed_while_it_runs() -> None:
    """Between two readings in its middle no request began: there is a speed, and no TTFT."""
    found = users_between(Served(5, 1.0, 1000, 50.0), Served(5, 1.0, 1300, 65.0), NOTHING)
    assert found == UserFigures(20.0, None)


def test_nobody_served_is_nothing_measured() -> None:
    """Where all that was served was ours, and ours is known within a few percent, no speed of users comes of the rest."""
    ours = answer(64, 40.0, 0.2)
    server = Served(1, 0.19, 64, ours.gap_seconds * 1.03)
    assert users_between(NOTHING, server, ours) == UserFigures()
    assert users_between(NOTHING, NOTHING, NOTHING) == UserFigures()


def test_a_ttft_that_is_mostly_ours_is_not_theirs() -> None:
    """A busy machine adds 50 ms to a probe's TTFT, which the server doesn't count: a user's would be half of what it was."""
    user, counted, ours = answer(100, 20.0, 0.1), answer(16, 20.0, 0.1), answer(16, 20.0, 0.15)
    assert users_between(NOTHING, user + counted, ours).ttft_seconds is None
    many = Served()
    for _ in range(10):
        many += user
    assert users_between(NOTHING, many + counted, ours).ttft_seconds == pytest.approx(0.1, rel=0.06)


def test_a_restart_between_two_readings_gives_nothing() -> None:
    """Sums that fell are those of another run."""
    assert users_between(answer(500, 20.0, 0.2), answer(100, 20.0, 0.2), NOTHING) == UserFigures()


def test_answers_that_have_ended_have_a_speed_by_the_counters_of_a_llama_server() -> None:
    """As recorded of b11434: tokens and the seconds of decoding; a probe between the readings is taken out."""
    body = load("llama-server/get-metrics-after").body.decode()
    now = ended_of(parse(body, "llamacpp:"))
    assert now == Served(tokens=173, gap_seconds=0.088756)
    theirs = Served(tokens=300, gap_seconds=299 / 25)
    ours = answer(64, 40.0, 0.2)
    counted = now + theirs + Served(tokens=ours.tokens, gap_seconds=ours.gap_seconds)
    assert speed_of_ended(now, counted, ours) == pytest.approx(25)
    assert speed_of_ended(now, now + Served(tokens=64, gap_seconds=ours.gap_seconds * 1.02), ours) is None
    assert speed_of_ended(now, now, NOTHING) is None
    assert ended_of(parse("llamacpp:tokens_predicted_total 5\n")) is None


def test_what_a_probe_took_is_what_it_measured() -> None:
    """Its first token, its tokens, and the time from the first to the last; a stream that failed before added nothing."""
    chunks = tuple(Chunk(1_200_000_000 + 50_000_000 * number, "answer", 5) for number in range(16))
    good = Timeline(0, sent_ns=1_000_000_000, chunks=chunks)
    found = ours_of([good, Timeline(0, sent_ns=1)], [16, 0])
    assert found == Served(1.0, pytest.approx(0.2), 16, pytest.approx(0.75))  # type: ignore[arg-type]  # approx compares
