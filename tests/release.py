"""Build a release and use it as somebody would who installs it: ``make release``.

Checks that the version is set everywhere and has its section in the changelog. Builds the source package and the wheel from it,
and checks what is in them. Installs the wheel in an environment of its own, and measures a server of ``demo`` with it. The
packages are left in ``dist``. ``--unreleased`` leaves out what only a release must have: a dated section, a clean tree.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import venv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.ports import free_port  # noqa: E402
from tests.waiting import eventually  # noqa: E402

NAME: Final = "llm-probe-exporter"
# The images that the manifests of Kubernetes name.
TAGGED: Final = (
    "deploy/kubernetes/base/kustomization.yaml",
    "deploy/kubernetes/overlays/host-facts/kustomization.yaml",
)
# Files besides code without which the installed program would not run.
DATA: Final = (
    "exporter/profiles.yaml",
    "exporter/py.typed",
    "exporter/web/runbook.json",
    "exporter/web/static/status.css",
    "exporter/web/static/status.js",
    "exporter/web/templates/board.html",
    "exporter/web/templates/head.html",
    "exporter/web/templates/runbook.html",
    "exporter/web/templates/status.html",
)


def version_of(root: Path) -> str:
    """The version that the source says it is."""
    found = re.search(
        r'^__version__ = "([^"]+)"$', (root / "exporter/__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    if found is None:
        raise ValueError("exporter/__init__.py has no __version__")
    return found[1]


def version_problems(root: Path) -> list[str]:
    """Where the version is not what the source says: one line each, empty when all is well."""
    version = version_of(root)
    found = [
        f"{path}: newTag is not {version}"
        for path in TAGGED
        if re.findall(r"^ *newTag: (.+)$", (root / path).read_text(encoding="utf-8"), re.MULTILINE) != [version]
    ]
    return found if re.fullmatch(r"\d+\.\d+\.\d+", version) else [*found, f"{version} is not a version like 1.2.3"]


def release_problems(root: Path) -> list[str]:
    """What else a release must have: a section of the changelog, nothing left in the one above it, nothing uncommitted."""
    version = version_of(root)
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## \[([^\]]+)\](.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL))
    found = []
    if not re.match(r" - \d{4}-\d\d-\d\d\n\s*\S", sections.get(version, "")):
        found.append(f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD` that says what is new")
    if sections.get("Unreleased", "").strip():
        found.append("CHANGELOG.md: [Unreleased] is not empty; move its entries to the section of the release")
    changed = subprocess.run(["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True, check=False)
    if changed.returncode != 0 or changed.stdout:
        found.append(f"the tree is not that of a commit:\n{changed.stdout or changed.stderr}".rstrip())
    return found


def build(root: Path, target: Path) -> tuple[Path, Path]:
    """The source package and the wheel, which is built from the unpacked source package."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", target, root], check=True, stdout=subprocess.DEVNULL)
    (source,), (wheel,) = target.glob("*.tar.gz"), target.glob("*.whl")
    return source, wheel


def content_problems(source: Path, wheel: Path, version: str) -> list[str]:
    """What is in the packages that shouldn't be, or is not: one line each, empty when all is well."""
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        info = f"{NAME.replace('-', '_')}-{version}.dist-info"
        metadata = packed.read(f"{info}/METADATA").decode()
    with tarfile.open(source) as packed_source:
        sources = {name.partition("/")[2] for name in packed_source.getnames()}
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "exporter").rglob("*.py")}
    found = [f"the wheel lacks {name}" for name in sorted({*code, *DATA} - names)]
    found += [f"the wheel has {name}" for name in sorted(names) if not name.startswith(("exporter/", f"{info}/"))]
    found += [f"the source package lacks {name}" for name in sorted({*code, *DATA, "README.md", "LICENSE"} - sources)]
    if f"\nVersion: {version}\n" not in metadata:
        found.append(f"the wheel's metadata names another version than {version}")
    return found


def install(wheel: Path, folder: Path) -> Path:
    """The folder of programs of a new environment in which nothing but the wheel and its dependencies is installed."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", str(wheel)], check=True)
    subprocess.run([*pip, "check"], check=True, stdout=subprocess.DEVNULL)
    return folder / "bin"


@contextmanager
def running_demo(program: Path, folder: Path) -> Iterator[str]:
    """The URL of a demo that is ready; it must end well at SIGTERM."""
    address = f"127.0.0.1:{free_port()}"
    with (folder / "demo.log").open("wb") as log:
        process = subprocess.Popen([program, "demo", "--listen", address], stderr=log, cwd=folder)
        try:
            eventually(lambda: process.poll() is not None or fetch(f"http://{address}/-/ready"), "the demo is ready")
            if process.poll() is not None:
                raise RuntimeError((folder / "demo.log").read_text(encoding="utf-8"))
            yield f"http://{address}"
            process.send_signal(signal.SIGTERM)
            if (code := process.wait(20)) != 0:
                raise RuntimeError(f"the demo ended with {code} at SIGTERM")
        finally:
            process.kill()
            process.wait()


def fetch(url: str) -> str:
    """What is there."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def try_out(program: Path, version: str, folder: Path) -> None:
    """Measure a simulated server, scrape the daemon, open its pages; AssertionError where something is not as it should be."""
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    assert said.strip().endswith(f" {version}"), said
    with running_demo(program, folder) as url:
        subprocess.run([program, "healthcheck", "--url", url], check=True, stdout=subprocess.DEVNULL)
        targets = json.loads(fetch(f"{url}/api/v1/status"))["targets"]
        fastest = max(targets, key=lambda target: target["probes"][0]["tokens_per_second"] or 0)
        done = subprocess.run(
            [program, "probe", fastest["info"]["url"], "--json"], check=True, capture_output=True, text=True
        )
        report = json.loads(done.stdout)
        assert report["success"], report
        assert report["tokens_per_second"] > 1, report
        assert f'llm_probe_success{{module="default",target="{fastest["target"]}"}} 1.0' in fetch(f"{url}/metrics")
        assert 'id="llmthroughputpoor"' in fetch(f"{url}/runbook")
        assert fastest["target"] in fetch(f"{url}/")
    print(f"{fastest['target']}: {report['tokens_per_second']:.1f} tok/s, TTFT {report['ttft_seconds'] * 1000:.0f} ms")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--unreleased", action="store_true", help="leave out what only a release must have")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="folder of the packages, which is emptied first"
    )
    given = parser.parse_args(arguments)
    version = version_of(ROOT)
    if found := version_problems(ROOT) + ([] if given.unreleased else release_problems(ROOT)):
        print("\n".join(found), file=sys.stderr)
        return 1
    source, wheel = build(ROOT, given.out)
    if found := content_problems(source, wheel, version):
        print("\n".join(found), file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        try_out(install(wheel, Path(folder) / "environment") / NAME, version, Path(folder))
    print(f"{source.name}, {wheel.name}: built, checked, installed, probed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
