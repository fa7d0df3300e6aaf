"""Machines as one file each (tests/fixtures/host/machines), written out as the files that they describe.

``origin`` says where the values come from, ``made_up`` which of them no source gives. ``files`` maps a path below the
root to its content, or a folder to more of the same.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from exporter.host.gpu import read_gpus, sample_gpus
from exporter.host.gpu_links import read_links, read_render_nodes
from exporter.host.other_gpus import read_other_gpus
from exporter.serving_gpu import Candidate, candidates_of

FOLDER = Path(__file__).parent.parent / "fixtures/host/machines"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def describe(name: str) -> dict[str, Any]:
    """The file of a machine."""
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return loaded


def build(name: str, root: Path) -> Path:
    """Write a machine's files below ``root``, and return it."""
    for place, content in _files(describe(name)["files"]):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}".rstrip("\n") + "\n")
    return root


def candidates(root: Path) -> tuple[Candidate, ...]:
    """All GPUs of a machine, as they may serve."""
    sysfs = root / "sys"
    return candidates_of(
        read_gpus(sysfs).gpus,
        sample_gpus(sysfs),
        read_links(sysfs),
        read_other_gpus(sysfs, root / "proc"),
        read_render_nodes(sysfs).items(),
    )


def _files(tree: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for name, content in tree.items():
        if isinstance(content, Mapping):
            yield from ((f"{name}/{place}", text) for place, text in _files(content))
        else:
            yield name, content
