"""The composition root: builds the parts, starts them, reloads, drains. The only file that knows them all.

The main thread waits for signals and follows the clock. Probes, status checks and collectors run in the scheduler's threads, serving
in uvicorn's thread, and one thread follows the container engine's events.
"""

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from exporter import allocator, systemd
from exporter.address import is_loopback
from exporter.collectors import Collectors
from exporter.exposition import Exposition
from exporter.history.change import Entry
from exporter.history.folder import history_file
from exporter.history.record import Point
from exporter.history.store import Store
from exporter.ledgers import Ledgers
from exporter.on_demand import CrowdedError, OnDemand, permit_of, refusal_of
from exporter.probe.http.cancellation import Cancellation
from exporter.probe.prober import Prober
from exporter.probe.result import ProbeResult
from exporter.probe.server import Servers
from exporter.probe.speeds import Speeds
from exporter.schedule import Job, Schedule
from exporter.settings import (
    Module,
    Profiles,
    Settings,
    SettingsError,
    Target,
    load_profiles,
    load_web_config,
    risks_of,
    split_listen,
)
from exporter.snapshot import EXPORTER, ExporterState, Snapshot
from exporter.target_facts import Machine, connections_to, machine_of
from exporter.targets import Targets
from exporter.text import count_text, states_text
from exporter.web.app import Refused, build_app
from exporter.web.auth import Auth, opening, read_rules
from exporter.web.server import WebServer, listen

log = logging.getLogger(__name__)

# How soon a changed password or certificate is noticed; it is used when it has stayed the same for as long.
AUTH_SECONDS: Final = 2.0
SWITCH_SECONDS: Final = 0.0005


class Daemon:
    """The running product: ``start``, ``run`` until a signal comes, ``drain``; all from the main thread.

    ``load`` gives the settings, at the start and at each reload; it raises ``SettingsError``. ``listen_on`` overrides their
    address. ``run`` returns once ``stop`` is set, at once if it was set during the start.
    """

    def __init__(
        self, load: Callable[[], Settings], *, listen_on: str | None = None, stop: threading.Event | None = None
    ) -> None:
        self._load = load
        self._settings = load()
        self._profiles = load_profiles(self._settings.profiles_file)
        self._address = listen_on or self._settings.listen
        self._host, self._port = split_listen(self._address)
        self._auth = Auth(self._settings.web_config_file, hosts=(self._host, *self._settings.allowed_hosts))
        self._cancellation = Cancellation()
        self._schedule = Schedule(on_beat=self._beat)
        self._servers = Servers()
        self._on_demand = OnDemand(self._probe_once)
        self._exposition = Exposition()
        self._ledgers = Ledgers(_store_of(self._settings))
        self.snapshot = Snapshot(watch=self._exposition.prepare)
        self._targets = Targets(
            self.snapshot,
            self._settings,
            self._profiles,
            servers=self._servers,
            cancellation=self._cancellation,
            own_port=self._port,
            changed=self._follow,
            models_changed=lambda: self._schedule.run_soon("models"),
            ledgers=self._ledgers,
        )
        self._collectors = Collectors(
            self.snapshot, self._settings, changed=self._machine_changed, run_soon=self._schedule.run_soon
        )
        self._changing = threading.RLock()
        self._stop = stop or threading.Event()
        self._reload_wanted = threading.Event()
        self._loaded, self._loaded_at = True, time.time()
        self._risks: tuple[str, ...] = ()
        self._web: WebServer | None = None

    # Life ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve and to watch; returns when everything runs. Raises ListenError if the port can't be bound."""
        allocator.keep_small()
        # A thread whose bytes have arrived gets the interpreter within this time, also beside a scrape of many targets:
        # packets that wait longer are merged by the kernel, and lose their own arrival times.
        sys.setswitchinterval(SWITCH_SECONDS)
        bound = listen(self._host, self._port)
        self._ledgers.start()
        self._apply(self._settings, self._profiles)
        app = self._auth.guard(build_app(self.snapshot, self._exposition.render, self))
        web = WebServer(app, bound, tls=self._auth.context, refused=self._auth.note_failure)
        self._auth.on_change = lambda: web.drop(self._auth.is_stale)
        self._web = web
        self._web.start()
        self._schedule.start()
        url = f"{'https' if self._auth.rules.tls else 'http'}://{self._address}"
        log.info("%s/ shows the targets, %s/metrics is for Prometheus", url, url)
        self._targets.log_plan()
        self._warn_if_open()
        self._warn_of_risks()
        # What is here now stays. Left out of garbage collections, each of the full ones is short: all else waits for them,
        # and they were the longest waits of a scrape and of a probe's reads if targets are many.
        gc.collect()
        gc.freeze()
        gc.enable()
        allocator.give_back()

    def _warn_if_open(self) -> None:
        if not self._auth.rules.closed and not is_loopback(self._host):
            log.warning(
                "NO AUTHENTICATION: anyone who can reach %s can read everything that is measured here and reload the configuration."
                " Set web_config_file to a file with basic_auth_users or client certificates, or listen on 127.0.0.1",
                self._address,
            )

    def _warn_of_risks(self) -> None:
        """Say each risk once, for as long as it stays."""
        settings = self._settings
        web = None
        if settings.web_config_file is not None:
            with suppress(SettingsError):  # changed since it was read; the next check of the file says so
                web = load_web_config(settings.web_config_file)
        risks = risks_of(settings, web)
        for risk in risks:
            if risk not in self._risks:
                log.warning("%s", risk)
        self._risks = risks

    def run(self) -> None:
        """Wait for SIGTERM or SIGINT; reload at SIGHUP. From the main thread, which owns the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        signal.signal(signal.SIGHUP, lambda *_: self._reload_wanted.set())
        systemd.notify("READY=1")
        while not self._stop.wait(1.0):
            self._schedule.follow_clock()
            if self._reload_wanted.is_set():
                self._reload_wanted.clear()
                self.reload()

    def drain(self) -> None:
        """Cancel the running probes and stop serving; bounded to some seconds whatever hangs."""
        systemd.notify("STOPPING=1")
        self._stop.set()
        self._cancellation.cancel()
        self._schedule.stop()
        self._targets.give_back()
        self._collectors.stop()
        if self._web is not None:
            self._web.stop()
        self._ledgers.close()

    # What clients may ask for (exporter.web.app.Actions) -----------------------------------------------------------------

    def reload(self) -> tuple[str, ...]:
        """Validate, then swap. Returns what is wrong; then nothing has changed."""
        with self._changing:
            try:
                settings = self._load()
                profiles = load_profiles(settings.profiles_file)
                rules = read_rules(settings.web_config_file)
                if (problem := opening(self._auth.rules, rules, settings.web_config_file)) is not None:
                    raise SettingsError([problem])  # noqa: TRY301 - treated as any other mistake in the files
            except SettingsError as exc:
                errors = tuple(str(problem) for problem in exc.errors)
                log.error("the configuration is not reloaded; the previous one stays in use: %s", "; ".join(errors))  # noqa: TRY400 - the user's mistake
                self._loaded = False
                self._publish_exporter()
                return errors
            self._loaded, self._loaded_at = True, time.time()
            if settings.history != self._settings.history:
                log.warning("the setting history changed: restart the exporter to apply it")
            self._auth.use(settings.web_config_file, rules, (self._host, *settings.allowed_hosts))
            self._apply(settings, profiles)
            for job in self._collectors.jobs():
                # What the settings name now is read now, not when its interval is over.
                self._schedule.run_soon(job.name)
            self._warn_of_risks()
            log.info("the configuration is reloaded: %s", count_text(len(self._targets), "target"))
            return ()

    def probe(self, target: str, module: str) -> ProbeResult | Refused:
        """One probe of an allowed address, shared by all that ask within its interval."""
        settings = self._settings
        if module not in settings.modules:
            return Refused(f"there is no such module: the configuration has {', '.join(settings.modules)}")
        if (why := refusal_of(target, settings.probe_endpoint.allow)) is not None:
            return Refused(why)
        try:
            return self._on_demand.probe(target, module, settings.modules[module]) or Refused("the exporter stops")
        except CrowdedError:
            return Refused("too many addresses were probed within their intervals: try again later")

    def _probe_once(self, target: Target, name: str, module: Module, before: ProbeResult | None) -> ProbeResult | None:
        permit = permit_of(target.url, self._settings.probe_endpoint.allow)
        prober = Prober(
            target,
            server=self._servers.at(target.url),
            cancellation=self._cancellation,
            permit=permit,
            speeds=Speeds.of_result(before),
        )
        machine = machine_of(self.snapshot.view())
        prober.add_hints(connected=connections_to(target.url, machine, self._settings.host.proc))
        return prober.probe(name, module)

    def changes(self, since: float, target: str | None) -> tuple[Entry, ...]:
        """What changed since a time, newest first."""
        return self._ledgers.entries(since, target)

    def points(self, target: str, module: str, since: float, until: float) -> tuple[Point, ...]:
        """The speeds of a module between two times, oldest first."""
        return self._ledgers.points(target, module, since, until)

    def accept(self, target: str | None) -> tuple[str, ...]:
        """Take the speeds of now for the usual ones."""
        accepted = self._targets.accept(target)
        log.info("accepted the current speed of %s", ", ".join(accepted) or "no target")
        return accepted

    def healthy(self) -> tuple[bool, str]:
        """Whether the scheduler runs."""
        if self._schedule.alive():
            return True, "The scheduler runs."
        return False, "The scheduler has not run for a while: nothing is probed."

    def ready(self) -> tuple[bool, str]:
        """Whether every module of every target ran or was skipped once."""
        records = self.snapshot.view().records
        waiting = sorted({target for (target, _), record in records.items() if record.last is None})
        if waiting:
            return False, f"Not probed yet: {', '.join(waiting)}"
        return True, f"Every target was probed: {len(self._targets)}"

    # Wiring ----------------------------------------------------------------------------------------------------------

    def _apply(self, settings: Settings, profiles: Profiles) -> None:
        """Make these the settings of all that runs."""
        with self._changing:
            self._settings, self._profiles = settings, profiles
            self._targets.use(settings, profiles)
            self._collectors.use(settings)
            self._follow()

    def _follow(self) -> None:
        """Run the jobs that there are now, and no others."""
        with self._changing:
            self._schedule.replace(self._jobs())
            self._publish_exporter()

    def _jobs(self) -> Iterator[Job]:
        yield from self._targets.jobs()
        yield from self._collectors.jobs()
        if self._settings.web_config_file is not None:
            yield Job("auth", AUTH_SECONDS, self._refresh_auth)

    def _machine_changed(self, before: Machine, after: Machine) -> None:
        self._targets.judge()
        if self._targets.sees_others(before, after):
            # A server that came or went is a target to find or to drop, within seconds.
            self._schedule.run_soon("discovery")

    # The exporter itself -----------------------------------------------------------------------------------------------

    def _refresh_auth(self) -> None:
        with self._changing:
            before = self._auth.problems
            if self._auth.refresh() != before:
                self._publish_exporter()

    def _beat(self) -> None:
        if self._web is None or self._web.alive:
            # Stop feeding the watchdog when the web server is dead, so that systemd restarts the daemon.
            systemd.notify("WATCHDOG=1")
        self._collectors.report_hanging()
        self._publish_exporter()
        systemd.notify(f"STATUS={states_text(self._targets.states())}")

    def _publish_exporter(self) -> None:
        state = ExporterState(
            reload_successful=self._loaded and not self._auth.problems,
            reload_success_at_seconds=self._loaded_at,
            schedule_delay_seconds=self._schedule.delay_seconds,
            targets_by_state=self._targets.states(),
            minimum_rocm=self._settings.host.minimum_rocm or self._profiles.rocm.minimum,
            history_bytes=self._ledgers.bytes,
            auth_failures=self._auth.failures,
        )
        self.snapshot.publish(EXPORTER, state)


def _store_of(settings: Settings) -> Store:
    path = history_file(str(settings.history.path), os.environ)
    return Store(path, keep_seconds=settings.history.keep)
