"""Images for the private engine, made without a hub: a Debian base, the exporter's own image on it, one with systemd.

The base stands under the name that the Dockerfile's BASE has, and is given to it. What pip needs on this machine (certificates, an index of
its own, a proxy) goes into the base or into build arguments, never into the Dockerfile. Builds use the host's network.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from tests.real.docker import DockerEngine

ROOT = Path(__file__).parents[2]
EXPORTER = "llm-probe-exporter:test"
SYSTEMD = "llm-probe-exporter-systemd:test"
PACKAGES = "python3-minimal,python3-venv,ca-certificates"
SOURCES = ("exporter", "deploy", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD_SECONDS = 900


def missing_parts() -> str:
    """What this machine lacks to make images, for a skip that names it; empty when nothing."""
    return "" if shutil.which("mmdebstrap") or _tarball().exists() else "mmdebstrap"


def base_name() -> str:
    """The image that the Dockerfile builds on, without its digest: a stand-in has another."""
    found = re.search(r"^ARG BASE=(\S+)@sha256:\S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "the Dockerfile names no base"
    return found[1]


def exists(engine: DockerEngine, tag: str) -> bool:
    """Whether the engine has the image."""
    return engine.run("image", "inspect", tag, check=False).returncode == 0


def base(engine: DockerEngine) -> str:
    """The Debian base; its tar archive is kept in the cache folder, since making it takes most of a minute."""
    tag = base_name()
    if not exists(engine, tag):
        tarball = _tarball()
        if not tarball.exists():
            tarball.parent.mkdir(parents=True, exist_ok=True)
            unfinished = tarball.with_name(f"{tarball.name}.{os.getpid()}.tar")
            command = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={PACKAGES}", "bookworm", str(unfinished)]
            subprocess.run(command, check=True, timeout=BUILD_SECONDS)
            unfinished.rename(tarball)
        engine.import_image("debian-base:test", tarball.read_bytes(), ["ENV LANG=C.UTF-8"])
        with tempfile.TemporaryDirectory() as folder:
            _configure_pip(Path(folder))
            lines = ("FROM debian-base:test", "COPY pip.conf /etc/pip.conf", "COPY certificates.crt /etc/host-ca.crt")
            (Path(folder) / "Dockerfile").write_text("\n".join(lines), encoding="utf-8")
            build(engine, Path(folder), tag)
    return tag


def _tarball() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LLM_PROBE_CACHE") or Path(cache) / "llm-probe-exporter") / "bookworm-python.tar"


def _configure_pip(folder: Path) -> None:
    """What pip on this machine knows of certificates and of an index, for a pip in a container."""
    lines = ["[global]", "disable-pip-version-check = true", "timeout = 180"]
    if CERTIFICATES.exists():
        lines.append("cert = /etc/host-ca.crt")
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    )
    found = re.findall(r"^\S+\.(index-url|trusted-host)='(http.*|[\w.-]+)'$", listed.stdout, re.MULTILINE)
    lines += [f"{key} = {value}" for key, value in found]
    (folder / "pip.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "certificates.crt").write_bytes(CERTIFICATES.read_bytes() if CERTIFICATES.exists() else b"")


def exporter(engine: DockerEngine) -> str:
    """The exporter's image, built from this checkout by its Dockerfile as it is, on the stand-in for its base."""
    if not exists(engine, EXPORTER):
        arguments = {"BASE": base(engine), "VERSION": "0.0.0+test", "REVISION": "test"}
        build(engine, ROOT, EXPORTER, [f"--build-arg={name}={value}" for name, value in arguments.items()])
    return EXPORTER


def systemd(engine: DockerEngine) -> str:
    """An image that boots systemd, with the exporter installed by its install.sh, not started."""
    if not exists(engine, SYSTEMD):
        lines = (
            f"FROM {base(engine)}",
            "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus >/dev/null",
            "COPY src /src",
            "RUN /src/deploy/systemd/install.sh --no-start",
        )
        with tempfile.TemporaryDirectory() as folder:
            copy_sources(Path(folder) / "src")
            (Path(folder) / "Dockerfile").write_text("\n".join(lines), encoding="utf-8")
            build(engine, Path(folder), SYSTEMD)
    return SYSTEMD


def copy_sources(folder: Path) -> None:
    """What a release would hold, without what tests left behind."""
    folder.mkdir(parents=True)
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)


def build(engine: DockerEngine, context: Path, tag: str, options: Sequence[str] = ()) -> None:
    """Build an image with BuildKit; the error holds the end of the build's output.

    Debian's docker has BuildKit built in; a newer client earlier in the path may lack the plugin that it needs for it.
    """
    program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    environment = {
        **os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_HOST": engine.host, "DOCKER_CONFIG": str(engine.folder / "config"),
    }  # fmt: skip
    proxies = [f"--build-arg={name}" for name in PROXIES if name in os.environ]
    done = subprocess.run(
        [program, "build", "--network=host", f"--tag={tag}", *proxies, *options, str(context)],
        env=environment, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"building {tag} failed:\n{done.stderr[-3000:]}"


def file_in(engine: DockerEngine, container: str, path: str) -> bytes:
    """The content of a file in a container, which may lack any program to read it."""
    program = ["docker", "cp", f"{container}:{path}", "-"]
    done = subprocess.run(program, env={**os.environ, "DOCKER_HOST": engine.host}, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as tar:
        member = tar.extractfile(tar.getmembers()[0])
        assert member
        return member.read()
