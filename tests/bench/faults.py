"""The daemon under load and faults: whether it answers or ends as it should. Linux, as root for the rows that need it.

    python tests/bench/faults.py [--instants 200] [--only NAME …] [--write]

Each row starts the real command. It prints a table, and ``--write`` puts it into docs/security.md. A row whose means are missing here
says so, and is no success. The exit code is 1 where a row failed.
"""

import argparse
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.attacks.running import RunningExporter, command, configuration
from tests.ports import free_port
from tests.servers.certificates import make_certificate
from tests.waiting import eventually

SECURITY: Final = Path(__file__).parents[2] / "docs" / "security.md"
TABLE: Final = re.compile(r"(<!-- table: faults -->\n).*?(\n<!-- end -->)", re.DOTALL)
SCRAPES: Final = 20
MEMORY: Final = 96 << 20
CGROUP: Final = Path("/sys/fs/cgroup/memory")
CLOCK: Final = """
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    long done = syscall(SYS_clock_gettime, id, now), shift = 0;
    FILE *file = id == CLOCK_REALTIME ? fopen(SHIFT, "r") : NULL;
    if (file) { if (fscanf(file, "%ld", &shift) != 1) shift = 0; fclose(file); now->tv_sec += shift; }
    return (int)done;
}
"""


class MissingError(Exception):
    """What a row needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was done, what came of it, and whether that is right."""

    what: str
    result: str
    fine: bool


@contextmanager
def daemon(
    folder: Path,
    text: str = "",
    *,
    before: Sequence[str] = (),
    prepare: Callable[[], object] | None = None,
    tls: ssl.SSLContext | None = None,
    history: Path | None = None,
) -> Iterator[RunningExporter]:
    """The command, behind other commands (``before``), once it answers; ended by SIGTERM with the block."""
    config, port, log = configuration(folder, text), free_port(), folder / "daemon.log"
    if history is not None:
        keep_history(config, history)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*before, *command(config, f"127.0.0.1:{port}")],
            stderr=file,
            preexec_fn=prepare,  # noqa: PLW1509 - this process has no other threads yet
        )
    found = RunningExporter(process, port, log)
    try:
        eventually(lambda: found.ask("/-/healthy", tls=tls).status == 200, f"a start: {log.read_text()}")
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def keep_history(config: Path, history: Path) -> None:
    """Make a configuration keep its history in a file."""
    config.write_text(config.read_text().replace("history: {path: none}", f"history: {{path: {history}}}"))


def scrapes(found: RunningExporter, tls: ssl.SSLContext | None = None) -> tuple[int, float]:
    """How many scrapes were answered, and the seconds of the slowest."""
    good, slowest = 0, 0.0
    for _ in range(SCRAPES):
        begun = time.monotonic()
        with suppress(OSError):
            good += found.ask("/metrics", tls=tls).status == 200
        slowest = max(slowest, time.monotonic() - begun)
    return good, slowest


def peak_megabytes(found: RunningExporter) -> float:
    """The most memory that the daemon has had resident."""
    status = Path(f"/proc/{found.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def slow_clients(folder: Path, count: int, *, with_tls: bool) -> Row:
    """So many connections that send one byte and then nothing, while it is scraped."""
    text, tls = "", None
    if with_tls:
        cert, key = make_certificate(folder / "tls")
        (folder / "web.yml").write_text(f"tls_server_config: {{cert_file: {cert}, key_file: {key}}}\n")
        text, tls = f"web_config_file: {folder / 'web.yml'}\n", ssl.create_default_context(cafile=str(cert))
    with daemon(folder, text, tls=tls) as found, ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", found.port), timeout=20))
            with suppress(OSError):
                client.sendall(b"\x16" if with_tls else b"G")
        good, slowest = scrapes(found, tls)
        peak = peak_megabytes(found)
    what = f"{count} slow clients{', TLS handshakes not ended' if with_tls else ''}"
    return Row(what, f"{good} of {SCRAPES} scrapes, slowest {slowest:.2f} s, peak {peak:.0f} MB", good == SCRAPES)


def reloads(folder: Path) -> Row:
    """45 reloads at once."""
    with daemon(folder) as found, ThreadPoolExecutor(45) as pool:
        begun = time.monotonic()
        answers = [pool.submit(found.ask, "/-/reload", method="POST") for _ in range(45)]
        good = sum(each.result().status == 200 for each in answers)
        took = time.monotonic() - begun
        scraped, _ = scrapes(found)
    return Row(
        "45 reloads at once", f"{good} accepted in {took:.1f} s, then {scraped} of {SCRAPES} scrapes", good == 45
    )


def descriptors(folder: Path) -> Row:
    """64 file descriptors, and more clients than that."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with daemon(folder, prepare=limit) as found:
        with ExitStack() as stack:
            for _ in range(100):
                with suppress(OSError):
                    stack.enter_context(socket.create_connection(("127.0.0.1", found.port), timeout=5))
            during, slowest = scrapes(found)
        after, _ = scrapes(found)
        alive = found.process.poll() is None
    result = f"{during} of {SCRAPES} scrapes beside them (slowest {slowest:.2f} s), {after} afterwards"
    return Row("64 descriptors, 100 idle clients", result, alive and during == after == SCRAPES)


def little_memory(folder: Path) -> Row:
    """A limit of 96 MB by a memory cgroup, and 300 slow clients."""
    group = CGROUP / f"llm-probe-bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY))
    except OSError as exc:
        raise MissingError("a memory cgroup (v1) that can be written") from exc

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        with daemon(folder, prepare=enter) as found, ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", found.port), timeout=20))
            good, slowest = scrapes(found)
            most = int((group / "memory.max_usage_in_bytes").read_text()) / 1e6
            alive = found.process.poll() is None
    finally:
        group.rmdir()
    result = f"{good} of {SCRAPES} scrapes, slowest {slowest:.2f} s, at most {most:.0f} MB used"
    return Row("96 MB of memory, 300 slow clients", result, alive and good == SCRAPES)


def full_disk(folder: Path) -> Row:
    """The filesystem of the history is full from the start on."""
    disk = folder / "disk"
    disk.mkdir()
    _need("unshare", "mount")
    script = f'mount -t tmpfs -o size=64k disk {disk} && (cat /dev/zero >{disk}/full 2>/dev/null || true) && exec "$@"'
    with daemon(folder, history=disk / "history.db", before=["unshare", "-m", "sh", "-c", script, "sh"]) as found:
        good, _ = scrapes(found)
        said = "history" in found.said()
    result = f"{good} of {SCRAPES} scrapes; the log {'says' if said else 'does not say'} that the history is not kept"
    return Row("a full disk under the history", result, good == SCRAPES and said)


def read_only_root(folder: Path) -> Row:
    """Nothing can be written anywhere."""
    _need("unshare", "mount")
    script = 'mount --make-rprivate / && mount -o remount,bind,ro / && mount -t tmpfs -o ro tmp /var/tmp; exec "$@"'
    with daemon(folder, before=["unshare", "-m", "sh", "-c", script, "sh"]) as found:
        good, _ = scrapes(found)
        reloaded = found.ask("/-/reload", method="POST").status == 200
    return Row(
        "a read-only root",
        f"{good} of {SCRAPES} scrapes, reload {'works' if reloaded else 'fails'}",
        good == SCRAPES and reloaded,
    )


def clock_jump(folder: Path) -> Row:
    """The wall clock steps by an hour, forward and back, by a library before the C library; jobs must go on each time."""
    _need("cc")
    shift, library = folder / "shift", folder / "clock.so"
    shift.write_text("0")
    (folder / "clock.c").write_text(CLOCK)
    made = ["cc", "-shared", "-fPIC", f'-DSHIFT="{shift}"', "-o", str(library), str(folder / "clock.c")]
    subprocess.run(made, check=True, timeout=60)
    config = configuration(folder)
    config.write_text(re.sub(r"^host: \{", "host: {interval: 1s, ", config.read_text()))
    steps = 0
    with _plain(folder, config, LD_PRELOAD=str(library)) as found:
        for seconds in (3600, 0, -3600, 0):
            shift.write_text(str(seconds))
            told = steps + 1
            eventually(lambda told=told: found.said().count("the clock stepped") >= told, "news of the step")  # type: ignore[misc]
            steps += 1
            eventually(lambda: found.ask("/-/healthy").status == 200, "a healthy scheduler")
        good, _ = scrapes(found)
    return Row(
        "a clock that jumps an hour, 4 times",
        f"{steps} steps noticed, jobs went on; {good} of {SCRAPES} scrapes",
        good == SCRAPES,
    )


@contextmanager
def _plain(folder: Path, config: Path, **environ: str) -> Iterator[RunningExporter]:
    port, log = free_port(), folder / "daemon.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command(config, f"127.0.0.1:{port}"), stderr=file, env={**os.environ, **environ})
    found = RunningExporter(process, port, log)
    try:
        eventually(lambda: found.ask("/-/healthy").status == 200, f"a start: {log}")
        yield found
    finally:
        process.kill()
        process.wait()


def first_process(folder: Path) -> Row:
    """PID 1 of a namespace, as in a container: signals reach it, and it leaves nothing behind."""
    _need("unshare")
    config, port, log = configuration(folder), free_port(), folder / "daemon.log"
    before = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with (
        log.open("wb") as file,
        subprocess.Popen([*before, *command(config, f"127.0.0.1:{port}")], stderr=file) as outer,
    ):
        try:
            code, took = _as_first_process(RunningExporter(outer, port, log))
        finally:
            outer.kill()  # the namespace ends with it
    return Row("PID 1", f"SIGHUP reloads, SIGTERM ends it in {took:.1f} s with exit code {code}", code == 0)


def _as_first_process(found: RunningExporter) -> tuple[int, float]:
    """Reload and end the process within a namespace: the exit code, and the seconds that the end took."""
    outer = found.process
    eventually(lambda: found.ask("/-/healthy").status == 200, f"a start: {found.log}")
    (inner,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()

    eventually(lambda: _takes_reloads(int(inner)), "the end of the start")
    os.kill(int(inner), signal.SIGHUP)
    eventually(lambda: "is reloaded" in found.said(), "a reload by SIGHUP")
    begun = time.monotonic()
    os.kill(int(inner), signal.SIGTERM)
    return outer.wait(30), time.monotonic() - begun


def _takes_reloads(pid: int) -> bool:
    """Whether a process handles SIGHUP: during its start it ignores it."""
    caught = re.findall(r"SigCgt:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())[0]
    return bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)


def terminated(folder: Path, instants: int) -> Row:
    """SIGTERM at so many instants of a start and of a reload: it ends, its history opens, and no port stays taken."""
    history = folder / "history.db"
    config = configuration(folder)
    keep_history(config, history)
    codes: dict[int, int] = {}
    slowest = 0.0
    begun = time.monotonic()
    with _plain(folder, config):
        whole = time.monotonic() - begun
    for number in range(instants):
        in_reload, share = number % 2 == 1, number / instants
        port = free_port()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command(config, f"127.0.0.1:{port}"), stderr=log)
        found = RunningExporter(process, port, folder / "log")
        if in_reload:
            eventually(lambda found=found: found.ask("/-/healthy").status == 200, "a start")  # type: ignore[misc]
            eventually(lambda pid=process.pid: _takes_reloads(pid), "the end of the start", every=0.01)  # type: ignore[misc]
            process.send_signal(signal.SIGHUP)
            time.sleep(1.2 * share)  # the main thread looks at signals once a second
        else:
            time.sleep(whole * share)
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            code = 999
        slowest = max(slowest, time.monotonic() - sent)
        codes[code] = codes.get(code, 0) + 1
    with _plain(folder, config) as found:
        kept = "history" not in "".join(
            line for line in found.said().splitlines() if "level=warning" in line or "level=error" in line
        )
    fine = set(codes) <= {0, -signal.SIGTERM} and kept
    ended = ", ".join(f"{count} × {code}" for code, count in sorted(codes.items()))
    result = (
        f"exit codes {ended}; slowest {slowest:.1f} s; the history {'opens' if kept else 'does not open'} afterwards"
    )
    return Row(f"SIGTERM at {instants} instants of a start ({whole:.1f} s) and of a reload", result, fine)


def _need(*programs: str) -> None:
    missing = [each for each in programs if shutil.which(each) is None]
    if missing or os.geteuid() != 0:
        raise MissingError(" and ".join(missing) or "root")


def rows(instants: int) -> dict[str, Callable[[Path], Row]]:
    """Each row by its name."""
    return {
        "slow": lambda folder: slow_clients(folder, 700, with_tls=False),
        "tls": lambda folder: slow_clients(folder, 600, with_tls=True),
        "reloads": reloads,
        "descriptors": descriptors,
        "memory": little_memory,
        "disk": full_disk,
        "root": read_only_root,
        "clock": clock_jump,
        "pid1": first_process,
        "sigterm": lambda folder: terminated(folder, instants),
    }


def main() -> None:
    """Run the rows, print the table, and write it where it is wanted."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--instants", type=int, default=200)
    options.add_argument("--only", nargs="*", choices=list(rows(0)))
    options.add_argument("--write", action="store_true")
    chosen = options.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: list[Row] = []
    for name, run in rows(chosen.instants).items():
        if chosen.only and name not in chosen.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                found.append(run(Path(folder)))
            except MissingError as exc:
                found.append(Row(name, f"not measured: {exc} is missing", fine=True))
            except (AssertionError, OSError, subprocess.SubprocessError) as exc:
                found.append(Row(name, f"failed: {type(exc).__name__}: {str(exc)[:300]}", fine=False))
        print(f"{found[-1].what}: {found[-1].result}", file=sys.stderr, flush=True)
    lines = ["| under | result |", "|---|---|", *(f"| {each.what} | {each.result} |" for each in found)]
    print("\n".join(lines))
    if chosen.write:
        text = SECURITY.read_text(encoding="utf-8")
        SECURITY.write_text(TABLE.sub(lambda match: match[1] + "\n".join(lines) + match[2], text), encoding="utf-8")
    sys.exit(0 if all(each.fine for each in found) else 1)


if __name__ == "__main__":
    main()
