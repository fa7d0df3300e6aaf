"""The two things that `compare` is given: servers, which are measured, saved reports, or times of the past."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from exporter.cli.measuring import measure
from exporter.cli.printing import fail
from exporter.comparison import ComparisonSide, side_of, side_of_history
from exporter.history.compare import Side, shape_fact, side_at, split_target_at
from exporter.history.store import HistoryError
from exporter.ledger_access import AccessError, FileAccess
from exporter.oneshot import Session
from exporter.report import Report
from exporter.settings import prompt_url
from exporter.watched_facts import shape_of


def sides_of(
    session: Session, baseline: str, candidate: str, count: int
) -> tuple[ComparisonSide, ComparisonSide, list[Report]]:
    """Both sides, and the reports of those that were measured or saved. Two servers are probed in turns.

    Ends the command if one has nothing to compare.
    """
    names = (baseline, candidate)
    past = {name: _past_side(session, name) for name in names if _is_past(name)}
    reports = _reports_of(session, [name for name in names if name not in past], count)
    following = iter(reports)
    first, second = (_side(session, name, past[name] if name in past else next(following)) for name in names)
    return first, second, reports


def _side(session: Session, name: str, found: Side | Report) -> ComparisonSide:
    """One side; of what was measured now it is known what was sent, too."""
    bounds = session.profiles.tiers
    try:
        if isinstance(found, Side):
            return side_of_history(found, bounds)
        side = side_of(name, found, bounds)
    except ValueError as exc:
        fail(f"{name}: {exc}")
    if Path(name).exists():
        return side
    return replace(side, facts={**side.facts, shape_fact(session.name): shape_of(session.module)})


def _is_past(name: str) -> bool:
    """Whether a name is TARGET@TIME, and no file."""
    return split_target_at(name) is not None and not Path(name).exists()


def _past_side(session: Session, name: str) -> Side:
    """What the history has of TARGET@TIME."""
    # The default is not asked for: a target may have no such module.
    asked = None if session.name == "default" else session.name
    try:
        reader = FileAccess(session.settings.history, os.environ).reader
        return side_at(reader, name, time.time(), module=asked)
    except (AccessError, HistoryError, ValueError) as exc:
        fail(f"{name}: {exc}")


def _reports_of(session: Session, names: Sequence[str], count: int) -> list[Report]:
    """A report of each name: read from a file, or measured, in turns if both are URLs or names of targets."""
    probed = [_is_url(name) or (session.is_named(name) and not Path(name).exists()) for name in names]
    targets = [session.target(name) for name, wanted in zip(names, probed, strict=True) if wanted]
    saved = [None if wanted else _read_report(Path(name)) for name, wanted in zip(names, probed, strict=True)]
    measured = iter(measure(session, targets, count) if targets else [])
    return [next(measured) if summary is None else summary for summary in saved]


def _is_url(name: str) -> bool:
    """Whether a name is the address of a server rather than a file: by its scheme, else by its form if no such file is."""
    return "://" in name or ("://" in prompt_url(name) and not Path(name).exists())


def _read_report(path: Path) -> Report:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise click.BadParameter(f"{path} is neither a URL (http://…) nor a file") from None
    except OSError as exc:
        raise click.BadParameter(f"{path} can't be read: {exc.strerror}") from None
    except (ValueError, RecursionError) as exc:
        raise click.BadParameter(f"{path} is not a file saved from `probe --json`: {exc}") from None
    if not isinstance(summary, Mapping) or "tokens_per_second" not in summary:
        raise click.BadParameter(f"{path} is not a file saved from `probe --json`: it has no tokens_per_second")
    return summary
