"""A server whose answers tell of drafted tokens has no ceiling: one read of its weights may give several tokens."""

import json
import random
from dataclasses import replace

import pytest

from exporter.containers.facts import CandidateUrl, Devices
from exporter.probe.client import Reply
from exporter.probe.dialects.dialect import StatusQuery
from exporter.probe.dialects.sglang import SGLang
from exporter.probe.prober import Prober
from exporter.probe.result import Identity, Measurements, ProbeResult, TargetState
from exporter.settings import Module, load_profiles, make_target
from exporter.target_facts import Machine, judgement_of, target_facts_of
from exporter.tiers import Judgement
from tests.servers.llama_cpp import SimulatedLlamaServer
from tests.servers.simulated import Simulated
from tests.servers.vllm import SimulatedVllm
from tests.target_facts.machines import MACHINE, VLLM

PROFILES = load_profiles(None)


def probed(one: Prober) -> ProbeResult:
    """A probe that was not cancelled."""
    result = one.probe("default", Module(max_tokens=10, prompt_tokens=48))
    assert result is not None
    return result


def judged(url: str, result: ProbeResult) -> Judgement:
    """What the daemon says of a result, on a machine with a known GPU and weights."""
    assert result.state is not None
    assert result.state.identity is not None
    gpu = Devices(kfd=True, dri=True)
    container = replace(VLLM, backend="llama_cpp", devices=gpu, urls=(CandidateUrl(url, "published_port"),))
    identity = replace(result.state.identity, model="Qwen/Qwen2.5-14B-Instruct", weight_bytes=29_540_067_328)
    machine = replace(MACHINE, containers=(container,))
    target = make_target(url=url)
    known = target_facts_of(target, identity, machine, result.state)
    return judgement_of(target, known, result.measurements, PROFILES)


def test_drafted_tokens_in_an_answer_take_the_ceiling_away() -> None:
    """``timings.draft_n`` of llama-server: with it no ceiling and the reason, without it a ceiling."""
    for drafts in (True, False):
        # Slower than the memory of the machine allows, which is 9 tokens a second.
        with SimulatedLlamaServer(drafts=drafts, tokens_per_second=8) as server:
            one = Prober(make_target(url=server.url, name="t"), draw=random.Random(1))
            probed(one)  # the first one after a start has no speed
            result = probed(one)
            judgement = judged(server.url, result)
            state = one.status()
        assert result.state is not None
        assert state is not None
        assert (result.state.drafts, state.drafts) == (drafts, drafts)
        assert (judgement.ceiling_tokens_per_second is None) == drafts
        assert ("the server drafts tokens" in judgement.no_ceiling) == drafts
        assert (result.measurements.speculative_accepted_ratio == 0.5) == drafts


def test_another_server_at_the_address_drafts_nothing() -> None:
    """What an answer told is forgotten when the server is down."""
    server = SimulatedLlamaServer(drafts=True)
    with server:
        one = Prober(make_target(url=server.url, name="t"))
        probed(one)
        port = server.kill()
        down = one.status()
        assert down is not None
        assert not down.drafts
        server.drafts = False
        server.start(port)
        state = one.status()
        assert state is not None
        assert (state.up, state.drafts) == (True, False)


@pytest.mark.parametrize(
    ("server", "drafts"),
    [
        (SimulatedLlamaServer(props_drafts=True), True),
        (SimulatedLlamaServer(), False),
        (SimulatedVllm(drafts=True), True),
        (SimulatedVllm(), False),
    ],
)
def test_what_a_server_says_of_itself(server: Simulated, *, drafts: bool) -> None:
    """Before any probe: llama-server's ``/props``, the counts in vLLM's ``/metrics``."""
    with server:
        state = Prober(make_target(url=server.url, name="t")).status()
    assert state is not None
    assert (state.up, state.drafts) == (True, drafts)


@pytest.mark.parametrize(("length", "drafts"), [("0.0", False), ("1.0", False), ("2.9", True)])
def test_an_sglang_whose_steps_give_several_tokens(length: str, *, drafts: bool) -> None:
    """``sglang:spec_accept_length`` above 1."""
    text = f'sglang:num_running_reqs{{model_name="m"}} 0.0\nsglang:spec_accept_length{{model_name="m"}} {length}\n'

    def get(path: str, body: bytes | None = None, /) -> Reply:
        del body
        models = {"object": "list", "data": [{"id": "m", "owned_by": "sglang", "root": "m"}]}
        found = {"/metrics": text.encode(), "/v1/models": json.dumps(models).encode()}
        return Reply(200, {}, found[path]) if path in found else Reply(404, {}, b"")

    assert SGLang().status(StatusQuery(get)).drafts is drafts


def test_a_server_elsewhere_that_drafts_or_offloads_has_no_ceiling() -> None:
    """Its hardware is named by hand; what it says of itself counts all the same."""
    target = make_target(url="http://10.0.0.7:11434", hardware="radeon-rx-7900-xtx")
    identity = Identity("ollama", model="qwen2.5:14b", weight_bytes=9_000_000_000, experts=False)
    state = TargetState("t", target.url, 0.0, up=True)
    figures = Measurements(tokens_per_second=30.0)

    def ceiling(identity: Identity, state: TargetState) -> float | None:
        known = target_facts_of(target, identity, Machine(), state)
        return judgement_of(target, known, figures, PROFILES).ceiling_tokens_per_second

    assert ceiling(identity, state) == pytest.approx(960 / 9)
    assert ceiling(replace(identity, offloaded=True), state) is None
    assert ceiling(identity, replace(state, drafts=True)) is None
