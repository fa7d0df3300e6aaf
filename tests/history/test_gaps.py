"""The gaps of one probe are kept in order, in little memory."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history.gaps import MOST_GAPS, gaps_of
from exporter.history.record import Plan, Record, fold
from tests.scenes import probe

GAPS = st.lists(st.tuples(st.floats(0, 1000), st.integers(1, 1000)), max_size=1000)


def test_gaps_come_out_as_they_went_in() -> None:
    """Seconds and tokens of each, in order."""
    assert list(gaps_of([(0.25, 1), (0.5, 3)])) == [(0.25, 1), (0.5, 3)]
    assert len(gaps_of([])) == 0


def test_what_cannot_have_been_measured_is_left_out() -> None:
    """No NaN, no infinity, nothing negative, and no gap of no token."""
    assert list(gaps_of([(math.nan, 1), (math.inf, 1), (-1.0, 1), (0.5, 0), (0.5, 2)])) == [(0.5, 2)]


@given(GAPS)
def test_however_many_gaps_the_longest_and_all_tokens_stay(gaps: list[tuple[float, int]]) -> None:
    """Neighbours are one where there are too many; the longest gap and the number of tokens are kept."""
    kept = list(gaps_of(gaps))
    assert len(kept) <= MOST_GAPS
    assert sum(tokens for _, tokens in kept) == sum(tokens for _, tokens in gaps)
    longest = max((seconds for seconds, _ in gaps), default=0.0)
    assert math.isclose(max((seconds for seconds, _ in kept), default=0.0), longest, rel_tol=1e-6, abs_tol=1e-30)


def test_a_record_keeps_the_gaps_of_its_last_probe_alone() -> None:
    """A skipped probe leaves them, a failed one takes them away."""
    record = fold(Record("a", "default", Plan(60), 60), probe("a", 9, speed=20.0))
    assert len(record.gaps) == 63
    assert max(record.gaps)[0] == pytest.approx(2 / 20)
    assert fold(record, probe("a", 5, "skipped_busy")).gaps == record.gaps
    assert len(fold(record, probe("a", 5, "connect")).gaps) == 0
