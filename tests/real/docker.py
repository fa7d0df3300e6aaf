"""A private container engine for tests: its own dockerd, its own folder and socket, ended by its process id.

It shares nothing with an engine that the machine may run, makes no network rules, and leaves no mount behind. Containers
get ``network="host"`` or ``"none"``: there is no bridge. Images are made by ``import_image`` from nothing but busybox.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PARTS = ("dockerd", "containerd", "runc")
BUSYBOX = Path("/bin/busybox")
START_SECONDS = 60.0
STOP_SECONDS = 30.0


def missing_parts(parts: Iterable[str] = PARTS) -> str:
    """What this machine lacks to run an engine of these programs, for a skip that names it; empty when nothing."""
    lacking = [part for part in parts if find_program(part) is None]
    if not BUSYBOX.exists():
        lacking.append("busybox-static")
    if os.geteuid() != 0:
        lacking.append("root")
    return ", ".join(lacking)


def find_program(name: str) -> str | None:
    """Where a program is, also one for root alone."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def unmount_below(folder: Path) -> None:
    """Unmount whatever an engine left mounted below its folder, the innermost first."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


@dataclass
class DockerEngine:
    """A dockerd under ``folder``; ``start`` and ``stop`` may be called again and again on the same data."""

    folder: Path
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """The path of the engine's socket."""
        return self.folder / "docker.sock"

    @property
    def host(self) -> str:
        """The engine's address as in DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> str:
        """What the daemon has said so far."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        program = find_program("dockerd")
        assert program, "dockerd is not installed"
        with (self.folder / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [
                    program,
                    f"--data-root={self.folder / 'data'}",
                    f"--exec-root={self.folder / 'exec'}",
                    f"--pidfile={self.folder / 'docker.pid'}",
                    f"--host={self.host}",
                    "--storage-driver=overlay2",
                    "--iptables=false",
                    "--ip6tables=false",
                    "--bridge=none",
                    "--ip-forward=false",
                    "--ip-masq=false",
                ],
                # As from a narrow terminal: the engine's `ps` would cut command lines.
                env={**os.environ, "COLUMNS": "80"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + START_SECONDS
        while self.run("version", check=False).returncode != 0:
            if self.daemon.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"dockerd did not start:\n{self.log[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop the daemon, its containers with it, and unmount what it leaves."""
        if self.daemon is not None:
            self.daemon.terminate()
            try:
                self.daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait(STOP_SECONDS)
            self.daemon = None
        self._end_containerd()
        unmount_below(self.folder)

    def _end_containerd(self) -> None:
        """A daemon that was killed leaves its containerd running: it wrote down the process id."""
        with suppress(OSError, ValueError):
            pid = int((self.folder / "exec" / "containerd" / "containerd.pid").read_text(encoding="ascii"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if str(self.folder).encode() in command:
                os.kill(pid, signal.SIGTERM)

    def run(self, *arguments: str, check: bool = True, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run the docker command against this engine; its output as text."""
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.folder / "config")}
        done = subprocess.run(
            ["docker", *arguments], input=stdin, env=environment, capture_output=True, check=False, timeout=300
        )
        output, error = (part.decode("utf-8", "replace") for part in (done.stdout, done.stderr))
        if check and done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(arguments)} failed: {error or output}")
        return subprocess.CompletedProcess(done.args, done.returncode, output, error)

    def import_image(self, tag: str, rootfs: bytes, changes: Iterable[str] = ()) -> str:
        """Make an image of a tar archive; ``changes`` are lines of a Dockerfile (``ENV A=b``). Gives its id."""
        options = [option for change in changes for option in ("--change", change)]
        return self.run("import", *options, "-", tag, stdin=rootfs).stdout.strip()

    def start_container(
        self, name: str, image: str, *command: str, options: Sequence[str] = ("--network=host",)
    ) -> str:
        """Run a container in the background; it is removed when the engine is. Gives its id."""
        return self.run(
            "run", "--detach", "--stop-timeout=1", f"--name={name}", *options, image, *command
        ).stdout.strip()

    def remove_containers(self) -> None:
        """Remove every container, whoever started it."""
        if identifiers := self.run("ps", "--all", "--quiet").stdout.split():
            self.run("rm", "--force", "--volumes", *identifiers)

    def inspect(self, name: str) -> Mapping[str, object]:
        """The document of a container or an image."""
        document: Mapping[str, object] = json.loads(self.run("inspect", name).stdout)[0]
        return document


@contextmanager
def engine() -> Iterator[DockerEngine]:
    """A running engine, stopped and cleaned up at the end. Its folder's name is short: a socket's path is at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="lpe-docker-"))
    own = DockerEngine(folder)
    try:
        own.start()
        yield own
    finally:
        if own.daemon is not None:
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                own.remove_containers()
        own.stop()
        shutil.rmtree(folder, ignore_errors=True)


def busybox_rootfs(files: Mapping[str, str] | None = None, links: Mapping[str, str] | None = None) -> bytes:
    """A tar archive with busybox, ``files`` (path → text; executable when it starts with ``#!``) and symbolic ``links``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, "bin/busybox", BUSYBOX.read_bytes(), executable=True)
        for path, target in {**dict.fromkeys(("bin/sh", "bin/sleep", "bin/cat"), "busybox"), **(links or {})}.items():
            link = tarfile.TarInfo(path.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for path, text in (files or {}).items():
            _add(tar, path.lstrip("/"), text.encode(), executable=text.startswith("#!"))
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes, *, executable: bool) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode, member.mtime = len(content), 0o755 if executable else 0o644, int(time.time())
    tar.addfile(member, io.BytesIO(content))
