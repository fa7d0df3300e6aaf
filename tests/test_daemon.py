"""The daemon as a whole, in this process and over real sockets: what is scraped is what was probed."""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from exporter.daemon import Daemon
from exporter.settings import Host, Module, ProbeEndpoint, Settings, SettingsError, Target
from exporter.settings.errors import Problem
from tests.daemon_settings import settings_of
from tests.samples import Samples, samples_of
from tests.servers.exact import ExactServer, chat, plain
from tests.waiting import eventually

MODELS = plain({"object": "list", "data": [{"id": "exact", "object": "model", "owned_by": "exact"}]})


@contextmanager
def running(load: Callable[[], Settings]) -> Iterator[tuple[Daemon, str]]:
    """A daemon that runs while the block does, and its URL."""
    daemon = Daemon(load)
    daemon.start()
    try:
        yield daemon, f"http://{load().listen}"
    finally:
        daemon.drain()


def get(url: str) -> str:
    """The body of an answer of status 200."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body.decode()


def scrape(url: str) -> Samples:
    """All samples that a scrape gives, by name and labels."""
    return samples_of(get(f"{url}/metrics"))


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """The sample of a name that has these labels among its own; None without one."""
    wanted = set(labels.items())
    found = [each for (sample, own), each in samples.items() if sample == name and wanted <= own]
    assert len(found) <= 1, f"{name}{labels} is ambiguous"
    return found[0] if found else None


def server(tokens_per_second: float = 100.0) -> ExactServer:
    """An OpenAI server that keeps exact time."""
    return ExactServer(
        {
            "/v1/models": MODELS,
            "/health": plain({"status": "ok"}),
            "/v1/chat/completions": chat(tokens=16, tokens_per_second=tokens_per_second, running=True),
        }
    )


def speeds(server: ExactServer) -> list[float]:
    """The decode speeds that a server really had, probe by probe."""
    texts = [played.texts for played in server.played() if len(played.texts) > 1]
    return [(len(each) - 1) * 1e9 / (each[-1][1] - each[0][1]) for each in texts]


def test_a_probe_becomes_a_scrape(tmp_path: Path) -> None:
    """A configured server is probed by itself, and its speed, tier and counters stand in the exposition."""
    with server() as real:
        settings = settings_of(tmp_path, [Target(name="exact", url=real.url)])
        with running(lambda: settings) as (_, url):
            assert value(scrape(url), "llm_probe_interval_seconds", target="exact") == 1.0
            eventually(lambda: value(scrape(url), "llm_probes_total", target="exact", result="ok"), "a speed")
            samples = scrape(url)
            speed = value(samples, "llm_probe_tokens_per_second", target="exact", module="default", model="exact")
            assert speed in [pytest.approx(each, rel=0.05) for each in speeds(real)]
            assert value(samples, "llm_performance_tier", target="exact", tier="excellent") == 1.0
            assert value(samples, "llm_performance_tier", target="exact", tier="poor") == 0.0
            assert value(samples, "llm_target_up", target="exact") == 1.0
            assert value(samples, "llm_probe_tokens", target="exact", kind="output") == 16.0
            assert value(samples, "llm_probe_exporter_targets", state="up") is not None
            assert get(f"{url}/-/healthy")
            assert "Every target was probed" in get(f"{url}/-/ready")


def test_a_failing_server_leaves_no_speed_and_no_tier(tmp_path: Path) -> None:
    """When a server that was measured goes away, its figures go with it and the failure is counted."""
    with ExitStack() as stack:
        settings = settings_of(tmp_path, [Target(name="exact", url=stack.enter_context(server()).url)])
        with running(lambda: settings) as (_, url):
            eventually(lambda: value(scrape(url), "llm_probe_success", target="exact") == 1.0, "a success")
            stack.close()
            eventually(lambda: value(scrape(url), "llm_probe_success", target="exact") == 0.0, "a failure")
            samples = scrape(url)
            assert value(samples, "llm_probes_total", target="exact", result="connect") not in {None, 0.0}
            for name in ("llm_probe_tokens_per_second", "llm_probe_ttft_seconds", "llm_performance_tier"):
                assert not [sample for sample in samples if sample[0] == name], name
            threshold = "llm_performance_tier_threshold_tokens_per_second"
            assert value(samples, threshold, target="exact", tier="acceptable") == 10.0


def test_a_reload_keeps_the_counters_of_what_stays_and_drops_what_leaves(tmp_path: Path) -> None:
    """Targets that stay count on, targets that leave take their series with them, new ones appear."""
    with server() as real:
        stays = Target(name="stays", url=real.url, modules=("default",))
        first = settings_of(tmp_path, [stays, Target(name="leaves", url=real.url)])
        second = first.model_copy(update={"targets": (stays, Target(name="new", url=real.url, modules=("default",)))})
        now = [first]
        with running(lambda: now[0]) as (daemon, url):
            eventually(lambda: value(scrape(url), "llm_probes_total", target="stays", result="ok"), "a success")
            before = value(scrape(url), "llm_probes_total", target="stays", result="ok") or 0.0
            now[0] = second
            assert daemon.reload() == ()
            samples = scrape(url)
            assert (value(samples, "llm_probes_total", target="stays", result="ok") or 0.0) >= before
            assert not [labels for _, labels in samples if ("target", "leaves") in labels]
            assert value(samples, "llm_probe_interval_seconds", target="new") == 1.0
            assert value(samples, "llm_probe_exporter_config_last_reload_successful") == 1.0


def test_a_bad_reload_changes_nothing_and_says_so(tmp_path: Path) -> None:
    """A configuration that is wrong is refused with its errors, and the old one goes on."""
    with server() as real:
        settings = settings_of(tmp_path, [Target(name="exact", url=real.url)])
        broken: list[bool] = []

        def load() -> Settings:
            if broken:
                raise SettingsError([Problem("targets[0].url", "has no scheme")])
            return settings

        with running(load) as (_, url):
            broken.append(True)
            request = urllib.request.Request(f"{url}/-/reload", method="POST")
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=10)
            with refused.value as answer:
                assert answer.code == 400
                assert "targets[0].url: has no scheme" in answer.read().decode()
            samples = scrape(url)
            assert value(samples, "llm_probe_exporter_config_last_reload_successful") == 0.0
            assert value(samples, "llm_probe_interval_seconds", target="exact") == 1.0
            broken.clear()
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 200
            assert value(scrape(url), "llm_probe_exporter_config_last_reload_successful") == 1.0


def test_two_targets_of_one_server_are_probed_one_after_the_other(tmp_path: Path) -> None:
    """Modules and targets of one server take turns, so that they never measure each other."""
    with server(tokens_per_second=40) as real:
        targets = [Target(name=f"t{number}", url=real.url) for number in range(3)]
        settings = settings_of(tmp_path, targets)
        with running(lambda: settings) as (_, url):
            eventually(
                lambda: all(
                    value(scrape(url), "llm_probes_total", target=f"t{number}", result="ok") not in {None, 0.0}
                    for number in range(3)
                ),
                "a success of each target",
            )
        spans = sorted((played.arrived_ns, played.sends[-1][1]) for played in real.played() if played.texts)
        assert len(spans) >= 3
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_on_demand_probes_reach_only_what_is_allowed(tmp_path: Path) -> None:
    """/probe answers for a configured target and for an allowed address, and for nothing else."""
    with server() as real:
        allow = ProbeEndpoint(allow=(f"127.0.0.1:{real.port}",))
        modules = {"default": Module(interval=60, max_tokens=16)}
        settings = settings_of(tmp_path, probe_endpoint=allow, modules=modules)
        with running(lambda: settings) as (_, url):
            body = get(f"{url}/probe?target={real.url}&module=default")
            assert "llm_probe_success" in body
            posts = [played for played in real.played() if played.method == "POST"]
            get(f"{url}/probe?target=127.0.0.1:{real.port}&module=default")
            assert len([played for played in real.played() if played.method == "POST"]) == len(posts) == 1
            for target in ("127.0.0.1:1", "http://169.254.169.254", f"http://user@127.0.0.1:{real.port}"):
                with pytest.raises(urllib.error.HTTPError) as refused:
                    get(f"{url}/probe?target={target}")
                with refused.value as answer:
                    assert answer.code == 400


def test_the_machine_stands_beside_the_speed(tmp_path: Path) -> None:
    """With a GPU in sysfs, its facts and the energy of a token are exported for a local server; no ceiling is guessed."""
    machine = Path(__file__).parent / "fixtures" / "host" / "sys" / "radeon-880m"
    model = {
        "id": "exact",
        "object": "model",
        "owned_by": "llamacpp",
        "meta": {"size": 5_000_000_000, "n_params": 9_000_000_000},
    }
    llama = ExactServer(
        {
            "/v1/models": plain({"object": "list", "data": [model]}),
            "/props": plain({"build_info": "b1", "model_path": "/models/exact.gguf"}),
            "/health": plain({"status": "ok"}),
            "/v1/chat/completions": chat(tokens=30, tokens_per_second=20.0, running=True),
        }
    )
    with llama as real:
        target = Target(name="exact", url=real.url, backend="llama_cpp")
        modules = {"default": Module(interval=1, max_tokens=30)}
        settings = settings_of(tmp_path, [target], host=Host(sysfs=machine, rocm=tmp_path), modules=modules)
        with running(lambda: settings) as (_, url):
            eventually(
                lambda: value(scrape(url), "llm_probe_energy_joules_per_token", target="exact"), "a figure of energy"
            )
            samples = scrape(url)
    assert value(samples, "amdgpu_info", gfx_target="gfx1150") == 1.0
    watts = value(samples, "amdgpu_power_watts", scope="socket")
    speed = value(samples, "llm_probe_tokens_per_second", target="exact")
    assert watts == pytest.approx(9.087)
    assert speed
    joules = value(samples, "llm_probe_energy_joules_per_token", target="exact")
    assert joules == pytest.approx(9.087 / speed)
    # Its file is not here, and its size alone does not tell what one token reads of it.
    assert value(samples, "llm_decode_ceiling_tokens_per_second", target="exact") is None
    assert value(samples, "llm_decode_efficiency_ratio", target="exact") is None
    assert value(samples, "amdgpu_memory_bandwidth_bytes_per_second") == 128e9
