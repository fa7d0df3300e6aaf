"""The Kubernetes files as a whole: every reference leads somewhere, selectors meet labels, pods are restricted."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import __version__
from exporter.settings import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATIONS = sorted([*FOLDER.rglob("kustomization.yaml"), ROOT / "grafana" / "kustomization.yaml"])
WORKLOADS = (FOLDER / "base" / "deployment.yaml", FOLDER / "overlays" / "host-facts" / "daemonset.yaml")
CONFIGMAP_BYTES = 1_000_000


def read(path: Path) -> Any:
    """The one document of a file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def beside(workload: Path, name: str) -> Any:
    """A file in the same folder."""
    return read(workload.with_name(f"{name}.yaml"))


def files_of(kustomization: Path) -> Iterator[Path]:
    """The files that a kustomization names itself."""
    document = read(kustomization)
    for name in document.get("resources", []) + document.get("components", []):
        if (kustomization.parent / name).is_file():
            yield kustomization.parent / name
    for patch in document.get("patches", []):
        yield kustomization.parent / patch["path"]
    for generated in document.get("configMapGenerator", []):
        yield from (kustomization.parent / name.partition("=")[2 if "=" in name else 0] for name in generated["files"])


def objects_of(kustomization: Path) -> list[Any]:
    """All objects of a kustomization and of those it builds on, patches left out."""
    found = []
    for name in read(kustomization).get("resources", []):
        path = kustomization.parent / name
        found += [read(path)] if path.is_file() else objects_of(path / "kustomization.yaml")
    return found


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_every_reference_leads_somewhere(kustomization: Path) -> None:
    """What a kustomization names is there; files lie within its folder, as kustomize demands; no key is unknown here."""
    document = read(kustomization)
    known = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "configMapGenerator", "images"}
    assert set(document) <= known | {"generatorOptions"}
    for name in document.get("resources", []) + document.get("components", []):
        path = kustomization.parent / name
        assert path.is_file() or (path / "kustomization.yaml").is_file(), name
    for path in files_of(kustomization):
        assert path.is_file(), path
        assert path.resolve().is_relative_to(kustomization.parent.resolve()), path


def test_no_file_is_forgotten() -> None:
    """Each YAML file under deploy/kubernetes is named by a kustomization."""
    named = {path.resolve() for each in KUSTOMIZATIONS for path in files_of(each)}
    there = {path.resolve() for path in FOLDER.rglob("*.y*ml") if path.name != "kustomization.yaml"}
    assert there - named == set()


def test_objects_are_distinct() -> None:
    """The overlay that takes everything has no two objects of one kind and name in one namespace."""
    overlay = FOLDER / "overlays" / "operator" / "kustomization.yaml"
    namespaced = []
    for folder in ("../../base", "../host-facts"):
        base = overlay.parent / folder / "kustomization.yaml"
        namespaced += [(read(base)["namespace"], each["kind"], each["metadata"]["name"]) for each in objects_of(base)]
    assert len(namespaced) == len(set(namespaced)) == 10


@pytest.mark.parametrize(
    "patch", sorted((FOLDER / "components" / "host-paths").glob("[!k]*.yaml")), ids=lambda path: path.stem
)
def test_patches_meet_their_objects(patch: Path) -> None:
    """A patch names an object of the overlay that it is for, and the container in it."""
    change, original = read(patch), read(FOLDER / "overlays" / "host-facts" / patch.name)
    assert (change["kind"], change["metadata"]["name"]) == (original["kind"], original["metadata"]["name"])
    namespace = read(FOLDER / "overlays" / "host-facts" / "kustomization.yaml")["namespace"]
    assert change["metadata"].get("namespace", namespace) == namespace
    if change["kind"] == "DaemonSet":
        pods = [each["spec"]["template"]["spec"] for each in (change, original)]
        assert [pod["containers"][0]["name"] for pod in pods] == ["llm-probe-exporter"] * 2
        mounts, volumes = pods[0]["containers"][0]["volumeMounts"], pods[0]["volumes"]
        assert {mount["name"] for mount in mounts} == {volume["name"] for volume in volumes}
        assert all(mount["readOnly"] for mount in mounts)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda path: path.stem)
def test_pods_are_restricted(workload: Path) -> None:
    """The pod meets the restricted Pod Security standard, which its namespace enforces, and more: no token, no root file system."""
    pod = read(workload)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {
        "configMap",
        "secret",
        "emptyDir",
        "projected",
        "downwardAPI",
        "csi",
        "ephemeral",
        "persistentVolumeClaim",
    }
    assert all(set(volume) - {"name"} <= allowed for volume in pod.get("volumes", []))
    assert pod["automountServiceAccountToken"] is False
    assert "cpu" not in container["resources"]["limits"], "a limit on CPU time throttles what measures latencies"
    assert beside(workload, "namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda path: path.stem)
def test_selectors_meet_labels(workload: Path) -> None:
    """Workload, Service and NetworkPolicy select the pod by labels that it has, and ports are called by a name that it has."""
    spec = read(workload)["spec"]
    labels, pod = spec["template"]["metadata"]["labels"], spec["template"]["spec"]
    service, policy = beside(workload, "service"), beside(workload, "networkpolicy")
    for selector in (
        spec["selector"]["matchLabels"],
        service["spec"]["selector"],
        policy["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels.items()
    (port,) = pod["containers"][0]["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"] == policy["spec"]["ingress"][0]["ports"][0]["port"]
    assert pod["serviceAccountName"] == beside(workload, "serviceaccount")["metadata"]["name"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    monitor = read(FOLDER / "overlays" / "operator" / "servicemonitor.yaml")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert read(workload.with_name("kustomization.yaml"))["namespace"] in monitor["namespaceSelector"]["matchNames"]
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda path: path.stem)
def test_the_settings_in_the_pod_are_right(workload: Path) -> None:
    """The variables and the configuration are what the exporter takes; service links, which it would refuse, are off."""
    pod = read(workload)["spec"]["template"]["spec"]
    environment = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    file = FOLDER / "base" / "config.yml" if "LLM_PROBE_CONFIG" in environment else None
    settings = load(file, environment)
    assert settings.listen == "0.0.0.0:9937"
    assert (settings.discovery.local, settings.discovery.docker) == (False, False)
    assert pod["enableServiceLinks"] is False
    # The commented example is right, too.
    if file:
        lines = file.read_text(encoding="utf-8").replace("# targets", "targets").replace("#   ", "  ").splitlines()
        example = yaml.safe_load("\n".join(line for line in lines if "api_key_file" not in line))
        assert [target["name"] for target in example["targets"]] == ["vllm"]
        assert pod["volumes"][1]["secret"]["optional"] is True


def test_one_prober_that_is_replaced_and_never_doubled() -> None:
    """Two replicas would probe each server twice and disturb each other."""
    spec = read(WORKLOADS[0])["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_image_is_of_this_version() -> None:
    """Both parts name the image of this release, by a tag."""
    for workload in WORKLOADS:
        (image,) = read(workload.with_name("kustomization.yaml"))["images"]
        assert (image["name"], image["newTag"]) == ("llm-probe-exporter", __version__)


def test_dashboards_become_configmaps() -> None:
    """Each dashboard is in a ConfigMap of its own that is small enough, with the label that Grafana's sidecar looks for."""
    kustomization = read(ROOT / "grafana" / "kustomization.yaml")
    named = [file for each in kustomization["configMapGenerator"] for file in each["files"]]
    assert named == sorted(f"dashboards/{path.name}" for path in (ROOT / "grafana" / "dashboards").glob("*.json"))
    assert all(len(each["files"]) == 1 for each in kustomization["configMapGenerator"])
    assert all((ROOT / "grafana" / file).stat().st_size < CONFIGMAP_BYTES for file in named)
    assert all(json.loads((ROOT / "grafana" / file).read_text(encoding="utf-8"))["uid"] for file in named)
    assert kustomization["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}


def test_the_operators_rules_are_prometheus_own() -> None:
    """The PrometheusRule holds the groups of the rule files and no others, and its job is what the Service is called."""
    folder = ROOT / "deploy" / "prometheus" / "rules"
    groups = itertools.chain.from_iterable(read(folder / name)["groups"] for name in ("recording.yml", "alerts.yml"))
    rule = read(FOLDER / "overlays" / "operator" / "prometheusrule.yaml")
    assert rule["spec"]["groups"] == list(groups)
    jobs = set(re.findall(r'job="([^"]+)"', json.dumps(rule).replace('\\"', '"')))
    assert jobs == {read(workload.with_name("service.yaml"))["metadata"]["name"] for workload in WORKLOADS}
