"""Settings: a good file, each kind of bad one with its exact messages, the environment, values and files by property."""

import json
import os
import string
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from exporter.settings import (
    Budget,
    Docker,
    Module,
    Problem,
    Settings,
    SettingsError,
    Target,
    Thresholds,
    Timeouts,
    check_url,
    format_duration,
    load,
    load_profiles,
    load_web_config,
    name_from_url,
    parse_duration,
    prompt_url,
    split_listen,
)
from exporter.settings.document import QUICK, read_document
from exporter.settings.errors import is_path
from exporter.settings.load import PROFILES
from exporter.settings.values import PathPattern

GOLDEN = Path(__file__).parent / "golden" / "settings"
BAD_FILES = sorted(path.stem for path in GOLDEN.glob("*.txt"))

HASH = "$2b$04$" + "x" * 53

DOCUMENTED = """
listen: 127.0.0.1:9937
web_config_file: web.yml
discovery: {local: true, docker: true, interval: 60s}
targets:
  - name: vllm
    url: http://127.0.0.1:8000
    backend: auto
    model: null
    modules: [default]
    api_key_file: null
    tls: {ca_file: null, insecure_skip_verify: false}
    hardware: auto
    scenario: auto
    tiers: {excellent: 20, good: 15, acceptable: 10}
    budget: {share: 5%}
targets_files: [targets.d/*.yml]
modules:
  default:  {interval: 60s, max_tokens: 64, prompt_tokens: 64, concurrency: 1}
  prefill:  {interval: 10m, max_tokens: 16, prompt_tokens: 2048}
  parallel: {interval: 10m, max_tokens: 64, concurrency: 4}
  patient:
    timeouts: {connect: 5s, first_token: 120s, stalled: 30s, total: 180s}
    when_busy: probe
    max_skips: 30
    when_unloaded: load
cache:   {interval: 15m, paths: auto}
host:    {sysfs: /sys, rocm: /opt/rocm, minimum_rocm: "7.0"}
docker:  {host: unix:///var/run/docker.sock, enabled: auto}
probe_endpoint: {allow: []}
"""


def write(folder: Path, text: str, name: str = "config.yml") -> Path:
    """A file in a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    """What ``load`` finds wrong, as a person reads it."""
    with pytest.raises(SettingsError) as caught:
        load(path, environ or {})
    return [str(problem) for problem in caught.value.errors]


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gives_exactly_these_messages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All errors of a file come at once, in its order, each with its line, its path and what to do."""
    monkeypatch.chdir(GOLDEN)
    expected = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert problems_of(Path(f"{name}.yml")) == expected


def test_every_bad_file_has_its_messages() -> None:
    """No file of the table is left out, but for those that others name."""
    assert {path.stem for path in GOLDEN.glob("*.yml")} - {"my-profiles", "my-web"} == set(BAD_FILES)


def test_no_message_repeats_a_key() -> None:
    """The passwords of the bad files stand in none of the messages."""
    assert sum("hunter2" in path.read_text(encoding="utf-8", errors="replace") for path in GOLDEN.glob("*.yml")) >= 2
    assert not any("hunter2" in path.read_text(encoding="utf-8") for path in GOLDEN.glob("*.txt"))


def test_the_documented_file_loads(tmp_path: Path) -> None:
    """The file that the interface documents is right, and means what it says."""
    write(tmp_path, f"basic_auth_users: {{prometheus: {HASH}}}\n", "web.yml")
    write(tmp_path, "- {name: far, url: https://far.example/openai/v1}\n", "targets.d/far.yml")
    settings = load(write(tmp_path, DOCUMENTED), {})
    assert [(target.name, target.url) for target in settings.targets] == [
        ("vllm", "http://127.0.0.1:8000"),
        ("far", "https://far.example/openai"),
    ]
    assert settings.targets[0].tiers == Thresholds(excellent=20, good=15, acceptable=10)
    assert settings.targets[0].budget == Budget(share=0.05)
    assert settings.web_config_file == tmp_path / "web.yml"
    assert settings.modules["patient"].timeouts == Timeouts()
    assert settings.modules["patient"].when_busy == "probe"
    assert settings.cache.paths is None
    assert settings.docker.enabled is None
    assert settings.host.minimum_rocm == "7.0"


def test_what_the_documented_file_spells_out_are_the_defaults(tmp_path: Path) -> None:
    """Nothing at all gives the same as the documented values, so the documentation states the true defaults."""
    text = DOCUMENTED.replace("web_config_file: web.yml\n", "").replace("targets_files: [targets.d/*.yml]\n", "")
    spelled, silent = load(write(tmp_path, text), {}), load(None, {})
    assert silent == spelled.model_copy(
        update={
            "targets": (),
            "modules": {name: spelled.modules[name] for name in ("default", "prefill", "parallel", "canary")},
            "docker": Docker(),  # looks for the socket that the documented value names, and for others
        }
    )


def test_an_empty_mapping_and_keys_without_a_value_keep_the_defaults(tmp_path: Path) -> None:
    """A section whose lines are all commented out is not an error."""
    empty = load(write(tmp_path, "{}\n"), {})
    bare = load(write(tmp_path, "listen:\ntargets:\nmodules: {default: , long: }\ncache: ~\n"), {})
    assert empty == load(None, {})
    assert bare.modules["long"] == Module()
    assert bare.model_copy(update={"modules": empty.modules}) == empty


def test_a_users_modules_extend_and_override_the_built_in_ones_key_by_key(tmp_path: Path) -> None:
    """Only the interval of ``prefill`` is given: its long prompt stays, and so do the other modules."""
    modules = load(write(tmp_path, "modules: {prefill: {interval: 5m}, slow: {interval: 1h}}\n"), {}).modules
    assert (modules["prefill"].interval, modules["prefill"].prompt_tokens) == (300.0, 2048)
    assert modules["slow"] == Module(interval=3600.0)
    assert modules["parallel"].concurrency == 4
    assert Settings(modules={"prefill": Module(interval=300.0)}).modules["prefill"].prompt_tokens == 64


def test_a_short_total_shortens_the_timeouts_that_were_not_given() -> None:
    """A user who sets only ``total`` meets no contradiction with defaults that he never saw."""
    assert Timeouts(total=20.0) == Timeouts(total=20.0, connect=5.0, first_token=20.0, stalled=20.0)


def test_a_target_is_named_by_its_address() -> None:
    """A target without a name gets host and port, the port also where the scheme implies it."""
    assert Target(url="http://127.0.0.1:8000").name == "127.0.0.1:8000"
    assert Target(url="https://llm.example/v1").name == "llm.example:443"
    assert Target(url="http://[::1]").name == "[::1]:80"


def test_settings_are_frozen() -> None:
    """What was validated can't be changed afterwards."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().listen = "0.0.0.0:1"


def test_settings_made_in_code_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ``load`` reads the environment, and only the one that it is given."""
    monkeypatch.setenv("LLM_PROBE_LISTEN", "0.0.0.0:1")
    assert Settings().listen == load(None, {}).listen == "127.0.0.1:9937"


def test_paths_are_seen_from_the_folder_of_their_file(tmp_path: Path) -> None:
    """A relative path means the same wherever the daemon was started, also in a file of targets."""
    write(tmp_path, "secret\n", "keys/a")
    write(tmp_path, "secret\n", "more/b")
    write(tmp_path, "- {name: b, url: http://b, api_key_file: b}\n", "more/targets.yml")
    write(tmp_path, "cache", "home/.cache/x")
    path = write(
        tmp_path, "targets: [{name: a, url: http://a, api_key_file: keys/a}]\ntargets_files: [more/targets.yml]\n"
    )
    assert [target.api_key_file for target in load(path, {}).targets] == [
        tmp_path / "keys" / "a",
        tmp_path / "more" / "b",
    ]


def test_every_setting_that_is_a_path_is_seen_from_the_folder(tmp_path: Path) -> None:
    """Which values are paths follows from the types of the settings, so none is left out; ``~`` is the home."""
    text = "host: {sysfs: machine/sys, rocm: ~/rocm}\ncache: {paths: [{name: a, kind: files, path: models}]}\n"
    settings = load(write(tmp_path, text), {})
    assert settings.host.sysfs == tmp_path / "machine" / "sys"
    assert settings.host.rocm == Path.home() / "rocm"
    assert settings.cache.paths is not None
    assert settings.cache.paths[0].path == tmp_path / "models"


@pytest.mark.parametrize(
    ("annotation", "value", "path"),
    [
        (Path, "a", True),
        (Path | None, "a", True),
        (PathPattern, "*.yml", True),
        (Literal["auto"] | Annotated[Path, "a note"], "a", True),
        (Literal["auto"] | Path, "auto", False),
        (str | None, "a", False),
        (None, "a", False),
    ],
)
def test_a_word_that_a_setting_knows_is_not_a_path(annotation: object, value: str, *, path: bool) -> None:
    """``auto`` stays ``auto`` where a path may stand instead."""
    assert is_path(annotation, value) is path


def test_null_in_a_module_is_its_default(tmp_path: Path) -> None:
    """As everywhere else in a file; a module that is null has all defaults."""
    settings = load(write(tmp_path, "modules: {default: {max_tokens: null, max_skips: 3}, slow: null}\n"), {})
    assert settings.modules["default"] == Module(max_skips=3)
    assert settings.modules["slow"] == Module()


def test_a_file_of_targets_matched_twice_counts_once(tmp_path: Path) -> None:
    """Overlapping patterns don't make duplicates."""
    write(tmp_path, "- {name: a, url: http://a}\n", "t/a.yml")
    assert len(load(write(tmp_path, "targets_files: [t/*.yml, t/a.yml]\n"), {}).targets) == 1


def test_an_unreadable_key_file_is_an_error(tmp_path: Path) -> None:
    """A key that the daemon may not read is found at the start; its content is not looked at."""
    key = write(tmp_path, "secret\n", "key")
    key.chmod(0)
    path = write(tmp_path, "targets: [{name: a, url: http://a, api_key_file: key}]\n")
    if os.geteuid() == 0:  # root may read everything
        assert load(path, {}).targets[0].api_key_file == key
    else:
        (problem,) = problems_of(path)
        assert problem.startswith(f"{path}:1: targets[0].api_key_file: can't be read, permission denied")


def test_a_missing_file_a_folder_and_a_huge_file(tmp_path: Path) -> None:
    """What can't be read as a configuration says why, without being read whole."""
    assert problems_of(tmp_path / "none.yml") == [f"{tmp_path}/none.yml: there is no such file"]
    assert problems_of(tmp_path) == [f"{tmp_path}: can't be read: is a directory"]
    huge = tmp_path / "huge.yml"
    with huge.open("wb") as file:
        file.truncate(1 << 33)
    assert problems_of(huge) == [f"{huge}: is larger than 1 MiB"]


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    """Files of editors that mark UTF-8 load."""
    assert load(write(tmp_path, "\ufefflisten: 127.0.0.1:1\n"), {}).listen == "127.0.0.1:1"


def test_a_thousand_targets_load(tmp_path: Path) -> None:
    """The bounds on a file leave room for a large fleet."""
    lines = (
        f"- {{name: host{n}, url: 'http://10.0.{n // 250}.{n % 250}:8000', modules: [default]}}\n" for n in range(1000)
    )
    write(tmp_path, "".join(lines), "fleet.yml")
    assert len(load(write(tmp_path, "targets_files: [fleet.yml]\n"), {}).targets) == 1000


# The environment


def test_the_environment_wins_over_the_file_key_by_key(tmp_path: Path) -> None:
    """A variable changes its key and no other; lists are replaced as a whole."""
    path = write(
        tmp_path,
        "listen: 127.0.0.1:1\ndiscovery: {local: false, interval: 5m}\n"
        "modules: {default: {interval: 2m, max_tokens: 32}}\ntargets: [{url: http://a}, {url: http://b}]\n",
    )
    environ = {
        "LLM_PROBE_LISTEN": "[::]:9937",
        "LLM_PROBE_DISCOVERY__INTERVAL": "10m",
        "LLM_PROBE_MODULES__DEFAULT__INTERVAL": "30s",
        "LLM_PROBE_TARGETS": '[{"url": "http://127.0.0.1:8000", "tiers": {"excellent": 30, "good": 20, "acceptable": 5}}]',
        "LLM_PROBE_HOST__MINIMUM_ROCM": "7.10",
        "LLM_PROBE_DOCKER__ENABLED": "false",
        "LLM_PROBE_MODULES__LONG": "{interval: 1h, timeouts: {total: 10m}}",
        "LLM_PROBE_MODULES__LONG__TIMEOUTS__STALLED": "1m",
    }
    settings = load(path, environ)
    assert settings.listen == "[::]:9937"
    assert (settings.discovery.local, settings.discovery.interval) == (False, 600.0)
    assert (settings.modules["default"].interval, settings.modules["default"].max_tokens) == (30.0, 32)
    assert [target.url for target in settings.targets] == ["http://127.0.0.1:8000"]
    assert settings.host.minimum_rocm == "7.10"
    assert settings.docker.enabled is False
    assert (settings.modules["long"].timeouts.total, settings.modules["long"].timeouts.stalled) == (600.0, 60.0)


def test_targets_in_the_environment_may_be_yaml(tmp_path: Path) -> None:
    """A unit file needs no JSON; targets files are still added."""
    write(tmp_path, "- url: http://b\n", "more.yml")
    path = write(tmp_path, "targets_files: [more.yml]\n")
    settings = load(path, {"LLM_PROBE_TARGETS": "[{url: http://a, name: mine}]"})
    assert [target.name for target in settings.targets] == ["mine", "b:80"]


def test_a_module_may_add_to_its_requests(tmp_path: Path) -> None:
    """Fields keep their JSON types, headers are text, and a header with a secret is the path of a file."""
    write(tmp_path, "hunter2\n", "key")
    text = """
modules:
  default:
    request: {chat_template_kwargs: {enable_thinking: false}, top_k: 1, top_p: 0.5, stop: [a, "b"], tag: fast}
    headers: {X-Priority: low}
    header_files: {X-Api-Key: key}
"""
    module = load(write(tmp_path, text), {}).modules["default"]
    assert module.request == {
        "chat_template_kwargs": {"enable_thinking": False},
        "top_k": 1,
        "top_p": 0.5,
        "stop": ["a", "b"],
        "tag": "fast",
    }
    assert (module.headers, module.header_files) == ({"X-Priority": "low"}, {"X-Api-Key": tmp_path / "key"})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("request: {max_tokens: 5}", "request sets max_tokens, which the exporter sets for each probe"),
        ("request: {temperature: .inf}", None),
        ("request: {a: {b: [inf]}}", "has a number in it that JSON can't hold: inf"),
        ("headers: {X-Api-Key: hunter2}", "headers sets X-Api-Key, which holds a secret: put it into a file"),
        ("headers: {Authorization: hunter2}", "headers sets Authorization, which holds a secret"),
        ("headers: {Host: a}", "is a header that the exporter sets itself: Host"),
        ('headers: {"a b": c}', "is not the name of a header"),
        ('headers: {X-A: "a\\nb"}', "has a character in it that a header can't hold"),
        ("header_files: {X-Api-Key: /nowhere}", "there is no such file"),
    ],
)
def test_what_a_module_may_not_add(tmp_path: Path, module: str, message: str | None) -> None:
    """What the probe sets itself, what HTTP can't carry, and secrets in the file; no message shows one."""
    path = write(tmp_path, f"modules: {{default: {{{module}}}}}\n")
    if message is None:
        assert load(path, {}).modules["default"].request == {"temperature": ".inf"}
        return
    (problem,) = problems_of(path)
    assert message in problem
    assert "hunter2" not in problem


def test_variables_that_kubernetes_sets_for_a_service_are_no_settings() -> None:
    """A service named llm-probe-exporter gives each container of its namespace these."""
    environ = {
        "LLM_PROBE_EXPORTER_SERVICE_HOST": "10.0.0.7",
        "LLM_PROBE_EXPORTER_SERVICE_PORT": "9937",
        "LLM_PROBE_EXPORTER_SERVICE_PORT_HTTP_METRICS": "9937",
        "LLM_PROBE_EXPORTER_PORT": "tcp://10.0.0.7:9937",
        "LLM_PROBE_EXPORTER_PORT_9937_TCP": "tcp://10.0.0.7:9937",
        "LLM_PROBE_EXPORTER_PORT_9937_TCP_PROTO": "tcp",
        "LLM_PROBE_EXPORTER_PORT_9937_TCP_PORT": "9937",
        "LLM_PROBE_EXPORTER_PORT_9937_TCP_ADDR": "10.0.0.7",
        "LLM_PROBE_PORT": "tcp://10.0.0.8:80",
    }
    assert load(None, environ) == load(None, {})
    assert problems_of(None, {"LLM_PROBE_PORT": "80"}) == ["LLM_PROBE_PORT: is not a setting"]


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("localhost:8000/v1", "http://localhost:8000"),
        ("box.lan:80/llm/v1/", "http://box.lan:80/llm"),
        ("[::1]:8000", "http://[::1]:8000"),
        (":8000", "http://127.0.0.1:8000"),
        ("8000", "http://127.0.0.1:8000"),
        ("https://a.example/v1", "https://a.example"),
    ],
)
def test_an_address_at_the_prompt_needs_no_scheme(typed: str, url: str) -> None:
    """A port alone, a host and a port, IPv6, a path, /v1."""
    assert check_url(prompt_url(typed)) == url


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/llm/v1/completions/", "/api/chat", "/v1/models", "/metrics", "/chat/completions"]
)
def test_a_pasted_path_of_a_request_is_said(path: str) -> None:
    """It is no address of a server, and what to leave out is named."""
    with pytest.raises(ValueError, match="the path of a request: give the server's address alone") as caught:
        check_url(f"http://127.0.0.1:8000{path}")
    assert path.rstrip("/").removeprefix("/llm") in str(caught.value)


def test_empty_variables_and_those_of_others_are_left_alone() -> None:
    """Compose files pass empty variables on; the tests and the command line have variables of their own."""
    environ = {
        "LLM_PROBE_LISTEN": "",
        "LLM_PROBE_CACHE": "/var/cache/parts",
        "LLM_PROBE_REQUIRE_REAL": "1",
        "LLM_PROBE_CONFIG": "x.yml",
        "PATH": "/bin",
        "HOME": "/",
    }
    assert load(None, environ) == load(None, {})


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LLM_PROBE_LISTN", "x", "is not a setting: did you mean LLM_PROBE_LISTEN?"),
        ("LLM_PROBE_DISCOVERY__LOKAL", "x", "is not a setting: did you mean LLM_PROBE_DISCOVERY__LOCAL?"),
        ("LLM_PROBE_MODULES__X__INTERVALL", "1s", "is not a setting: did you mean LLM_PROBE_MODULES__X__INTERVAL?"),
        ("LLM_PROBE_WHATEVER", "x", "is not a setting"),
        ("LLM_PROBE_LISTEN__PORT", "1", "is not a setting"),
        ("LLM_PROBE_TARGETS__0__URL", "x", "is not a setting: give LLM_PROBE_TARGETS as a whole, in YAML or JSON"),
        (
            "LLM_PROBE_API_KEY",
            "hunter2",
            "a key is not allowed here: put it into a file of its own and name that with api_key_file",
        ),
        (
            "LLM_PROBE_DISCOVERY__INTERVAL",
            "60",
            "discovery.interval: has no unit: write it like 500ms, 60s, 5m or 1h30m",
        ),
        ("LLM_PROBE_DISCOVERY", "often", "discovery: must be a mapping (key: value), not text"),
        (
            "LLM_PROBE_TARGETS",
            "[{url: 127.0.0.1}]",
            "targets[0].url: has no scheme: write http:// or https:// before it",
        ),
        ("LLM_PROBE_DOCKER__HOST", "\udcff", "docker.host: has a control character in it"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str, message: str) -> None:
    """A variable that is misspelt or has a bad value is an error that begins with its name and never shows a key."""
    assert problems_of(None, {variable: value}) == [f"{variable}: {message}"]


def test_bad_yaml_in_a_variable_says_where() -> None:
    """The error names the place within the variable."""
    (problem,) = problems_of(None, {"LLM_PROBE_TARGETS": "[{url: http://a}"})
    assert problem == (
        "LLM_PROBE_TARGETS:1:17: is not valid YAML: expected ',' or ']', but got '<stream end>', "
        "while parsing a flow sequence that begins in line 1"
    )


def test_errors_of_the_environment_come_after_those_of_the_file(tmp_path: Path) -> None:
    """Both are told at once, and a key that the environment replaced is not blamed on the file."""
    path = write(tmp_path, "discovery: {interval: 5}\nlisten: 1\n")
    assert problems_of(path, {"LLM_PROBE_LISTEN": "2"}) == [
        f"{path}:1: discovery.interval: has no unit: write it like 500ms, 60s, 5m or 1h30m",
        "LLM_PROBE_LISTEN: listen: is not host:port: write it like 127.0.0.1:9937 or [::1]:9937",
    ]


# Profiles


def test_a_users_profiles_extend_and_override_the_shipped_ones(tmp_path: Path) -> None:
    """Key by key, and a scenario of the user's is tried before the shipped ones."""
    shipped = load_profiles(None)
    mine = load_profiles(
        write(
            tmp_path,
            "tiers: {excellent: 40}\n"
            "scenarios:\n  mine: {backend: vllm, expected: {min: 50, max: 60}}\n  ollama: {expected: {max: 99}}\n"
            "hardware: {radeon-rx-7600: {memory_bandwidth: 3.0e+11}}\n",
        )
    )
    assert mine.tiers == Thresholds(excellent=40, good=shipped.tiers.good, acceptable=shipped.tiers.acceptable)
    assert list(mine.scenarios)[:2] == ["mine", "ollama"]
    assert mine.scenarios["ollama"].expected.min == shipped.scenarios["ollama"].expected.min
    assert mine.scenarios["ollama"].expected.max == 99
    assert set(mine.scenarios) == {*shipped.scenarios, "mine"}
    assert mine.hardware["radeon-rx-7600"].memory_bandwidth == 3e11
    assert mine.hardware["radeon-rx-7600"].name == shipped.hardware["radeon-rx-7600"].name
    assert mine.success_criteria == shipped.success_criteria


def test_ids_of_a_users_profiles_are_known_to_targets(tmp_path: Path) -> None:
    """A target may name hardware and scenarios that only the user's file has."""
    write(tmp_path, "scenarios: {mine: {backend: vllm, expected: {min: 1}}}\nhardware: {box: {name: Box}}\n", "p.yml")
    path = write(tmp_path, "profiles_file: p.yml\ntargets: [{url: http://a, scenario: mine, hardware: box}]\n")
    assert load(path, {}).targets[0].scenario == "mine"


# Authentication at the exporter's own port


def test_a_web_configuration(tmp_path: Path) -> None:
    """TLS files are seen from the folder of the file that names them; hashes stay as they are."""
    for name in ("cert.pem", "key.pem"):
        write(tmp_path, "x", f"tls/{name}")
    path = write(
        tmp_path,
        f"tls_server_config: {{cert_file: cert.pem, key_file: key.pem}}\nbasic_auth_users: {{me: {HASH}}}\n",
        "tls/web.yml",
    )
    config = load_web_config(path)
    assert config.tls_server_config is not None
    assert config.tls_server_config.key_file == tmp_path / "tls" / "key.pem"
    assert config.basic_auth_users == {"me": HASH}


# Values


PARTS = st.tuples(*(st.integers(0, most) for most in (20, 23, 59, 59, 999)))


@given(PARTS)
def test_a_duration_is_the_sum_of_its_parts(parts: tuple[int, ...]) -> None:
    """Any mix of units, largest first, is read as their sum and written back to the same."""
    text = "".join(f"{n}{unit}" for n, unit in zip(parts, ("d", "h", "m", "s", "ms"), strict=True) if n)
    days, hours, minutes, seconds, milliseconds = parts
    milliseconds += 1000 * (seconds + 60 * (minutes + 60 * (hours + 24 * days)))
    if not text:
        return
    assert parse_duration(text) == pytest.approx(milliseconds / 1000, rel=1e-12)
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, rel=1e-12)


@given(st.text(alphabet="0123456789.dhms µ-+e ", max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """Nothing else is raised, and what is read is a finite number of seconds."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= 30 * 86400


@given(st.text(max_size=40) | st.from_regex(r"https?://[a-z@:\[\]/.?#0-9v]{0,20}", fullmatch=True))
@example("http://[::1%eth0]:1")
@example("http://a:\u0661")
@example("http://v1")
@example("http://a/v1/v1/")
def test_any_text_is_a_url_or_a_value_error_and_a_url_stays_itself(text: str) -> None:
    """A URL that was accepted is accepted again unchanged, has a name, and holds no user or query."""
    try:
        url = check_url(text)
    except ValueError:
        return
    assert check_url(url) == url
    assert name_from_url(url).rpartition(":")[2].isdigit()
    assert not set("@?#").intersection(url.split("/", 3)[2])


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:9937", "127.0.0.1", 9937),
        ("[::1]:0", "::1", 0),
        (":80", "", 80),
        ("localhost:65535", "localhost", 65535),
    ],
)
def test_listen_addresses(listen: str, host: str, port: int) -> None:
    """The forms of an address to listen on."""
    assert split_listen(listen) == (host, port)


@pytest.mark.parametrize(
    "listen", ["", "9937", "::1:9937", "[127.0.0.1]:1", "a b:1", "host:", "host:x", "h:1:2", "[::1]", "h:65536"]
)
def test_not_listen_addresses(listen: str) -> None:
    """What is not host and port is an error."""
    with pytest.raises(ValueError, match=r"host:port|out of range"):
        split_listen(listen)


@given(st.floats(0.0001, 1))
def test_a_share_reads_the_same_as_percent_and_as_a_ratio(share: float) -> None:
    """``5%`` and ``0.05`` are one value."""
    ratio, percent = f"{share:.6f}", f"{float(f'{share:.6f}') * 100:.4f}%"
    assert Budget.model_validate({"share": percent}).share == pytest.approx(
        Budget.model_validate({"share": ratio}).share, rel=1e-9
    )


# Any text at all


KEYS = [
    *Settings.model_fields,
    *Target.model_fields,
    *Module.model_fields,
    *Timeouts.model_fields,
    "default",
    "<<",
    "&a a",
]
SCALARS = st.sampled_from(
    ["60s", "5%", "http://a:1", "null", "~", "true", "1", "-1", ".nan", "auto", "*a", "&a x", "!x y", "[", "}"]
)
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.text(alphabet=string.printable, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=20,
)


def flow(tree: Any) -> str:
    """A tree as YAML in flow style, with its leaves as they are: so that some of it is not YAML at all."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {flow(value)}" for key, value in tree.items()) + "}"
    return "[" + ", ".join(map(flow, tree)) + "]" if isinstance(tree, list) else str(tree)


def outcome(path: Path | None, environ: dict[str, str]) -> tuple[Settings | None, tuple[Problem, ...]]:
    """Settings or what is wrong with them; anything else that ``load`` raises is a failure."""
    try:
        return load(path, environ), ()
    except SettingsError as exc:
        return None, exc.errors


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(TREES.map(flow) | TREES.map(json.dumps) | st.text(max_size=60) | st.binary(max_size=60))
@example("a: &a [*a]")
@example('listen: "\\ud800"')
@example("targets: [{url: http://\u0661:1, name: \u0661}]")
def test_any_file_gives_settings_or_a_settings_error(tmp_path: Path, content: str | bytes) -> None:
    """Whatever a file holds, ``load`` raises nothing but SettingsError, and that with at least one problem in words."""
    path = tmp_path / "any.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    settings, errors = outcome(path, {})
    assert (settings is None) == bool(errors)
    assert all(problem.message for problem in errors)
    assert settings is None or {"default", "prefill", "parallel"} <= set(settings.modules)


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.lists(st.sampled_from([key.upper() for key in KEYS]) | st.text(max_size=3), min_size=1, max_size=4).map(
            lambda steps: "LLM_PROBE_" + "__".join(steps)
        ),
        TREES.map(flow),
        max_size=4,
    )
)
def test_any_environment_gives_settings_or_a_settings_error(environ: dict[str, str]) -> None:
    """The same for whatever stands in the environment."""
    settings, errors = outcome(None, environ)
    assert (settings is None) == bool(errors)


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        ("0000:03:00.0", "0000:03:00.0"),
        ("03:00.0", "03:00.0"),
        ("renderD128, /dev/dri/renderD129", "renderD128,/dev/dri/renderD129"),
        ("auto", "auto"),
    ],
)
def test_the_gpu_of_a_target(tmp_path: Path, given: str, gpus: str) -> None:
    """A PCI address stays text, as YAML's numbers to the base of 60 would not; several are separated by commas."""
    path = tmp_path / "config.yml"
    path.write_text(
        f"targets: [{{url: 'http://127.0.0.1:8000', gpu: \"{given}\"}}, {{url: 'http://127.0.0.1:8001'}}]\n"
    )
    assert [target.gpu for target in load(path, {}).targets] == [gpus, "auto"]
    path.write_text(f"targets:\n- url: http://127.0.0.1:8000\n  gpu: {given}\n")
    assert load(path, {}).targets[0].gpu == gpus


def test_a_gpu_that_is_no_address_is_refused(tmp_path: Path) -> None:
    """A number or a name could mean any GPU."""
    path = tmp_path / "config.yml"
    path.write_text("targets: [{url: 'http://127.0.0.1:8000', gpu: card0}]\n")
    with pytest.raises(SettingsError, match=r"targets\[0\]\.gpu.*PCI address"):
        load(path, {})


def test_the_shipped_profiles_are_the_same_by_either_parser() -> None:
    """They are read by libyaml's; a user's file by the one in Python, whose messages are told."""
    assert QUICK is not yaml.SafeLoader
    assert read_document(PROFILES, 1, shipped=True) == read_document(PROFILES, 1)
