"""Documents for the tests: those under fixtures/containers, and small ones made up on the spot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "fixtures" / "containers"
CANARY = "canary-5f2b9c"


def load(name: str) -> dict[str, Any]:
    """One of the stored documents."""
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return document


def made_up(
    command: Sequence[str] = (),
    image: str = "example.org/own:1",
    environment: Mapping[str, str] | None = None,
    network: str = "host",
    **config: object,
) -> dict[str, Any]:
    """The least that an engine says of a running container."""
    variables = [f"{name}={value}" for name, value in (environment or {}).items()]
    return {
        "Id": "0123456789ab" + "0" * 52,
        "Name": "/made-up",
        "Image": "sha256:" + "1" * 64,
        "State": {"Running": True},
        "Config": {"Image": image, "Cmd": list(command), "Env": variables, **config},
        "HostConfig": {"NetworkMode": network},
    }
