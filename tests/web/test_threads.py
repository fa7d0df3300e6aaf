"""Blocking work beside an event loop."""

import asyncio
import threading

import pytest

from exporter.web import threads
from exporter.web.threads import in_thread


def test_a_result_comes_back_from_another_thread() -> None:
    """The function runs beside the loop, and the caller gets what it returns."""
    assert asyncio.run(in_thread(lambda left, right: (left + right, threading.current_thread().name), 2, 3)) == (
        5,
        "for a client",
    )


def test_an_exception_comes_back_as_it_is() -> None:
    """The caller sees what the function raised."""
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(lambda: 1 / 0))


def test_only_so_many_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for one to end, and all get their turn."""
    monkeypatch.setattr(threads, "MOST", 2)
    running, most, lock, both = 0, 0, threading.Lock(), threading.Barrier(2)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(10)  # two run together
        with lock:
            running -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(in_thread(work) for _ in range(6)))

    asyncio.run(all_of_them())
    assert (most, running) == (2, 0)


def test_a_caller_that_is_gone_leaves_its_turn_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled call runs to its end, then its thread counts no more."""
    monkeypatch.setattr(threads, "MOST", 1)
    go = threading.Event()

    async def cancelled_then_another() -> str:
        first = asyncio.create_task(in_thread(go.wait, 10))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        second = asyncio.create_task(in_thread(lambda: "its turn"))
        await asyncio.sleep(0)
        assert not second.done()
        go.set()
        return await second

    assert asyncio.run(cancelled_then_another()) == "its turn"


def test_without_a_thread_the_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says comes back, and no turn is lost by it."""
    monkeypatch.setattr(threads, "MOST", 1)

    async def refused_then_served() -> str:
        with monkeypatch.context() as patch:

            def refuse(_: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                await in_thread(lambda: "no")
        return await in_thread(lambda: "yes")

    assert asyncio.run(refused_then_served()) == "yes"
