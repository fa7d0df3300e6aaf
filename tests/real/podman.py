"""A private Podman: its own storage and its own API service on a socket, ended by its process id.

It runs its containers with runc, since crun starts none where both versions of cgroups are mounted.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.real.docker import find_program, unmount_below

PARTS = ("podman", "conmon", "runc")


@dataclass
class Podman:
    """A Podman whose containers, images and sockets lie under ``folder``."""

    folder: Path
    service: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Where the service listens: as Podman's own unit has it, below a runtime folder."""
        return self.folder / "podman" / "podman.sock"

    @property
    def host(self) -> str:
        """The service's address as in DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def _command(self) -> list[str]:
        return [
            "podman",
            f"--root={self.folder / 'root'}",
            f"--runroot={self.folder / 'run'}",
            f"--tmpdir={self.folder / 'tmp'}",
            "--storage-driver=overlay",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            f"--runtime={find_program('runc')}",
        ]

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")}

    def start(self) -> None:
        """Start the API service, and wait until its socket is there."""
        # Limits as the machine has them: Podman's own defaults may be above what this process may set.
        (self.folder / "containers.conf").write_text("[containers]\ndefault_ulimits = []\n", encoding="utf-8")
        self.socket.parent.mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.service = subprocess.Popen(
                [*self._command, "system", "service", "--time=0", self.host],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + 30
        while not self.socket.exists():
            if self.service.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"podman did not start: {(self.folder / 'log').read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the service; containers stay, since Podman has no daemon that they belong to."""
        if self.service is not None:
            self.service.terminate()
            self.service.wait(30)
            self.service = None
            self.socket.unlink(missing_ok=True)

    def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Run the podman command; its output."""
        done = subprocess.run(
            [*self._command, *arguments],
            input=stdin,
            env=self._environment,
            capture_output=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            raise RuntimeError(f"podman {' '.join(arguments)} failed: {done.stderr.decode('utf-8', 'replace')}")
        return done.stdout.decode("utf-8", "replace").strip()

    def import_image(self, tag: str, rootfs: bytes, changes: Sequence[str] = ()) -> None:
        """Make an image of a tar archive; ``changes`` are lines of a Dockerfile (``ENV A=b``)."""
        options = [option for change in changes for option in ("--change", change)]
        self.run("import", *options, "-", tag, stdin=rootfs)

    def start_container(self, name: str, image: str, *command: str, options: Sequence[str] = ()) -> None:
        """Run a container in the background, in the host's network."""
        self.run("run", "--detach", "--network=host", "--ulimit=host", f"--name={name}", *options, image, *command)


@contextmanager
def podman() -> Iterator[Podman]:
    """A running Podman, cleaned up at the end. Its folder's name is short: a socket's path is at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="lpe-podman-"))
    own = Podman(folder)
    try:
        own.start()
        yield own
    finally:
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            own.run("rm", "--all", "--force", "--time=0")
        own.stop()
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
