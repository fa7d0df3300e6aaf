"""The command line: each command parses, calls one room, and prints. Exit codes: 0 fine, 1 not fine, 2 a wrong call.

Results go to stdout, everything else to stderr. A command imports what it needs when it runs, so that ``--help`` and
``healthcheck`` are quick.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from exporter import __version__
from exporter.backends import CONFIGURABLE
from exporter.text import count_text, escaped

if TYPE_CHECKING:
    from exporter.cache.verify import Blob, Checked
    from exporter.demo import SimulatedServers
    from exporter.history.compare import Side
    from exporter.ledger_access import DaemonAccess
    from exporter.oneshot import Session
    from exporter.report import ComparisonSide, Report
    from exporter.settings import Settings, Target, Thresholds

NAME: Final = "llm-probe-exporter"
DEFAULT_LISTEN: Final = "127.0.0.1:9937"
INTERRUPTED: Final = 130
HEALTH_SECONDS: Final = 5.0
STYLES: Final = {
    "excellent": "bold green",
    "good": "green",
    "minimum": "green",
    "acceptable": "yellow",
    "below the minimum": "yellow",
    "no change": "yellow",
    "poor": "bold red",
    "down": "bold red",
    "stuck": "bold red",
    "failing": "bold red",
    "wrong": "bold red",
    "right": "green",
    "slower": "bold red",
}
# The slowest simulated server takes ten seconds for a probe.
DEMO_SECONDS: Final = 15.0


class Commands(click.Group):
    """The commands. What can't be written because a disk is full is an error with a sentence, whichever command it was."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run a command, and write all that it printed before it ends."""
        try:
            try:
                return super().main(*args, **more)
            finally:
                sys.stdout.flush()
        except OSError as exc:
            if exc.errno not in _NOT_WRITTEN:
                raise
            # What is still in the buffer must not be tried again at the exit.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _fail(f"the output can't be written: {exc.strerror}")


_NOT_WRITTEN: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=NAME)
def main() -> None:
    """Measure LLM inference servers as a client would, and export what they do to Prometheus.

    `serve` is the daemon: without any configuration it finds the servers of this machine. `probe URL` measures one server
    now. `demo` shows everything on a machine that has none.
    """


CONFIG = click.option(
    "--config",
    "-c",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="LLM_PROBE_CONFIG",
    show_envvar=True,
    help="The configuration, a YAML file. Every key can also be given as LLM_PROBE_…, with __ between levels.",
)


LISTEN = click.option(
    "--listen",
    envvar="LLM_PROBE_LISTEN",  # here, too, since the demo reads no settings
    metavar="HOST:PORT",
    help=f"Where to answer scrapes, instead of the configuration's `listen`.  [default: {DEFAULT_LISTEN}]",
)
LOG_LEVEL = click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


# Daemons


@main.command()
@CONFIG
@LISTEN
@LOG_LEVEL
def serve(*, config: Path | None, listen: str | None, log_level: str) -> None:
    """Run the daemon.

    It watches the servers, answers scrapes at /metrics and shows a page at /.

    Without targets in a configuration it looks for inference servers on the usual ports of this machine and in Docker, says
    what it found, and goes on looking. SIGHUP reloads the configuration, SIGTERM ends it.
    """

    @functools.cache
    def loader() -> Callable[[], Settings]:
        from exporter import settings

        return settings.loader(config, os.environ)

    def load() -> Settings:
        return loader()()

    _run_daemon(load, listen, log_level)


@main.command()
@LISTEN
@LOG_LEVEL
def demo(*, listen: str | None, log_level: str) -> None:
    """Run the daemon on simulated servers.

    Metrics, page and dashboards live on any machine that way. Only simulated servers are probed.
    """
    from exporter.demo import SimulatedServers

    with SimulatedServers() as servers:
        _run_daemon(lambda: _demo_settings(servers), listen, log_level)


def _demo_settings(servers: SimulatedServers) -> Settings:
    """Probe the simulated servers often, and nothing else."""
    from exporter import settings

    targets = [
        # Nobody else uses these servers: their probes may take all of their time.
        settings.Target(name=each.name, url=url, scenario=each.scenario or "auto", budget=settings.Budget(share=1.0))
        for each, url in servers.urls
    ]
    return settings.Settings(
        targets=tuple(targets),
        modules={
            "default": settings.Module(interval=DEMO_SECONDS),
            "canary": settings.Module(interval=6 * DEMO_SECONDS, max_tokens=512, depth=2048),
        },
        discovery=settings.Discovery(local=False, docker=False),
        history=settings.HistoryFile(path="none"),
    )


def _run_daemon(load: Callable[[], Settings], listen: str | None, log_level: str) -> None:
    # Until `run` takes the signals over: one that comes during the start must not kill what was started.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Not an exception: raised while the interpreter is in a finalizer, it would be lost. A start takes less than a second.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from exporter import lean

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
    _log_to_stderr(log_level)
    with _wrong_settings():
        daemon = Daemon(load, listen_on=listen, stop=stop)
    try:
        daemon.start()
        daemon.run()
    except ListenError as exc:
        _fail(str(exc))
    finally:
        daemon.drain()
    # A normal exit waits for every thread, also for one that hangs in the read of a dead filesystem.
    sys.stderr.flush()
    os._exit(0)


_LINE_ENDS: Final = "\n"


class LogLine(logging.Formatter):
    """One line for each record: ``ts=2026-01-31T12:00:00.000Z level=info component=daemon msg="…"``, line breaks escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as pairs of key and value."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        message = escaped(json.dumps(text, ensure_ascii=False))
        component = record.name.removeprefix("exporter.")
        return f"ts={at} level={record.levelname.lower()} component={component} msg={message}"


class PersonLine(logging.Formatter):
    """A record as a person at a terminal reads it: ``12:00:00 warning targets: …``, coloured by its level."""

    COLORS: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line, control characters escaped; a traceback follows on lines of its own."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        text = escaped(record.getMessage())
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = f"{at} {record.name.removeprefix('exporter.')}: {level}{text}"
        if self._color and record.levelname in self.COLORS:
            line = click.style(line, fg=self.COLORS[record.levelname])
        return f"{line}\n{escaped(self.formatException(record.exc_info), keep=_LINE_ENDS)}" if record.exc_info else line


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    person = PersonLine(color="NO_COLOR" not in os.environ)
    handler.setFormatter(person if sys.stderr.isatty() else LogLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("exporter").setLevel(level.upper())


# One-shot probes

MODULE = click.option(
    "--module", "-m", default="default", show_default=True, help="What to send: a module of the configuration."
)


def _count(default: int) -> Callable[[Any], Any]:
    return click.option(
        "--count",
        "-n",
        type=click.IntRange(1, 1000),
        default=default,
        show_default=True,
        metavar="N",
        help="Probe so many times; the figures are medians, with their spread.",
    )


@main.command()
@click.argument("url")
@click.option(
    "--backend",
    "-b",
    metavar="BACKEND",
    help=f"What the server is, instead of finding out: {', '.join(CONFIGURABLE)}.",
)
@click.option("--model", help="The model to ask for.  [default: the one that is served or in memory]")
@_count(1)
@MODULE
@click.option("--api-key-file", metavar="FILE", help="A file that holds the server's API key.")
@click.option(
    "--min-tier",
    type=click.Choice(["excellent", "good", "acceptable"]),
    help="Exit with 1 where the speed is of a lower tier.",
)
@click.option("--load", "may_load", is_flag=True, help="Probe even where that makes the server load its model.")
@click.option("--markdown", is_flag=True, help="Print a table to paste into an issue: machine, software, model, speed.")
@CONFIG
@AS_JSON
def probe(
    *,
    url: str,
    backend: str | None,
    model: str | None,
    count: int,
    module: str,
    api_key_file: str | None,
    min_tier: str | None,
    may_load: bool,
    markdown: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Measure one server now.

    Shows speed, time to first token, phases, tokens, tier, and what the server is.

    URL is its address, like http://127.0.0.1:8000 or localhost:8000, or the name of a target of the configuration. Exits with 0 after
    a good measurement, 1 after a failed one or a tier below --min-tier, 2 for a wrong call. Ctrl-C ends --count early: what was
    measured before is shown.

    \b
    llm-probe-exporter probe http://127.0.0.1:8000
    llm-probe-exporter probe http://127.0.0.1:8000 --count 5 --json > before.json
    llm-probe-exporter probe http://127.0.0.1:8000 --count 5 --markdown
    """  # noqa: D301 - \b keeps click from filling lines
    from exporter import report
    from exporter.oneshot import Session
    from exporter.settings import risks_of_target

    if markdown and as_json:
        raise click.UsageError("--markdown and --json exclude each other")
    with _wrong_settings():
        session = Session(config, module, may_load=may_load)
        target = session.target(url, backend=backend, model=model, api_key_file=api_key_file)
        for risk in risks_of_target(session.settings, target):
            _say(f"warning: {risk}")
        summary = _measured(session, [target], count)[0]
    if as_json:
        _print_json(summary)
    elif markdown:
        _print_evidence(session, target, summary)
    else:
        _print_report(summary)
    _say_interrupted(session, [summary], count)
    if not summary["success"] or (min_tier and report.below(summary["tier"], min_tier)):
        if min_tier and summary["success"]:
            _say(f"the tier is {summary['tier'] or 'not known'}: below {min_tier}")
        sys.exit(1)


@main.command()
@click.argument("baseline")
@click.argument("candidate")
@_count(5)
@MODULE
@click.option("--anyway", is_flag=True, help="Compare although model or module differ.")
@CONFIG
@AS_JSON
def compare(
    *,
    baseline: str,
    candidate: str,
    count: int,
    module: str,
    anyway: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Compare a baseline with a candidate.

    Is it faster, and by enough? Each is the URL of a running server, a file saved from `probe --json`, or TARGET@TIME: what the
    daemon's history has of a target, such as vllm@2h, vllm@yesterday, vllm@2026-11-20T12:00. Two URLs are probed in turns. Facts
    that differ are named; another model or module is refused without --anyway. The verdict is by the success criteria of the profiles: reached by the speed or by the ratio. Exits with 0
    where one is reached, with 1 where none is, or where the difference is within the noise.

    \b
    llm-probe-exporter probe http://127.0.0.1:8000 --count 5 --json > before.json
    llm-probe-exporter compare before.json http://127.0.0.1:8000
    """  # noqa: D301 - \b keeps click from filling lines
    from exporter import report
    from exporter.oneshot import Session

    with _wrong_settings():
        session = Session(config, module)
        names = (baseline, candidate)
        past = {name: _side_at(session, name, module) for name in names if _is_past(name)}
        measured = _reports_of(session, tuple(name for name in names if name not in past), count)
    reports = iter(measured)
    bounds = session.profiles.tiers
    sides = []
    for name in names:
        try:
            side = past.get(name)
            sides.append(
                report.side_of_history(side, bounds) if side else _side_of(session, name, next(reports), bounds)
            )
        except ValueError as exc:
            _fail(f"{name}: {exc}")
    judged = report.compare(sides[0], sides[1], session.profiles.success_criteria)
    if judged.unequal and not anyway:
        for each in judged.unequal:
            _say(f"not compared: the {each.fact} differs: {each.before} and {each.after}")
        _say("add --anyway to compare them")
        sys.exit(2)
    if as_json:
        _print_json(report.comparison_json(judged))
    else:
        _print_rows(report.comparison_rows(judged))
        for note in judged.notes:
            _say(note)
    _say_interrupted(session, measured, count)
    sys.exit(0 if judged.verdict in report.REACHED else 1)


def _side_of(session: Session, name: str, summary: Report, bounds: Thresholds) -> ComparisonSide:
    """What was measured or saved; of what was measured now it is known what was sent, too."""
    from exporter import report
    from exporter.history.compare import shape_fact
    from exporter.watched_facts import shape_of

    side = report.side_of(name, summary, bounds)
    if Path(name).exists():
        return side
    return replace(side, facts={**side.facts, shape_fact(session.name): shape_of(session.module)})


def _is_past(name: str) -> bool:
    """Whether a name is TARGET@TIME, and no file."""
    from exporter.history.compare import split_target_at

    return split_target_at(name) is not None and not Path(name).exists()


def _side_at(session: Session, name: str, module: str) -> Side:
    """What the history has of TARGET@TIME."""
    from exporter.history.compare import side_at
    from exporter.history.store import HistoryError
    from exporter.ledger_access import AccessError, FileAccess

    # The default is not asked for: a target may have no such module.
    asked = None if module == "default" else module
    try:
        reader = FileAccess(session.settings.history, os.environ).reader
        return side_at(reader, name, time.time(), module=asked)
    except (AccessError, HistoryError, ValueError) as exc:
        _fail(f"{name}: {exc}")


def _say_interrupted(session: Session, summaries: Sequence[Report], count: int) -> None:
    """Say how much of it was measured before Ctrl-C, and exit as after any Ctrl-C."""
    if session.cancellation.cancelled:
        done = min(len(summary.get("runs") or [summary]) for summary in summaries)
        _say(f"interrupted: this is what {done} of {count_text(count, 'probe')} measured")
        sys.exit(INTERRUPTED)


def _print_evidence(session: Session, target: Target, summary: Report) -> None:
    from exporter.evidence import evidence_markdown
    from exporter.oneshot import findings_about

    findings, server = findings_about(session.settings, target.url)
    click.echo(evidence_markdown(summary, findings, server, __version__))


def _reports_of(session: Session, names: tuple[str, ...], count: int) -> list[Report]:
    """A report of each name: read from a file, or measured, in turns where both are URLs or names of targets."""
    probed = [_is_url(name) or (session.is_named(name) and not Path(name).exists()) for name in names]
    targets = [session.target(name) for name, wanted in zip(names, probed, strict=True) if wanted]
    saved = [None if wanted else _read_report(Path(name)) for name, wanted in zip(names, probed, strict=True)]
    measured = iter(_measured(session, targets, count) if targets else [])
    return [next(measured) if summary is None else summary for summary in saved]


def _is_url(name: str) -> bool:
    """Whether a name is the address of a server rather than a file: by its scheme, else by its form where no such file is."""
    from exporter.settings import prompt_url

    return "://" in name or ("://" in prompt_url(name) and not Path(name).exists())


def _measured(session: Session, targets: list[Target], count: int) -> list[Report]:
    """Measure with a progress bar; Ctrl-C closes the running probe's connection, so that the server stops at once."""
    before = signal.signal(signal.SIGINT, lambda *_: session.cancellation.cancel())
    try:
        with _progress(count * len(targets)) as step:
            return session.measure(targets, count, step)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, before)


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


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on a terminal's stderr; elsewhere nothing. It gives what is called before each step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),  # [fd00::1] in an address is no markup
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = Progress(*columns, console=console, transient=True, refresh_per_second=4, disable=not console.is_terminal)
    with shown as progress:
        task = progress.add_task("", total=total)
        yield lambda done, what: progress.update(task, description=f"probing {what}", completed=done)


# Looking around


@main.command()
@CONFIG
@AS_JSON
def discover(*, config: Path | None, as_json: bool) -> None:
    """Look for inference servers here.

    Shows what would be probed on this machine and in its containers and why, and what not and why not.

    Asks only what costs a server nothing; sends no prompt.
    """
    from exporter import report
    from exporter.oneshot import look_around
    from exporter.settings import load

    with _wrong_settings():
        settings = load(config, os.environ)
    found, problem = look_around(settings)
    configured = [(target.name, target.url) for target in settings.targets]
    if as_json:
        _print_json(report.survey_json(configured, found, problem))
        return
    _print_rows(report.survey_rows(configured, found))
    if problem:
        _say(f"containers were not read: {problem}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which daemon a person means, and how to come in: the options that ``_asks_the_daemon`` adds."""

    url: str | None
    user: str | None
    password_file: Path | None
    cacert: Path | None
    cert: Path | None
    key: Path | None

    def access(self, config: Path | None) -> DaemonAccess:
        """The daemon by its URL, else the one of this machine. A password that is in no file is asked for."""
        from exporter.daemon_login import (
            Login,
            check_user,
            given_address,
            opener_for,
            own_address,
            read_password,
            risk_of,
        )
        from exporter.ledger_access import DaemonAccess

        environ = {**os.environ, **({"LLM_PROBE_CONFIG": str(config)} if config else {})}
        if self.user is None and self.password_file is not None:
            raise click.UsageError("--password-file needs --user NAME")
        if self.cert is None and self.key is not None:
            raise click.UsageError("--key needs --cert FILE")
        with _wrong_login():
            address = given_address(self.url) if self.url else own_address(environ)
            user = check_user(self.user) if self.user else ""
            password = read_password(self.password_file) if self.password_file else _asked_password(user)
            login = Login(user, password, self.cacert, (self.cert, self.key) if self.cert else None)
            if risk := risk_of(address, login):
                _say(f"warning: {risk}")
            return DaemonAccess(address.url, opener_for(address, login), user)


def _asked_password(user: str) -> str:
    """What a person types at a terminal, unseen; nothing without a user."""
    if not user:
        return ""
    if not sys.stdin.isatty():
        raise click.UsageError("--user needs --password-file FILE where there is no terminal to ask at")
    password: str = click.prompt(f"Password of {user}", hide_input=True, err=True)
    return password


@contextlib.contextmanager
def _wrong_login() -> Iterator[None]:
    """What is wrong with the address or the login, and exit code 2."""
    from exporter.daemon_login import LoginError

    try:
        yield
    except LoginError as exc:
        _say(str(exc))
        sys.exit(2)


def _asks_the_daemon(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which daemon to ask and how to come in; the command gets them as ``asked``."""
    file = click.Path(path_type=Path)

    @click.option(
        "--url", metavar="URL", help="The daemon.  [default: where LLM_PROBE_LISTEN or the configuration says]"
    )
    @click.option(
        "--user",
        "-u",
        metavar="NAME",
        help="The user of a daemon that has passwords. Asks for the password on a terminal.",
    )
    @click.option("--password-file", metavar="FILE", type=file, help="The file that holds the user's password.")
    @click.option(
        "--cacert", metavar="FILE", type=file, help="The CA of the daemon's certificate, or the certificate itself."
    )
    @click.option("--cert", metavar="FILE", type=file, help="A client certificate, for a daemon that asks for one.")
    @click.option("--key", metavar="FILE", type=file, help="The key of --cert, where it is in a file of its own.")
    @functools.wraps(command)
    def asking(
        *,
        url: str | None,
        user: str | None,
        password_file: Path | None,
        cacert: Path | None,
        cert: Path | None,
        key: Path | None,
        **more: Any,
    ) -> None:
        command(asked=_Asked(url, user, password_file, cacert, cert, key), **more)

    return asking


@main.command()
@_asks_the_daemon
@CONFIG
@AS_JSON
def status(*, asked: _Asked, config: Path | None, as_json: bool) -> None:
    """Show the running daemon's verdicts.

    A line for each target, the worst first: verdict, speed, time to first token, age of the last success, and why. Exits with 1
    where a target is down, fails or gives wrong answers, or no daemon answers.
    """
    from exporter import status_report
    from exporter.ledger_access import AccessError

    daemon = asked.access(config)
    try:
        document = daemon.status()
    except AccessError as exc:
        _fail(str(exc))
    if as_json:
        _print_json(document)
    else:
        click.echo(status_report.headline(document))
        if rows := status_report.rows_of(document, time.time()):
            _print_rows(rows, status_report.HEADINGS)
    sys.exit(1 if status_report.any_bad(document) else 0)


@main.command()
@_asks_the_daemon
@CONFIG
def top(*, asked: _Asked, config: Path | None) -> None:
    """Show the status page in a terminal, live.

    Asks the running daemon every two seconds. Ctrl-C ends it.
    """
    from exporter.ledger_access import AccessError

    if not sys.stdout.isatty():
        raise click.UsageError("it needs a terminal: use `status` elsewhere")
    daemon = asked.access(config)
    from rich.console import Console

    from exporter.terminal import Screen, watch

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    watch(Screen(daemon.status, daemon.speeds, AccessError), Console(), stop)


@main.command()
@click.option("--target", "-t", metavar="TARGET", help="Only what changed on this target.")
@click.option(
    "--since", default="7d", show_default=True, metavar="DURATION", help="How far to look back, like 12h or 30d."
)
@click.option(
    "--accept", is_flag=True, help="Accept the current speeds as the usual ones: no drop is reported any more."
)
@_asks_the_daemon
@CONFIG
@AS_JSON
def changes(*, target: str | None, since: str, accept: bool, asked: _Asked, config: Path | None, as_json: bool) -> None:
    """Show what changed, and what it did to the speed.

    Newest first: each change of a server or its machine, with the speed since and before. Asks the running daemon; where none
    answers on this machine, reads the file that it has left. --accept ends the alerts on what is slower now.
    """
    from exporter.ledger_access import AccessError, FileAccess
    from exporter.settings import MAX_KEEP_SECONDS, load, parse_duration

    try:
        seconds = parse_duration(since, MAX_KEEP_SECONDS)
    except ValueError as exc:
        raise click.BadParameter(f"it {exc}", param_hint="--since") from None
    with _wrong_settings():
        settings = load(config, os.environ)
    daemon = asked.access(config)
    access: DaemonAccess | FileAccess | None = None
    try:
        access = daemon if asked.url or daemon.answers else FileAccess(settings.history, os.environ)
        if accept:
            accepted = access.accept(target, time.time())
            click.echo(escaped(f"accepted the current speed of {', '.join(accepted) or 'no target'} ({access.name})"))
            return
        found = access.changes(time.time() - seconds, target)
    except AccessError as exc:
        _fail(f"no daemon answers at {daemon.url}: {exc}" if access is None else str(exc))
    if as_json:
        _print_json({"source": access.name, "changes": found})
        return
    _say(access.name)
    if not found:
        click.echo(f"nothing changed in the last {since}")
        return
    from exporter.history.told import entry_rows

    rows = [row for each in found for row in entry_rows(each, _local_time(each["timestamp_seconds"]))]
    _print_rows(rows, ("TIME", "TARGET", "WHAT CHANGED", "SPEED SINCE"))


def _local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


@main.command()
@click.option("--markdown", is_flag=True, help="Print a table to paste into an issue.")
@CONFIG
@AS_JSON
def machine(*, markdown: bool, config: Path | None, as_json: bool) -> None:
    """Show what is known of this machine.

    Its kernel, firmware, power profile, ROCm, GPUs and servers, what follows from them, and why the rest is unknown. Needs no
    root. Nothing private is printed: no host name, user name, path, key or serial number.
    """
    from exporter import machine_report
    from exporter.oneshot import read_findings
    from exporter.settings import load

    with _wrong_settings():
        settings = load(config, os.environ)
    found = read_findings(settings)
    if as_json:
        _print_json(machine_report.machine_json(found))
    elif markdown:
        click.echo(machine_report.machine_markdown(found))
    else:
        _print_rows(machine_report.machine_rows(found))


@main.command()
@click.option(
    "--verify", is_flag=True, help="Read every file that is named by its hash, and name those that are corrupt."
)
@CONFIG
@AS_JSON
def cache(*, verify: bool, config: Path | None, as_json: bool) -> None:
    """Show the model caches of this machine.

    Models, sizes, what is incomplete or orphaned, free space. Deletes nothing. Exits with 1 where a cache can't be read or
    --verify finds something corrupt.
    """
    from exporter import oneshot
    from exporter.cache import report as cache_report
    from exporter.settings import load

    with _wrong_settings():
        settings = load(config, os.environ)
    folders = oneshot.cache_folders(settings)
    caches = list(oneshot.scan_caches(folders))
    checked = _verified(oneshot.blobs_of(folders)) if verify else None
    if as_json:
        _print_json(cache_report.caches_json(caches, checked))
    elif caches:
        rows = [row for each in caches for row in cache_report.cache_rows(each, time.time())]
        _print_rows(rows, cache_report.HEADINGS)
        for line in [*cache_report.notes(caches), *_checked_lines(checked)]:
            click.echo(escaped(line))
    else:
        _say("no model cache was found in the usual folders; cache.paths in a configuration names others")
    fine = all(each.error is None for each in caches) and not any(each.corrupt for each in checked or ())
    sys.exit(0 if fine else 1)


def _checked_lines(checked: Sequence[Checked] | None) -> list[str]:
    if checked is None:
        return []
    bad = [each for each in checked if each.problem is not None]
    lines = [f"{'corrupt' if each.corrupt else 'not verified'}: {each.blob.path}: {each.problem}" for each in bad]
    files = count_text(len(checked), "file")
    if not checked:
        outcome = "none is named by its hash"
    elif bad:
        outcome = f"{len(checked) - len(bad)} match their names"
    else:
        outcome = "each matches its name"
    return [*lines, f"checked {files}: {outcome}"]


def _verified(blobs: Sequence[Blob]) -> list[Checked]:
    """Hash files with a progress bar of bytes on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from exporter.oneshot import verify_blobs

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=sum(blob.bytes for blob in blobs))
        return list(verify_blobs(blobs, lambda size: progress.advance(task, size)))


@main.command("check-config")
@click.argument("file", type=click.Path(path_type=Path))
def check_config(file: Path) -> None:
    """Check a configuration file.

    Says everything that is wrong with it at once, each with its line. The environment counts as it does for `serve`. Exits
    with 2 where anything is wrong.
    """
    from exporter.settings import load, load_web_config, risks_of

    web = None
    with _wrong_settings():
        settings = load(file, os.environ)
        if settings.web_config_file is not None:
            from exporter.web.auth import read_rules

            read_rules(settings.web_config_file)
            web = load_web_config(settings.web_config_file)
    for risk in risks_of(settings, web):
        _say(f"warning: {risk}")
    targets = count_text(len(settings.targets), "target")
    click.echo(f"{file} is valid: {targets}, modules {', '.join(settings.modules)}")


@main.command()
@click.option("--url", metavar="URL", help="The daemon.  [default: where LLM_PROBE_LISTEN or LLM_PROBE_CONFIG says]")
def healthcheck(url: str | None) -> None:
    """Ask a running daemon whether it is well.

    For the health check of a container: exits with 0 where the daemon lives and its scheduler runs, else with 1.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError

    from exporter.daemon_login import given_address, opener_for, own_address

    with _wrong_login():
        daemon = given_address(url) if url else own_address(os.environ)
    address = f"{daemon.url}/-/healthy"
    try:
        with opener_for(daemon).open(address, timeout=HEALTH_SECONDS) as answer:
            click.echo(escaped(answer.read(1000).decode("utf-8", "replace").strip(), keep=_LINE_ENDS))
    except HTTPError as exc:
        with exc:
            _fail(f"{address}: {exc.code} {exc.read(1000).decode('utf-8', 'replace').strip()}")
    except (OSError, ValueError, HTTPException) as exc:
        reason = getattr(exc, "reason", exc)
        if daemon.wants_certificate and not isinstance(reason, ConnectionRefusedError | TimeoutError):
            _fail(f"{address}: it requires a client certificate and does not accept its own: {reason}")
        _fail(f"{address}: {getattr(reason, 'strerror', None) or reason or type(reason).__name__}")


# What is printed


def _say(text: str) -> None:
    click.echo(escaped(text, keep="\n\t"), err=True)


def _fail(text: str) -> NoReturn:
    _say(text)
    sys.exit(1)


@contextlib.contextmanager
def _wrong_settings() -> Iterator[None]:
    """All that is wrong with the settings, a line each, and exit code 2."""
    from exporter.settings import SettingsError

    try:
        yield
    except SettingsError as exc:
        for problem in exc.errors:
            _say(str(problem))
        sys.exit(2)


def _print_json(document: Any) -> None:
    click.echo(escaped(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False), keep="\n"))


def _print_rows(rows: Sequence[tuple[str, ...]], headings: tuple[str, ...] = ()) -> None:
    """Columns: in colour and fitted on a terminal, plain and never cut elsewhere."""
    rows = [tuple(escaped(words) for words in row) for row in rows]
    if not sys.stdout.isatty():
        lines = [headings, *rows] if headings else list(rows)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            click.echo("  ".join(f"{words:{width}}" for words, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=None, pad_edge=False, show_header=bool(headings))
    for first, *others in rows:
        words = [Text(each, style=STYLES.get(each.partition(":")[0], "")) for each in others]
        table.add_row(Text(first, style="dim"), *words)
    Console(highlight=False).print(table)


def _print_report(summary: Report) -> None:
    from exporter import report

    server = report.server_text(summary)
    click.echo(escaped(f"{summary['url']}: {server}" if server else summary["url"]))
    _print_rows(report.rows_of(summary))
    if not summary["success"]:
        _say(f"{summary['result']}: {summary['error']}")
        if summary["result"] == "skipped_unloaded":
            _say("add --load to let the probe load it")
    elif why := report.why_no_speed(summary):
        _say(why)
