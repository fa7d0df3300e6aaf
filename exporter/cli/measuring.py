"""Probes at a prompt: a progress bar while they run, and Ctrl-C, which ends them early and keeps what was measured."""

import signal
import sys
from collections.abc import Sequence
from typing import Final

from exporter.cli.printing import probes_progress, say
from exporter.oneshot import Session
from exporter.report import Report
from exporter.settings import Target
from exporter.text import count_text

INTERRUPTED: Final = 130


def measure(session: Session, targets: Sequence[Target], count: int) -> list[Report]:
    """A report of each target. Ctrl-C closes the running probe's connection, so that the server stops at once."""
    before = signal.signal(signal.SIGINT, lambda *_: session.cancellation.cancel())
    try:
        with probes_progress(count * len(targets)) as step:
            return session.measure(targets, count, step)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, before)


def exit_if_interrupted(session: Session, summaries: Sequence[Report], count: int) -> None:
    """After Ctrl-C say how much of it was measured, and exit as after any Ctrl-C."""
    if session.cancellation.cancelled:
        done = min(len(summary.get("runs") or [summary]) for summary in summaries)
        say(f"interrupted: this is what {done} of {count_text(count, 'probe')} measured")
        sys.exit(INTERRUPTED)
