"""A real LiteLLM proxy before a real llama-server: each request that reached it is counted there, and none was paid unasked."""

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.probe.exposition import parse, total
from exporter.probe.status import identify
from tests.daemon_settings import PROBES_ONLY
from tests.ports import free_port
from tests.real.conftest import need
from tests.real.daemon import labels_of, running_daemon, scrape, value
from tests.real.llama import LLAMA_SERVER, llama_server, running_llama
from tests.real.llama import make_model as make_gguf
from tests.servers_real.running import KEY, litellm, probe, prober
from tests.waiting import eventually

pytestmark = pytest.mark.servers


@dataclass(frozen=True)
class Gateway:
    """The proxy, the file with its key, and the port of the server behind it."""

    url: str
    key: Path
    upstream: int

    def generated(self) -> float:
        """Tokens that the server behind it generated: its counter moves when a request ends."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.upstream}/metrics", timeout=10) as answer:
            found = total(parse(answer.read().decode()), "llamacpp:tokens_predicted_total")
        assert found is not None
        return found


@pytest.fixture(scope="module")
def gateway(litellm_commands: Path, models: Path) -> Iterator[Gateway]:
    """A model that is free, one with a price, and one for embeddings, all by the same server."""
    binary = llama_server()
    need(binary, LLAMA_SERVER)
    assert binary is not None
    upstream, key, config = free_port(), models / "key", models / "litellm.yml"
    key.write_text(KEY)
    params = f'api_base: "http://127.0.0.1:{upstream}/v1", api_key: none'
    config.write_text(f"""
model_list:
- {{model_name: local, litellm_params: {{model: openai/tiny, {params}}}}}
- {{model_name: paid, litellm_params: {{model: openai/tiny-paid, {params}, input_cost_per_token: 0.0000025, output_cost_per_token: 0.00001}}}}
- {{model_name: embed, litellm_params: {{model: openai/tiny-embed, {params}}}, model_info: {{mode: embedding}}}}
""")
    with (
        running_llama(binary, make_gguf(models, "tiny"), upstream),
        litellm(litellm_commands, config, free_port()) as url,
    ):
        yield Gateway(url, key, upstream)


def test_recognition_and_status_checks_reach_no_model(gateway: Gateway) -> None:
    """Discovery, ten status checks and probes that name no model: the server behind it has generated nothing."""
    before = gateway.generated()
    found = identify(gateway.url, api_key_file=gateway.key)
    assert found.identity is not None
    assert found.identity.backend == "litellm"
    one = prober(gateway.url, api_key_file=gateway.key)
    for _ in range(10):
        state = one.status()
        assert state is not None
        assert state.up
    assert {probe(one).result for _ in range(3)} == {"no_model"}
    assert prober(gateway.url, model="embed", api_key_file=gateway.key).status() is not None
    assert probe(prober(gateway.url, model="embed", api_key_file=gateway.key)).result == "skipped_unable"
    assert gateway.generated() == before


def test_without_its_key_it_gets_no_chat(gateway: Gateway) -> None:
    """A proxy without a database answers a read without the key with 401 or 500; neither is followed by a chat."""
    before = gateway.generated()
    assert probe(prober(gateway.url, model="local")).result in {"auth", "http_5xx"}
    assert gateway.generated() == before


def test_each_upstream_token_is_counted(gateway: Gateway, tmp_path: Path) -> None:
    """The whole daemon, one free and one paid model by name: its count at /metrics is the counter of the server behind."""
    port, config, before = free_port(), tmp_path / "config.yml", gateway.generated()
    targets = ", ".join(
        f'{{name: {name}, url: "{gateway.url}", model: {name}, api_key_file: {gateway.key}, budget: {{share: 1}},'
        " modules: [default]}"
        for name in ("local", "paid")
    )
    config.write_text(f"""
targets: [{targets}]
modules: {{default: {{interval: 2s, max_tokens: 24, prompt_tokens: 32}}}}
{PROBES_ONLY}""")

    def counted() -> float:
        found = scrape(port)
        spent = (
            value(found, "llm_probe_consumed_tokens_total", target=name, kind="output") for name in ("local", "paid")
        )
        return sum(filter(None, spent))

    with running_daemon("--config", config, port=port, log=tmp_path / "log"):
        eventually(lambda: counted() >= 24 * 6, "six probes")
        eventually(lambda: counted() == gateway.generated() - before, "both count the same")
        samples = scrape(port)
    print(f"{counted_in(samples):.0f} tokens counted, and as many by the server behind the proxy")
    for name in ("local", "paid"):
        assert value(samples, "llm_probe_token_count_exact", target=name) == 1
        assert labels_of(samples, "llm_target_info", target=name)["backend"] == "litellm"


def counted_in(samples: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> float:
    """All output tokens of a scrape."""
    return sum(
        each
        for (name, own), each in samples.items()
        if name == "llm_probe_consumed_tokens_total" and ("kind", "output") in own
    )


def test_what_a_paid_model_costs_is_said(gateway: Gateway) -> None:
    """By the notice of its status."""
    state = prober(gateway.url, model="paid", api_key_file=gateway.key).status()
    assert state is not None
    assert "each probe of paid is paid: 2.5 USD for a million prompt tokens, 10 for a million of output" in state.notice
