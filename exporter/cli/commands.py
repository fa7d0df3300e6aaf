"""The commands: each parses, calls one package, and prints. Exit codes: 0 fine, 1 not fine, 2 a wrong call.

Results go to stdout, everything else to stderr. A command imports what it needs when it runs, so that ``--help`` and
``healthcheck`` are quick.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from exporter import __version__
from exporter.address import DEFAULT_LISTEN
from exporter.backends import CONFIGURABLE
from exporter.cli.daemon_options import DaemonOptions, with_daemon_options, wrong_login
from exporter.cli.printing import bytes_progress, fail, print_json, print_rows, say, wrong_settings
from exporter.text import count_text, escaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.ledger_access import DaemonAccess
    from exporter.oneshot import Session
    from exporter.report import Report
    from exporter.settings import Settings, Target

NAME: Final = "llm-probe-exporter"


class Commands(click.Group):
    """The commands. Output that can't be written, as to a full disk, ends any command with an error in one sentence."""

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
            fail(f"the output can't be written: {exc.strerror}")


_NOT_WRITTEN: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=NAME)
def main() -> None:
    """Measure LLM inference servers as a client would, and export the results to Prometheus.

    `serve` is the daemon: without any configuration it finds the servers of this machine. `probe URL` measures one server
    now. `demo` shows everything on a machine without a server.
    """


CONFIG = click.option(
    "--config",
    "-c",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="LLM_PROBE_CONFIG",
    show_envvar=True,
    help="The configuration file, in YAML. Each key can also be an environment variable LLM_PROBE_…, with __ between levels.",
)


LISTEN = click.option(
    "--listen",
    envvar="LLM_PROBE_LISTEN",  # here, too, since the demo reads no settings
    metavar="HOST:PORT",
    help=f"Address to listen on, instead of the configuration's `listen`.  [default: {DEFAULT_LISTEN}]",
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

    It probes the servers, answers scrapes at /metrics and shows a page at /.

    Without targets in a configuration the daemon looks for inference servers on the usual ports of this machine, among its
    processes and in its containers. It logs what it found, and repeats the search. SIGHUP reloads the configuration, SIGTERM ends the daemon.
    """
    from exporter.cli.running import run_daemon

    @functools.cache
    def loader() -> Callable[[], Settings]:
        from exporter import settings

        return settings.loader(config, os.environ)

    def load() -> Settings:
        return loader()()

    run_daemon(load, listen, log_level)


@main.command()
@LISTEN
@LOG_LEVEL
def demo(*, listen: str | None, log_level: str) -> None:
    """Run the daemon on simulated servers.

    It fills metrics, page and dashboards on any machine. Only simulated servers are probed.
    """
    from exporter.cli.demo_settings import demo_settings
    from exporter.cli.running import run_daemon
    from exporter.demo import SimulatedServers

    with SimulatedServers() as servers:
        run_daemon(lambda: demo_settings(servers), listen, log_level)


# One-shot probes

MODULE = click.option(
    "--module",
    "-m",
    default="default",
    show_default=True,
    help="Module that says what to send: default, prefill, parallel, canary, or one of the configuration.",
)


def _count(default: int) -> Callable[[Any], Any]:
    return click.option(
        "--count",
        "-n",
        type=click.IntRange(1, 1000),
        default=default,
        show_default=True,
        metavar="N",
        help="Number of probes; the figures are their medians, with their spread.",
    )


@main.command()
@click.argument("url")
@click.option(
    "--backend",
    "-b",
    metavar="BACKEND",
    help=f"Type of the server, instead of detecting it: {', '.join(CONFIGURABLE)}.",
)
@click.option("--model", help="The model to ask for.  [default: the one that is served, or that is in memory]")
@_count(1)
@MODULE
@click.option("--api-key-file", metavar="FILE", help="A file that holds the server's API key.")
@click.option(
    "--min-tier",
    type=click.Choice(["excellent", "good", "acceptable"]),
    help="Exit with 1 if the speed is in a lower tier.",
)
@click.option("--load", "may_load", is_flag=True, help="Probe even if that makes the server load its model.")
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

    Shows speed, time to first token, phases, tokens, tier, and the facts about the server.

    URL is the server's address, like http://127.0.0.1:8000 or localhost:8000, or the name of a target of the configuration.
    Exits with 0 after a good measurement, with 1 after a failed one or a tier below --min-tier, with 2 after a wrong call. Ctrl-C
    ends --count early: the probes until then are shown.

    \b
    llm-probe-exporter probe http://127.0.0.1:8000
    llm-probe-exporter probe http://127.0.0.1:8000 --count 5 --json > before.json
    llm-probe-exporter probe http://127.0.0.1:8000 --count 5 --markdown
    """  # noqa: D301 - \b keeps click from filling lines
    from exporter import report
    from exporter.cli.measuring import exit_if_interrupted, measure
    from exporter.oneshot import Session
    from exporter.settings import risks_of_target

    if markdown and as_json:
        raise click.UsageError("--markdown and --json exclude each other")
    with wrong_settings():
        session = Session(config, module, may_load=may_load)
        target = session.target(url, backend=backend, model=model, api_key_file=api_key_file)
        for risk in risks_of_target(session.settings, target):
            say(f"warning: {risk}")
        summary = measure(session, [target], count)[0]
    if as_json:
        print_json(summary)
    elif markdown:
        _print_evidence(session, target, summary)
    else:
        _print_report(summary)
    exit_if_interrupted(session, [summary], count)
    if not summary["success"] or (min_tier and report.below(summary["tier"], min_tier)):
        if min_tier and summary["success"]:
            say(f"the tier is {summary['tier'] or 'not known'}: below {min_tier}")
        sys.exit(1)


def _print_report(summary: Report) -> None:
    from exporter import report

    server = report.server_text(summary)
    click.echo(escaped(f"{summary['url']}: {server}" if server else summary["url"]))
    print_rows(report.rows_of(summary))
    if not summary["success"]:
        say(f"{summary['result']}: {summary['error']}")
        if summary["result"] == "skipped_unloaded":
            say("add --load to let the probe load the model")
    elif why := report.why_no_speed(summary):
        say(why)


def _print_evidence(session: Session, target: Target, summary: Report) -> None:
    from exporter.evidence import evidence_markdown
    from exporter.oneshot import findings_about

    findings, server = findings_about(session.settings, target.url)
    click.echo(evidence_markdown(summary, findings, server, __version__))


@main.command()
@click.argument("baseline")
@click.argument("candidate")
@_count(5)
@MODULE
@click.option("--anyway", is_flag=True, help="Compare even if the model or the module differs.")
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

    Shows whether the candidate is faster, and by enough. Each of the two is the URL of a running server, a file saved from
    `probe --json`, or TARGET@TIME for a past time in the daemon's history. Examples: vllm@2h, vllm@yesterday,
    vllm@2026-11-20T12:00. Two URLs are probed alternately. Facts that differ are named; another model or module is refused
    without --anyway. The verdict is the success criterion of the profiles that the speed or the ratio reaches. Exits with 0 if
    one is reached, with 1 if none is, or if the difference is within the noise.

    \b
    llm-probe-exporter probe http://127.0.0.1:8000 --count 5 --json > before.json
    llm-probe-exporter compare before.json http://127.0.0.1:8000
    """  # noqa: D301 - \b keeps click from filling lines
    from exporter import comparison
    from exporter.cli.comparison_sides import sides_of
    from exporter.cli.measuring import exit_if_interrupted
    from exporter.oneshot import Session

    with wrong_settings():
        session = Session(config, module)
        before, after, reports = sides_of(session, baseline, candidate, count)
    judged = comparison.compare(before, after, session.profiles.success_criteria)
    if judged.unequal and not anyway:
        for each in judged.unequal:
            say(f"not compared: the {each.fact} differs: {each.before} and {each.after}")
        say("add --anyway to compare them")
        sys.exit(2)
    if as_json:
        print_json(comparison.comparison_json(judged))
    else:
        print_rows(comparison.comparison_rows(judged))
        for note in judged.notes:
            say(note)
    exit_if_interrupted(session, reports, count)
    sys.exit(0 if judged.verdict in comparison.REACHED else 1)


# Looking around


@main.command()
@CONFIG
@AS_JSON
def discover(*, config: Path | None, as_json: bool) -> None:
    """Look for inference servers here.

    Shows which servers of this machine and of its containers would be probed, which would not, and why.

    Sends only requests that cost a server nothing, and no prompt.
    """
    from exporter import survey_report
    from exporter.oneshot import survey_machine
    from exporter.settings import load

    with wrong_settings():
        settings = load(config, os.environ)
    found, problem = survey_machine(settings)
    configured = [(target.name, target.url) for target in settings.targets]
    if as_json:
        print_json(survey_report.survey_json(configured, found, problem))
        return
    print_rows(survey_report.survey_rows(configured, found))
    if problem:
        say(f"containers were not read: {problem}")


@main.command()
@with_daemon_options
@CONFIG
@AS_JSON
def status(*, options: DaemonOptions, config: Path | None, as_json: bool) -> None:
    """Show the running daemon's verdicts.

    Shows a line for each target, the worst first: verdict, speed, time to first token, age of the last success, and the reason.
    Exits with 1 if a target is down, fails or gives wrong answers, or if no daemon answers.
    """
    from exporter import status_report
    from exporter.ledger_access import AccessError

    daemon = options.access(config)
    try:
        document = daemon.status()
    except AccessError as exc:
        fail(str(exc))
    if as_json:
        print_json(document)
    else:
        click.echo(status_report.headline(document))
        if rows := status_report.rows_of(document, time.time()):
            print_rows(rows, status_report.HEADINGS, status_report.LEAVE_OUT)
    sys.exit(1 if status_report.any_bad(document) else 0)


@main.command()
@with_daemon_options
@CONFIG
def top(*, options: DaemonOptions, config: Path | None) -> None:
    """Show the status page in a terminal, live.

    Asks the running daemon every two seconds. Ctrl-C ends the command.
    """
    from exporter.ledger_access import AccessError

    if not sys.stdout.isatty():
        raise click.UsageError("`top` needs a terminal: use `status` without one")
    daemon = options.access(config)
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
    "--accept", is_flag=True, help="Accept the current speeds as the usual ones: earlier drops are no longer reported."
)
@with_daemon_options
@CONFIG
@AS_JSON
def changes(
    *, target: str | None, since: str, accept: bool, options: DaemonOptions, config: Path | None, as_json: bool
) -> None:
    """Show what changed, and what it did to the speed.

    Shows each change of a server or its machine, the newest first, with the speed since and before. Asks the running daemon; if
    none answers on this machine, reads the file of its history. --accept ends the alerts about targets that are slower now.
    """
    from exporter.ledger_access import AccessError, FileAccess
    from exporter.settings import MAX_KEEP_SECONDS, load, parse_duration

    try:
        seconds = parse_duration(since, MAX_KEEP_SECONDS)
    except ValueError as exc:
        raise click.BadParameter(f"it {exc}", param_hint="--since") from None
    with wrong_settings():
        settings = load(config, os.environ)
    daemon = options.access(config)
    access: DaemonAccess | FileAccess | None = None
    try:
        access = daemon if options.url or daemon.answers else FileAccess(settings.history, os.environ)
        if accept:
            accepted = access.accept(target, time.time())
            names = ", ".join(accepted)
            text = (
                f"accepted the current speed of {names}" if names else "nothing to accept: no target has a history yet"
            )
            click.echo(escaped(f"{text} ({access.name})"))
            return
        found = access.changes(time.time() - seconds, target)
    except AccessError as exc:
        fail(f"no daemon answers at {daemon.url}: {exc}" if access is None else str(exc))
    if as_json:
        print_json({"source": access.name, "changes": found})
        return
    say(access.name)
    if not found:
        click.echo(f"nothing changed in the last {since}")
        return
    from exporter.history.change_lines import entry_rows

    rows = [row for each in found for row in entry_rows(each, _local_time(each["timestamp_seconds"]))]
    print_rows(rows, ("TIME", "TARGET", "WHAT CHANGED", "SPEED SINCE"))


def _local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


@main.command()
@click.option("--markdown", is_flag=True, help="Print a table to paste into an issue.")
@CONFIG
@AS_JSON
def machine(*, markdown: bool, config: Path | None, as_json: bool) -> None:
    """Show what is known of this machine.

    Shows its kernel, firmware, power profile, ROCm, GPUs and servers, the advice that follows, and why other facts are unknown.
    Does not need root. Prints nothing private: no host name, user name, path, key or serial number.
    """
    from exporter import machine_report
    from exporter.oneshot import read_findings
    from exporter.settings import load

    with wrong_settings():
        settings = load(config, os.environ)
    found = read_findings(settings)
    if as_json:
        print_json(machine_report.machine_json(found))
    elif markdown:
        click.echo(machine_report.machine_markdown(found))
    else:
        print_rows(machine_report.machine_rows(found))


@main.command()
@click.option("--verify", is_flag=True, help="Read every file that is named by its hash, and name the corrupt ones.")
@CONFIG
@AS_JSON
def cache(*, verify: bool, config: Path | None, as_json: bool) -> None:
    """Show the model caches of this machine.

    Shows models, sizes, incomplete and orphaned files, and free space. Deletes nothing. Exits with 1 if a cache can't be read or
    --verify finds a corrupt file.
    """
    from exporter import oneshot
    from exporter.cache import report as cache_report
    from exporter.settings import load

    with wrong_settings():
        settings = load(config, os.environ)
    folders = oneshot.cache_folders(settings)
    caches = list(oneshot.scan_caches(folders))
    checked = None
    if verify:
        blobs = oneshot.blobs_of(folders)
        with bytes_progress(sum(blob.bytes for blob in blobs)) as step:
            checked = list(oneshot.verify_blobs(blobs, step))
    if as_json:
        print_json(cache_report.caches_json(caches, checked))
    elif caches:
        rows = [row for each in caches for row in cache_report.cache_rows(each, time.time())]
        print_rows(rows, cache_report.HEADINGS)
        for line in [*cache_report.notes(caches), *([] if checked is None else cache_report.checked_lines(checked))]:
            click.echo(escaped(line))
    else:
        say("no model cache was found in the usual folders; name other folders with cache.paths in a configuration")
    fine = all(each.error is None for each in caches) and not any(each.corrupt for each in checked or ())
    sys.exit(0 if fine else 1)


@main.command("check-config")
@click.argument("file", type=click.Path(path_type=Path))
def check_config(file: Path) -> None:
    """Check a configuration file.

    Shows all errors at once, each with its line. Environment variables have the same effect as for `serve`. Exits with 2 if
    there is an error.
    """
    from exporter.settings import load, load_web_config, risks_of

    web = None
    with wrong_settings():
        settings = load(file, os.environ)
        if settings.web_config_file is not None:
            from exporter.web.auth import read_rules

            read_rules(settings.web_config_file)
            web = load_web_config(settings.web_config_file)
    for risk in risks_of(settings, web):
        say(f"warning: {risk}")
    targets = count_text(len(settings.targets), "target")
    click.echo(f"{file} is valid: {targets}, modules {', '.join(settings.modules)}")


@main.command()
@click.option("--url", metavar="URL", help="URL of the daemon.  [default: from LLM_PROBE_LISTEN or LLM_PROBE_CONFIG]")
def healthcheck(url: str | None) -> None:
    """Check that a running daemon works.

    For the health check of a container: exits with 0 if the daemon answers and its scheduler runs, else with 1.
    """
    from exporter.daemon_health import UnhealthyError, ask_health
    from exporter.daemon_login import given_address, own_address

    with wrong_login():
        daemon = given_address(url) if url else own_address(os.environ)
    try:
        click.echo(escaped(ask_health(daemon), keep="\n"))
    except UnhealthyError as exc:
        fail(str(exc))
