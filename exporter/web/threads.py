"""Blocking work for a client, in a thread that begins and ends with it: a slow page or a probe holds up nobody else.

Starlette's own way does the same by anyio's workers, whose modules take 1 MB, and the threads stay for a while.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

P = ParamSpec("P")
T = TypeVar("T")

MOST: Final = 40
"""Threads at once in one event loop; further calls wait for one to end."""
_FREE: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = WeakKeyDictionary()


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function returns or raises. RuntimeError if the system gives no thread."""
    loop = asyncio.get_running_loop()
    free = _FREE.setdefault(loop, asyncio.Semaphore(MOST))
    done: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        free.release()
        if not done.cancelled():
            outcome()

    def run() -> None:
        outcome: Callable[[], None]
        try:
            outcome = partial(done.set_result, function(*args, **kwargs))
        except BaseException as exc:  # noqa: BLE001 - it is raised to the caller
            outcome = partial(done.set_exception, exc)
        with suppress(RuntimeError):  # the loop has ended, and with it the caller
            loop.call_soon_threadsafe(settle, outcome)

    await free.acquire()
    try:
        # A daemon thread: what still runs for a client must not hold up the end of the process.
        threading.Thread(target=run, name="for a client", daemon=True).start()
    except RuntimeError:
        free.release()
        raise
    return await done
