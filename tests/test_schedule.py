"""The schedule: a fixed grid, one run at a time, and jobs that come and go."""

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from exporter.schedule import Job, Schedule, phase_of
from tests.waiting import eventually


@pytest.fixture
def schedule() -> Iterator[Schedule]:
    """A started schedule that is stopped afterwards."""
    running = Schedule()
    running.start()
    yield running
    running.stop()


def test_phases_are_fixed_and_differ() -> None:
    """A name has the same phase in every run, and a thousand names lie all over the interval."""
    phases = [phase_of(f"probe:target-{number}:default") for number in range(1000)]
    assert phases == [phase_of(f"probe:target-{number}:default") for number in range(1000)]
    tenths = [sum(1 for phase in phases if number <= phase * 10 < number + 1) for number in range(10)]
    assert min(tenths) > 60


def test_a_job_runs_again_and_again_on_its_grid(schedule: Schedule) -> None:
    """The runs keep the grid of the first: their distances don't add up."""
    starts: list[float] = []
    schedule.replace([Job("a", 1.0, lambda: starts.append(time.monotonic()), at_once=True)])
    eventually(lambda: len(starts) >= 3, "three runs")
    assert schedule.delay_seconds is not None


def test_a_job_never_runs_twice_at_once_and_holds_no_other_up(schedule: Schedule) -> None:
    """While one job hangs, it isn't started again, and its neighbour goes on."""
    hanging, release = threading.Event(), threading.Event()
    entered: list[int] = []
    ticks: list[int] = []

    def hang() -> None:
        entered.append(1)
        hanging.set()
        release.wait(20)

    schedule.replace([Job("hangs", 1.0, hang, at_once=True), Job("ticks", 1.0, lambda: ticks.append(1), at_once=True)])
    assert hanging.wait(10)
    eventually(lambda: len(ticks) >= 3, "three ticks beside a job that hangs")
    assert len(entered) == 1
    release.set()


def test_without_a_thread_a_run_is_left_out_and_the_next_one_comes(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on processes costs a run, with a line in the log that says so, and nothing else."""
    ran: list[int] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == "a" and not caplog.records:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    schedule.replace([Job("a", 0.2, lambda: ran.append(1), at_once=True)])
    eventually(lambda: len(ran) >= 2, "two runs")
    (record,) = caplog.records
    assert record.getMessage() == (
        "a was not started this time: can't start new thread (check the limit on processes and threads)"
    )


def test_a_thread_ends_with_its_run(schedule: Schedule) -> None:
    """A hundred jobs at once need a hundred threads, and none of them afterwards."""
    together, met = threading.Barrier(100), list[str]()

    def meet() -> None:
        together.wait(10)
        met.append(threading.current_thread().name)

    schedule.replace(Job(f"job-{number}", 60.0, meet, at_once=True) for number in range(100))
    eventually(lambda: len(set(met)) == 100, "100 jobs at once")
    eventually(lambda: not set(met) & {thread.name for thread in threading.enumerate()}, "the end of their threads")


def test_a_job_may_begin_later(schedule: Schedule) -> None:
    """A job with ``after`` has its first run so many seconds after one without."""
    times: dict[str, float] = {}

    def note(name: str) -> None:
        times.setdefault(name, time.monotonic())

    schedule.replace(
        [
            Job("now", 60.0, partial(note, "now"), at_once=True),
            Job("later", 60.0, partial(note, "later"), at_once=True, after=1.0),
        ]
    )
    eventually(lambda: len(times) == 2, "both runs")
    assert times["later"] - times["now"] > 0.8


def test_replace_ends_what_is_missing_and_keeps_what_stays(schedule: Schedule) -> None:
    """A job that is no longer wanted stops; one that stays gets its new function without a new phase."""
    seen: list[str] = []
    schedule.replace(
        [
            Job("stays", 1.0, lambda: seen.append("old"), at_once=True),
            Job("leaves", 1.0, lambda: seen.append("left"), at_once=True),
        ]
    )
    eventually(lambda: {"old", "left"} <= set(seen), "a run of both")
    schedule.replace([Job("stays", 1.0, lambda: seen.append("new"))])
    seen.clear()
    eventually(lambda: seen.count("new") >= 2, "two runs of the new job")
    assert "left" not in seen


def test_jobs_that_come_and_go_leave_nothing_behind(schedule: Schedule) -> None:
    """Names that never come back, as those of containers, are forgotten with their jobs."""
    for number in range(50):
        schedule.replace([Job("stays", 60.0, lambda: None), Job(f"passes-{number}", 60.0, lambda: None)])
    assert set(schedule._first) == {"beat", "stays", "passes-49"}


def test_a_job_that_is_to_run_at_once_does(schedule: Schedule) -> None:
    """However soon the scheduler takes it up, the first run of a rare job isn't lost."""
    runs: list[int] = []
    for number in range(100):
        schedule.replace([Job(f"rare-{number}", 3600.0, lambda: runs.append(1), at_once=True)])
        eventually(lambda: len(runs) > number, "the first run of a rare job")  # noqa: B023 - used at once


def test_two_jobs_of_one_name_are_refused(schedule: Schedule) -> None:
    """A double name would silently lose a job, so it is an error that names it."""
    with pytest.raises(ValueError, match="two jobs are named 'a'"):
        schedule.replace([Job("a", 1.0, lambda: None), Job("a", 2.0, lambda: None)])


def test_run_soon_runs_a_job_before_its_time(schedule: Schedule) -> None:
    """A job of a long interval runs when asked for, and an unknown one is told."""
    ran = threading.Event()
    schedule.replace([Job("rare", 3600.0, ran.set)])
    ran.clear()
    assert schedule.run_soon("rare")
    assert ran.wait(10)
    assert not schedule.run_soon("nobody")


def test_run_soon_runs_a_running_job_once_more(schedule: Schedule) -> None:
    """What it should see may have come after it looked; however often it is asked for meanwhile, it runs once more."""
    runs: list[int] = []
    others: list[int] = []
    may_end = threading.Event()

    def run() -> None:
        runs.append(1)
        may_end.wait(10)

    schedule.replace([Job("rare", 3600.0, run, at_once=True), Job("often", 0.05, lambda: others.append(1))])
    eventually(lambda: runs, "the first run")
    assert schedule.run_soon("rare")
    assert schedule.run_soon("rare")
    assert len(runs) == 1
    may_end.set()
    eventually(lambda: len(runs) == 2, "the second run")
    seen = len(others)
    eventually(lambda: len(others) > seen + 5, "time for a third run")
    assert len(runs) == 2


def test_a_failing_job_is_logged_and_runs_again(schedule: Schedule, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a job ends that run, not the job."""
    runs: list[int] = []

    def fail() -> None:
        runs.append(1)
        raise RuntimeError("broken")

    schedule.replace([Job("fails", 1.0, fail, at_once=True)])
    eventually(lambda: len(runs) >= 2, "two runs of a job that fails")
    assert "job fails failed" in caplog.text


def test_a_step_of_the_clock_puts_the_jobs_on_the_new_time(
    schedule: Schedule, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After the wall clock moved, follow_clock says so once and the jobs go on."""
    ticks: list[int] = []
    schedule.replace([Job("ticks", 1.0, lambda: ticks.append(1), at_once=True)])
    eventually(lambda: bool(ticks), "a first tick")
    assert not schedule.follow_clock()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    assert schedule.follow_clock()
    assert not schedule.follow_clock()
    assert "the clock stepped by -3600 s" in caplog.text
    ticks.clear()
    eventually(lambda: bool(ticks), "a tick after the step")
    assert schedule.alive()


def test_a_schedule_that_doesnt_beat_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health follows the scheduler's own beat, on the monotonic clock."""
    beats: list[int] = []
    running = Schedule(on_beat=lambda: beats.append(1))
    running.start()
    try:
        eventually(lambda: bool(beats), "a beat")
        assert running.alive()
        later = time.monotonic() + 60
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert not running.alive()
    finally:
        monkeypatch.undo()
        running.stop()
