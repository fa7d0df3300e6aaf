"""A daemon from its command to its end: signals, libraries, log, exit."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from exporter import lean
from exporter.cli.log_lines import log_to_stderr
from exporter.cli.printing import fail, wrong_settings

if TYPE_CHECKING:
    from exporter.settings import Settings


def run_daemon(load: Callable[[], "Settings"], listen: str | None, log_level: str) -> None:
    """Run the daemon until a signal ends it, and then the process."""
    # Until `run` takes the signals over: one that comes during the start must not kill what was started.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Not an exception: raised while the interpreter is in a finalizer, it would be lost. A start takes less than a second.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # What the start makes stays: to look through it for garbage again and again takes a tenth of the start.
    gc.disable()
    lean.import_libraries()
    from exporter.daemon import Daemon
    from exporter.settings import split_listen
    from exporter.web.server import ListenError

    if listen is not None:
        try:
            split_listen(listen)
        except ValueError as exc:
            raise click.BadParameter(f"it {exc}", param_hint="'--listen'") from None
    log_to_stderr(log_level)
    with wrong_settings():
        daemon = Daemon(load, listen_on=listen, stop=stop)
    try:
        daemon.start()
        daemon.run()
    except ListenError as exc:
        fail(str(exc))
    finally:
        daemon.drain()
    # A normal exit waits for every thread, also for one that hangs in the read of a dead filesystem.
    sys.stderr.flush()
    os._exit(0)
