"""The compose file as data: hardened, on the loopback, pinned, and its parts agree with each other."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.settings import load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
DOCUMENT: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = DOCUMENT["services"]


def mounts(service: str) -> list[tuple[str, str, str]]:
    """(source, target, mode) of a service's mounts in the short form."""
    short = [volume for volume in SERVICES[service].get("volumes", []) if isinstance(volume, str)]
    return [tuple([*re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", each).split(":"), "rw"][:3]) for each in short]  # type: ignore[misc]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name: str) -> None:
    """No service is root or can become it, writes to its own file system, has a capability, or may take all memory."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"(\$\{\w+:-)?\d+:\d+\}?|65534:\$\{DOCKER_GID:-0\}", service["user"])
    assert service["ulimits"] == {"core": 0}
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["logging"]["options"]["max-size"]
    assert service["restart"] == "unless-stopped"
    assert not {"privileged", "cap_add", "devices", "ipc", "ports", "cpus", "cpu_quota"} & set(service)
    # Only the exporter may see the machine's processes, and only where its owner says so.
    assert service.get("pid") == ("${EXPORTER_PID:-}" if name == "exporter" else None)


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    """Each image but the one that is built here has the tag of one release, and the digest of its manifest list."""
    image = SERVICES[name]["image"]
    pinned = re.fullmatch(r"\$\{[A-Z_]+_IMAGE:-[a-z/-]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}\}", image)
    assert pinned or image == "${EXPORTER_IMAGE:-llm-probe-exporter:latest}"


def start_grafana(data: Path, **environ: str) -> str:
    """The password that grafana-start.sh gives to what it starts; empty for none."""
    shown = ["sh", "-c", 'printf %s "${GF_SECURITY_ADMIN_PASSWORD:-}" >"$1"', "sh", str(data / "shown")]
    command = ["sh", str(FOLDER / "grafana-start.sh"), *shown]
    subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "GF_PATHS_DATA": str(data), **environ},
        check=True,
        capture_output=True,
    )
    return (data / "shown").read_text()


def test_grafana_gets_a_password_of_its_own(tmp_path: Path) -> None:
    """One is made where none is given, kept for the next start, readable for its owner alone, and never the same twice."""
    first, second = tmp_path / "a", tmp_path / "b"
    for each in (first, second):
        each.mkdir()
    made = start_grafana(first)
    assert re.fullmatch(r"[A-Za-z0-9_-]{24}", made)
    assert start_grafana(first) == made != start_grafana(second)
    assert (first / "admin-password").stat().st_mode & 0o777 == 0o600
    assert start_grafana(second, GF_SECURITY_ADMIN_PASSWORD="mine") == "mine"
    old = tmp_path / "old"
    old.mkdir()
    (old / "grafana.db").touch()
    assert start_grafana(old) == ""
    assert not (old / "admin-password").exists()
    assert SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_ADMIN_PASSWORD:-}"


def test_what_is_mounted_is_there_and_read_only() -> None:
    """Each file of this repository that is mounted exists and can't be written; only sockets and data can."""
    for name in SERVICES:
        for source, _, mode in mounts(name):
            if source.startswith("."):
                assert (FOLDER / source).exists(), source
                assert mode == "ro", source
            elif not source.startswith("/"):
                assert source in DOCUMENT["volumes"]
    assert "history:/var/lib/llm-probe-exporter" in SERVICES["exporter"]["volumes"]
    # The engine's socket goes to the proxy alone, which has no network.
    assert [name for name in SERVICES if ":/var/run/docker.sock" in str(SERVICES[name].get("volumes"))] == [
        "docker-proxy"
    ]
    assert SERVICES["docker-proxy"]["network_mode"] == "none"


def test_all_listen_on_the_loopback_where_the_others_connect() -> None:
    """Addresses in the command lines are those in the configurations of Prometheus, Grafana and the exporter."""
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    source = yaml.safe_load((ROOT / "grafana/provisioning/datasources/llm-probe.yml").read_text(encoding="utf-8"))
    provider = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/llm-probe.yml").read_text(encoding="utf-8"))
    listen = "--web.listen-address="
    at = {
        name: next(each for each in SERVICES[name]["command"] if each.startswith(listen)).removeprefix(listen)
        for name in ("prometheus", "alertmanager")
    }
    assert source["datasources"][0]["url"] == f"http://{at['prometheus']}"
    assert prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == [at["alertmanager"]]
    exporter = SERVICES["exporter"]["environment"]["LLM_PROBE_LISTEN"].replace("${EXPORTER_PORT:-9937}", "9937")
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == [exporter]
    assert (
        SERVICES["demo"]["environment"]["LLM_PROBE_LISTEN"] == SERVICES["exporter"]["environment"]["LLM_PROBE_LISTEN"]
    )
    assert all(address.startswith("127.0.0.1:") for address in (*at.values(), exporter))
    assert SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    folder = provider["providers"][0]["options"]["path"]
    assert folder in [target for _, target, _ in mounts("grafana")]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "grafana" / "dashboards" / Path(home).relative_to(folder)).is_file()


def test_the_settings_are_right() -> None:
    """What the compose file sets and the configuration that it mounts are what the exporter takes."""
    plain = {
        key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for key, value in SERVICES["exporter"]["environment"].items()
    }
    settings = load(FOLDER / "config" / "config.yml", plain)
    assert settings.docker.host == "unix:///run/docker-proxy/docker.sock"
    assert settings.listen == "127.0.0.1:9937"
    assert (settings.discovery.local, settings.discovery.docker, settings.targets) == (True, True, ())


def test_the_example_of_the_environment_is_complete() -> None:
    """.env.example names the variables that the compose file reads, save those for tests, and no other."""
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    read = set(re.findall(r"\$\{(\w+)", text)) | {"COMPOSE_PROFILES"}
    named = set(re.findall(r"^#?([A-Z_]+)=", (FOLDER / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    images = {name for name in read if name.endswith("_IMAGE")}
    assert read - named - images == {"EXPORTER_PORT", "CONFIG_FOLDER"}
    assert named <= read
    profiles = {profile for service in SERVICES.values() for profile in service["profiles"]}
    assert profiles == {"full", "exporter", "demo", "docker"}


def test_the_proxy_passes_what_is_documented() -> None:
    """The allow-list is the one of docs/docker.md, call by call."""
    documented = re.findall(r"'(-allowGET=\S+)'", (ROOT / "docs" / "docker.md").read_text(encoding="utf-8"))
    allowed = [each for each in SERVICES["docker-proxy"]["command"] if each.startswith("-allowGET")]
    assert allowed == documented
    assert not [each for each in SERVICES["docker-proxy"]["command"] if re.match(r"-allow(?!GET|healthcheck)", each)]
