"""What a launch says reaches the probes of a running daemon: the prompt cache and the sleep timer of a llama-server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon_settings import PROBES_ONLY
from tests.host.proc_tree import ProcTree
from tests.ports import free_port
from tests.real.daemon import forked_daemon, scrape, value
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.user import User
from tests.servers.vllm import SimulatedVllm
from tests.waiting import eventually

SOCKET = 4711


@contextmanager
def watching(
    tmp_path: Path, server: SimulatedLlamaServer, *options: str, beside: SimulatedVllm | None = None
) -> Iterator[int]:
    """A daemon that sees this server's process with these options, and probes it each second; gives its port."""
    others = f', {{name: beside, url: "{beside.url}", budget: {{share: 100%}}}}' if beside else ""
    port, config, tree = free_port(), tmp_path / "config.yml", ProcTree(tmp_path / "proc")
    at = int(server.url.rpartition(":")[2])
    command = ("llama-server", "-m", "/models/tiny.gguf", "--port", str(at), *options)
    for each in ("1", "self"):
        (tree.path / each / "net" / "tcp").unlink()
    tree.network(1, (at, 1000, SOCKET))
    tree.network("self", like=1)
    tree.add(4242, command, environment={}, libraries=["/usr/lib/libm.so.6"], sockets=(SOCKET,), cwd="/")
    config.write_text(f"""
targets: [{{name: it, url: "{server.url}", budget: {{share: 100%}}}}{others}]
modules: {{default: {{interval: 1s, max_tokens: 16}}}}
{PROBES_ONLY}host: {{proc: '{tree.path}', sysfs: '{tmp_path}', rocm: '{tmp_path}', interval: 5s}}
""")
    with forked_daemon("--config", config, port=port, log=tmp_path / "log"):
        eventually(
            lambda: value(scrape(port), "llm_target_setting_info", setting="compute"), "the server's process was seen"
        )
        yield port


def results(port: int, result: str, target: str = "it") -> float:
    """How many probes ended so."""
    return value(scrape(port), "llm_probes_total", target=target, module="default", result=result) or 0


@pytest.mark.parametrize(("options", "result"), [((), "ok"), (("--cache-ram", "0"), "skipped_busy")])
def test_the_prompt_cache_of_a_launch_reaches_the_probes(tmp_path: Path, options: tuple[str, ...], result: str) -> None:
    """By its command line a single slot has no host cache: its conversation's prompt is left alone; without the option it is probed."""
    with SimulatedLlamaServer() as server:
        User(server.url, tokens=4, messages=[{"role": "user", "content": "one two three four five"}]).send().finished()
        with watching(tmp_path, server, *options) as port:
            User(server.url, tokens=4, messages=[{"role": "user", "content": "a b c d e f g"}]).send().finished()
            before = results(port, result)
            eventually(lambda: results(port, result) >= before + 3, f"probes that end as {result}")


@pytest.mark.parametrize("options", [("--sleep-idle-seconds", "600"), ()])
def test_the_sleep_timer_of_a_launch_reaches_the_probes(tmp_path: Path, options: tuple[str, ...]) -> None:
    """With a timer a probe comes ever later, so that an unused model sleeps; by a launch without one each interval has a probe."""
    with (
        SimulatedLlamaServer(sleep_idle_seconds=600.0 if options else None) as server,
        SimulatedVllm() as beside,
        watching(tmp_path, server, *options, beside=beside) as port,
    ):
        before = results(port, "ok"), results(port, "ok", "beside")
        eventually(lambda: results(port, "ok", "beside") >= before[1] + 14, "fourteen probes of another server")
        after = results(port, "ok") - before[0]
        assert after <= 5 if options else after >= 10
