"""Kubernetes' own schemas, strictly: no unknown key, no wrong type, in any object that is not an operator's."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.real.conftest import need

pytestmark = pytest.mark.real

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
OLDEST = "1.29"


def objects() -> list[Path]:
    """The files that hold whole objects of Kubernetes itself; patches and the operator's are left out."""
    ours = {"kustomization.yaml", "config.yml"}
    found = [
        path for path in sorted(FOLDER.rglob("*.y*ml")) if path.name not in ours and "components" not in path.parts
    ]
    return [path for path in found if "monitoring.coreos.com" not in path.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def validator() -> Any:
    """The package that brings the schemas."""
    need(importlib.util.find_spec("kubernetes_validate"), "kubernetes-validate")
    return importlib.import_module("kubernetes_validate")


@pytest.mark.parametrize("path", objects(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_schemas(path: Path, validator: Any) -> None:
    """The object is right by the schemas of an older release and of the newest that is known."""
    for version in (OLDEST, validator.latest_version()):
        validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")), version, strict=True)


def test_a_mistake_is_found(validator: Any) -> None:
    """The check is none that passes everything: a key in the wrong place is refused."""
    document = yaml.safe_load((FOLDER / "base" / "deployment.yaml").read_text(encoding="utf-8"))
    document["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True
    with pytest.raises(validator.ValidationError):
        validator.validate(document, OLDEST, strict=True)
    assert len(objects()) == 10
