"""Settings of a daemon that does nothing but probe: no discovery, no Docker, a machine without anything to read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from exporter.settings import Discovery, Docker, Host, Settings, Target
from tests.ports import free_port

PROBES_ONLY = "discovery: {local: false, docker: false}\ndocker: {enabled: false}\ncache: {paths: []}\n"
"""The same in the text of a configuration."""


def settings_of(folder: Path, targets: Iterable[Target] = (), *, port: int | None = None, **changes: Any) -> Settings:
    """Settings with the module ``default`` alone for each target, at a free port unless told; ``changes`` replace or add keys."""
    values: dict[str, Any] = {
        "listen": f"127.0.0.1:{port or free_port()}",
        "targets": tuple(each.model_copy(update={"modules": ("default",)}) for each in targets),
        "discovery": Discovery(local=False, docker=False),
        "docker": Docker(enabled=False),
        "host": Host(sysfs=folder, rocm=folder),
        "cache": {"paths": ()},
        "modules": {"default": {"interval": "1s", "max_tokens": 16}},
    }
    return Settings.model_validate(values | changes)
