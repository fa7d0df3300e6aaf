"""The main job on a real llama-server: found or configured, probed, exported, and true to the server's own figures."""

import signal
import socket
import statistics
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.real.daemon import labels_of, running_daemon, scrape, value
from tests.real.llama import make_model, running_llama
from tests.samples import Samples
from tests.waiting import eventually

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that a single thread decodes at some 100 tokens per second."""
    return make_model(tmp_path_factory.mktemp("models"), "slow")


def config(tmp_path: Path, port: int, *more: str, target_keys: str = "") -> Path:
    """A configuration of one target that is probed every two seconds."""
    path = tmp_path / "config.yml"
    lines = [
        "discovery: {local: false, docker: false}",
        "docker: {enabled: false}",
        "modules: {default: {interval: 2s, max_tokens: 64}}",
        f"targets: [{{name: llama, url: 'http://127.0.0.1:{port}', modules: [default]{target_keys}}}]",
        *more,
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def ok_probes(samples: Samples, target: str = "llama") -> float:
    """How many probes of a target succeeded."""
    return value(samples, "llm_probes_total", target=target, module="default", result="ok") or 0.0


def test_what_is_exported_agrees_with_the_servers_own_timings(binary: Path, model: Path, tmp_path: Path) -> None:
    """Decode speed is within 2 % of llama-server's own, and the token counts are equal."""
    server, own = free_port(), free_port()
    with (
        running_llama(binary, model, server),
        running_daemon("--config", config(tmp_path, server), port=own, log=tmp_path / "log"),
    ):
        ratios: list[float] = []
        seen = 0.0
        while len(ratios) < 7:
            eventually(lambda: ok_probes(scrape(own)) > seen, what="another probe succeeds")  # noqa: B023 - used at once
            samples = scrape(own)
            seen = ok_probes(samples)
            ours = value(samples, "llm_probe_tokens_per_second", target="llama")
            theirs = value(samples, "llm_probe_server_tokens_per_second", target="llama")
            if ours and theirs:  # the first probe after a server's start is a cold one: it has no speed
                ratios.append(ours / theirs)
        assert statistics.median(ratios) == pytest.approx(1.0, abs=0.02)
        samples = scrape(own)
        assert value(samples, "llm_probe_tokens", target="llama", kind="output") == 64
        assert value(samples, "llm_probe_tokens", target="llama", kind="cached") == 0
        assert (value(samples, "llm_probe_tokens", target="llama", kind="prompt") or 0) > 20
        assert value(samples, "llm_probe_token_count_exact", target="llama") == 1
        assert value(samples, "llm_probe_stream_buffered", target="llama") == 0
        assert (value(samples, "llm_probe_clock_error_seconds", target="llama") or 1) < 0.05
        info = labels_of(samples, "llm_target_info", target="llama")
        assert (info["backend"], info["model"]) == ("llama_cpp", "slow.gguf")
        assert info["backend_version"].startswith("b11434")


def test_a_server_that_is_killed_and_restarted_is_told(binary: Path, model: Path, tmp_path: Path) -> None:
    """Down: no speed, no tier, counted as a failed connection. Up again: measured again, with the counters kept."""
    server, own = free_port(), free_port()
    with running_daemon("--config", config(tmp_path, server), port=own, log=tmp_path / "log"):
        with running_llama(binary, model, server):
            eventually(
                lambda: value(scrape(own), "llm_probe_tokens_per_second", target="llama") is not None, what="a speed"
            )
            before = ok_probes(scrape(own))
        eventually(lambda: value(scrape(own), "llm_probe_success", target="llama") == 0, what="the failure is seen")
        eventually(lambda: value(scrape(own), "llm_target_up", target="llama") == 0, what="the server is seen down")
        eventually(  # the probe that ran at that moment broke off
            lambda: value(scrape(own), "llm_probes_total", target="llama", result="connect"),
            what="a refused connection",
        )
        samples = scrape(own)
        gone = ("llm_probe_tokens_per_second", "llm_probe_ttft_seconds", "llm_performance_tier")
        assert not [name for name, _ in samples if name in gone]
        with running_llama(binary, model, server):
            eventually(lambda: ok_probes(scrape(own)) > before, what="a probe after the restart")
            eventually(lambda: value(scrape(own), "llm_target_up", target="llama") == 1, what="the server is seen up")
            eventually(
                lambda: value(scrape(own), "llm_probe_tokens_per_second", target="llama") is not None, what="a speed"
            )


def test_a_wrong_key_is_auth_and_the_right_one_works(binary: Path, model: Path, tmp_path: Path) -> None:
    """A server with --api-key answers a wrong key with 401, which is the result auth; the right one measures."""
    server, own = free_port(), free_port()
    key = tmp_path / "key"
    key.write_text("wrong-canary\n")
    path = config(tmp_path, server, target_keys=f", api_key_file: '{key}'")
    log = tmp_path / "log"
    with (
        running_llama(binary, model, server, "--api-key", "right-canary"),
        running_daemon("--config", path, port=own, log=log),
    ):
        eventually(
            lambda: (value(scrape(own), "llm_probes_total", target="llama", result="auth") or 0) >= 1, what="auth"
        )
        assert value(scrape(own), "llm_probe_success", target="llama") == 0
        key.write_text("right-canary\n")
        eventually(lambda: ok_probes(scrape(own)) >= 1, what="a probe with the right key")
        assert "canary" not in log.read_text()


@pytest.fixture
def usual_port() -> Iterator[int]:
    """One of the usual ports that is free on this machine."""
    for port in (8080, 8000, 5000, 1234, 30000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                yield port
                return
    pytest.skip("all usual ports are taken on this machine")


def test_without_a_configuration_a_server_that_starts_later_is_found(
    binary: Path, model: Path, tmp_path: Path, usual_port: int
) -> None:
    """Started alone, serve says that it found nothing; when a server starts on a usual port, it becomes a target and is measured."""
    own, log, name = free_port(), tmp_path / "log", f"localhost:{usual_port}"
    fast = {"LLM_PROBE_DISCOVERY__INTERVAL": "1s", "LLM_PROBE_MODULES__DEFAULT__INTERVAL": "2s"}
    with running_daemon(port=own, log=log, environment={**fast, "HOME": str(tmp_path)}):
        time.sleep(2)
        assert not labels_of(scrape(own), "llm_target_info", target=name)
        with running_llama(binary, model, usual_port):
            eventually(lambda: ok_probes(scrape(own), name) >= 1, what="the server is found and probed")
            assert labels_of(scrape(own), "llm_target_info", target=name)["backend"] == "llama_cpp"
            assert f"found llama_cpp at http://127.0.0.1:{usual_port}" in log.read_text()
        eventually(lambda: value(scrape(own), "llm_target_up", target=name) == 0, what="it is seen down")


def test_sigterm_ends_it_in_time_while_a_probe_runs(binary: Path, model: Path, tmp_path: Path) -> None:
    """A stop cancels the running probe and exits with 0 within 5 seconds."""
    server, own = free_port(), free_port()
    path = config(tmp_path, server)
    path.write_text(path.read_text().replace("max_tokens: 64", "max_tokens: 3000"))
    with (
        running_llama(binary, model, server),
        running_daemon("--config", path, port=own, log=tmp_path / "log") as daemon,
    ):
        eventually(lambda: _busy(server), what="the probe runs")
        begun = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
        assert time.monotonic() - begun < 5


def _busy(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return b"llamacpp:requests_processing 1" in answer.read()


def test_sighup_swaps_what_is_valid_and_refuses_what_is_not(binary: Path, model: Path, tmp_path: Path) -> None:
    """A reload keeps counters and adds targets; a broken file changes nothing and is told by a metric and the log."""
    server, own, log = free_port(), free_port(), tmp_path / "log"
    path = config(tmp_path, server)
    good = path.read_text()
    with running_llama(binary, model, server), running_daemon("--config", path, port=own, log=log) as daemon:
        eventually(lambda: ok_probes(scrape(own)) >= 2, what="two probes")
        path.write_text(good.replace("name: llama", "nam: llama"))
        daemon.send_signal(signal.SIGHUP)
        successful = "llm_probe_exporter_config_last_reload_successful"
        eventually(lambda: value(scrape(own), successful) == 0, what="the broken file is refused")
        assert "targets[0].nam" in log.read_text()
        before = ok_probes(scrape(own))
        more = f"targets: [{{name: second, url: 'http://127.0.0.1:{server}', modules: [default]}}, {{name: llama,"
        path.write_text(good.replace("targets: [{name: llama,", more))
        daemon.send_signal(signal.SIGHUP)
        eventually(lambda: value(scrape(own), successful) == 1, what="the good file is taken")
        assert ok_probes(scrape(own)) >= before
        eventually(lambda: ok_probes(scrape(own), "second") >= 1, what="the new target is probed")
