"""Why a server is as it is: each condition where it holds, where it doesn't, and where nothing says."""

from dataclasses import replace

import pytest

from exporter.advice import TARGET_CONDITIONS, AdviceFacts, Case, advise_target
from exporter.advice.target import FAILURES, FAULTS_OF_ANSWERS, weights_of
from exporter.containers.facts import ContainerFacts
from exporter.history.change_lines import ChangeLine
from exporter.host.gpu import GpuFacts, GpuSample
from exporter.host.machine import GpuSettings, MachineFacts
from exporter.probe.result import NOT_AN_ANSWER, RESULTS, SKIPPED, Measurements, ProbeResult, Result, TargetState
from exporter.settings import Thresholds
from exporter.snapshot import TargetInfo
from exporter.tiers import Judgement, Tier

URL = "http://127.0.0.1:8000"
LIMITS = Thresholds(excellent=20, good=15, acceptable=10)
HALO = GpuFacts("0000:c1:00.0", "Radeon 8060S", "gfx1151", 40, unified_memory=True, memory_pool_bytes=8 * 1024**3)
POOR = Judgement("poor", LIMITS, expected_min=20, expected_max=30)


def probe(speed: float | None = 6.4, result: Result = "ok", error: str = "", **fields: float | bool) -> ProbeResult:
    measured = (
        Measurements(tokens_per_second=speed, stream_buffered=speed is None) if result == "ok" else Measurements()
    )
    found = ProbeResult("t", "default", result, error, 0.0, 60.0, measurements=measured)
    return replace(found, **fields)  # type: ignore[arg-type]  # each field by its own type


def case(judgement: Judgement | None = POOR, ran: ProbeResult | None = None, **fields: object) -> Case:
    found = Case(TargetInfo(URL), judgement, ran or probe())
    return replace(found, **fields)  # type: ignore[arg-type]  # each field by its own type


def settings(**known: str) -> TargetInfo:
    return TargetInfo(URL, settings=tuple(known.items()))


def at_limit(speed: float, ceiling: float, quantization: str, tier: Tier = "poor") -> Case:
    judged = Judgement(
        tier, LIMITS, ceiling_tokens_per_second=ceiling, efficiency=speed / ceiling, limit="memory_bandwidth"
    )
    return Case(TargetInfo(URL, quantization=quantization), judged, probe(speed))


def conditions(of: Case) -> list[str]:
    return [each.condition for each in advise_target(of)]


def test_at_the_memorys_limit_it_says_what_another_copy_would_reach() -> None:
    """A 14B in BF16 at 8.3 of 9.2 is at its limit, and a 4-bit copy is estimated with two digits."""
    (why,) = advise_target(at_limit(8.3, 9.2, "BF16"))
    assert (why.condition, why.title) == ("at_memory_limit", "at the memory's limit")
    assert (
        why.sentence
        == "8.3 of at most 9.2 tokens/s: BF16 weights are the limit; a 4-bit copy could reach about 30 tokens/s."
    )
    assert "quantized or smaller model" in why.remedy


def below_its_ceiling(speed: float, ceiling: float, quantization: str, **known: str) -> Case:
    judged = Judgement(
        "poor", LIMITS, expected_min=8, ceiling_tokens_per_second=ceiling, efficiency=speed / ceiling, limit="unknown"
    )
    return Case(TargetInfo(URL, quantization=quantization, settings=tuple(known.items())), judged, probe(speed))


def test_weights_that_are_poor_even_at_their_ceiling_come_first() -> None:
    """A 14B in BF16 at 6.4 of 9.2: a 4-bit copy is the first advice, whether AITER has no effect or nothing explains the rest."""
    why, second = advise_target(below_its_ceiling(6.4, 9.15, "BF16", aiter="no_effect"))
    assert why.condition == "ceiling_is_poor"
    assert why.sentence == (
        "6.4 of at most 9.2 tokens/s: with BF16 weights even the best speed is below 10 tokens/s; "
        "a 4-bit copy could reach about 23 tokens/s."
    )
    assert second.condition == "aiter_without_effect"
    assert conditions(below_its_ceiling(6.4, 9.15, "BF16")) == ["ceiling_is_poor", "unexplained"]
    assert "4-bit" not in advise_target(below_its_ceiling(6.4, 9.15, "Q4_K_M"))[0].sentence
    assert conditions(below_its_ceiling(6.4, 18.3, "fp8")) == ["unexplained"]


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ("none", "16-bit weights are the limit; a 4-bit copy could reach about 30 tokens/s."),
        ("Q8_0", "Q8_0 weights are the limit; a 4-bit copy could reach about 16 tokens/s."),
        ("fp8", "fp8 weights are the limit; a 4-bit copy could reach about 15 tokens/s."),
        ("Q4_K_M", "Q4_K_M weights are the limit, since each token reads them once."),
        ("awq", "awq weights are the limit, since each token reads them once."),
        ("", "the weights are the limit, since each token reads them once."),
    ],
)
def test_a_what_if_needs_a_known_size_of_the_weights(quantization: str, said: str) -> None:
    """Where the bits of a weight aren't known, or are four already, nothing is promised."""
    (why,) = advise_target(at_limit(8.3, 9.2, quantization))
    assert why.sentence == f"8.3 of at most 9.2 tokens/s: {said}"


def test_the_what_if_agrees_with_a_published_speed() -> None:
    """From 16-bit weights at 0.87 of the ceiling the estimate for llama-2-7b Q4_0 lies within 10 % of the published 55.73."""
    bits, _ = weights_of("f16")
    assert bits == 16.0
    speed = 0.87 * 256e9 / (6.74e9 * 2)
    (why,) = advise_target(at_limit(speed, speed / 0.87, "f16", "good"))
    estimate = float(why.sentence.removesuffix(" tokens/s.").rpartition(" ")[2])
    assert estimate == pytest.approx(55.73, rel=0.1)


def test_slower_since_a_change_says_when_and_by_how_much() -> None:
    """A drop that stands wins over what would explain the speed in other ways; one that is settled says nothing."""
    line = ChangeLine(1234.0, "image changed from a to b", "6.4, before 12.1 tok/s", standing=True)
    known = replace(at_limit(6.4, 8.0, "none"), changes=(line,))
    first, second = advise_target(known)
    assert (first.condition, first.since_seconds) == ("slower_since_change", 1234.0)
    assert first.sentence == "Slower since the image changed from a to b: 6.4, before 12.1 tok/s."
    assert second.condition == "at_memory_limit"
    prefill = replace(line, effect="prefill 445, before 853 tok/s", own=False)
    assert advise_target(replace(known, changes=(prefill, line)))[0] == first
    assert conditions(replace(known, changes=(replace(line, standing=False),))) == ["at_memory_limit"]
    alone = ChangeLine(9.0, "nothing that is watched changed", "6.4, before 12.1 tok/s", True, explained=False)
    (why,) = advise_target(case(changes=(alone,)))
    assert why.condition == "slower_unexplained"
    assert why.sentence == "Slower, though nothing that is watched changed: 6.4, before 12.1 tok/s."


@pytest.mark.parametrize(
    ("known", "condition", "fact"),
    [
        (case(ran=probe(result="degenerate", error='it repeats "/"')), "no_text", 'it repeats "/"'),
        (
            case(checked=probe(result="foreign_answer", error="it is another's")),
            "no_text",
            "belongs to another request",
        ),
        (
            case(checked=probe(result="wrong_answer", error="not Paris")),
            "no_text",
            "he answer is wrong: not Paris.",
        ),
        (case(stuck="4 requests wait, and no token came in 5 min"), "stuck", "4 requests wait"),
        (
            case(samples=(GpuSample("0", temperatures=(("edge", 97.0),), throttling=(("thermal", 0.4),)),)),
            "throttled_by_heat",
            "40 % of the time; it is at 97 °C",
        ),
        (case(info=settings(compute="cpu")), "computes_on_cpu", "on the CPU"),
        (case(info=settings(cpu_offload="24 of 48 layers")), "offload", "24 of 48 layers"),
        (case(info=settings(aiter="no_effect")), "aiter_without_effect", "not built for this GPU"),
        (case(Judgement(None, LIMITS), probe(None)), "stream_buffered", "one burst"),
        (
            case(Judgement(None, LIMITS), probe(7.0, beside_users=3.0)),
            "users",
            "3 requests of users ran during the probe",
        ),
        (
            case(Judgement(None, LIMITS), probe(7.0, beside_users=1.0), user_tokens_per_second=11.5),
            "users",
            "1 request of users ran during the probe, and each gets 11.5 tokens/s",
        ),
    ],
)
def test_each_condition_names_its_fact(known: Case, condition: str, fact: str) -> None:
    """The first advice is this condition's, with the fact that shows it and something to do."""
    why = advise_target(known)[0]
    assert why.condition == condition
    assert fact in why.sentence
    assert why.sentence.endswith(".")
    assert why.remedy.endswith(".")


def test_what_users_get_is_told_before_what_the_machine_can() -> None:
    """Too little for users comes before the memory's limit; enough for them says nothing."""
    known = replace(at_limit(16.2, 19.4, "none", "good"), user_tokens_per_second=4.2, least_for_users=10.0)
    first, second = advise_target(known)
    assert (first.condition, second.condition) == ("slow_for_users", "at_memory_limit")
    assert first.sentence == "Each user gets 4.2 tokens/s, below the acceptable minimum of 10 tokens/s."
    assert conditions(replace(known, least_for_users=None)) == ["at_memory_limit"]
    assert conditions(replace(known, user_tokens_per_second=12.0)) == ["at_memory_limit"]


def test_an_offload_of_a_fast_server_is_nobodys_fault() -> None:
    """What slows down is told of a slow server only."""
    fast = Judgement("excellent", LIMITS, expected_min=20, expected_max=40)
    assert conditions(case(fast, probe(36.7), info=settings(cpu_offload="36 experts"))) == []


def test_a_container_that_downloads_its_own_models() -> None:
    """Told of a container whose models no mount holds, beside the reason of its speed and not as one."""
    own = ContainerFacts("0", "vllm", "i", "s", "vllm", running=True, cache_path="/root/.cache/huggingface/hub")
    assert conditions(case(container=own)) == ["unexplained", "own_model_downloads"]
    assert "own layer (/root/.cache/huggingface/hub)" in advise_target(case(container=own))[1].sentence
    assert conditions(case(container=replace(own, cache_source="/home/user/.cache/huggingface/hub"))) == ["unexplained"]
    assert conditions(case(container=replace(own, cache_path=None))) == ["unexplained"]


def test_the_machines_own_faults_explain_a_slow_server() -> None:
    """An old firmware and a pool below the model are reasons of a slow server; a fast one is told of the pool alone."""
    machine = MachineFacts(gpus=(GpuSettings(HALO.address, (("mes", "0x83"),)),))
    known = case(
        machine=AdviceFacts(machine, (HALO,), ((HALO.address, 29.5e9),)), info=TargetInfo(URL, gpus=(HALO.address,))
    )
    assert conditions(known) == ["memory_pool_below_model", "broken_mes_firmware"]
    assert conditions(replace(known, judgement=Judgement("good", LIMITS))) == ["memory_pool_below_model"]


@pytest.mark.parametrize(
    ("info", "judgement", "look"),
    [
        (
            TargetInfo(URL, unknown=("how it was started: /proc is hidden",)),
            POOR,
            "how it was started: /proc is hidden",
        ),
        (TargetInfo(URL), replace(POOR, no_ceiling="the size of m isn't known"), "the size of m isn't known"),
        (TargetInfo(URL), POOR, "whether the GPU computes"),
        (settings(compute="rocm"), POOR, "flash attention"),
    ],
)
def test_poor_without_a_reason_says_what_to_look_at_next(info: TargetInfo, judgement: Judgement, look: str) -> None:
    """First at what could not be read, since that hides a reason."""
    (why,) = advise_target(case(judgement, info=info))
    assert why.condition == "unexplained"
    assert look in why.remedy


def test_poor_far_from_a_known_ceiling_names_the_distance() -> None:
    """The share of the ceiling is a fact, even where nothing explains it."""
    judged = replace(POOR, ceiling_tokens_per_second=27.0, efficiency=6.4 / 27, limit="unknown")
    (why,) = advise_target(case(judged))
    assert why.sentence.startswith("The speed is only 24 % of the 27.0 tokens/s that the memory allows")


def test_poor_within_its_band_is_explained_by_its_set_up() -> None:
    """What a setup is known to reach is no riddle, even where that is too slow to use."""
    (why,) = advise_target(case(replace(POOR, expected_min=5, expected_max=8)))
    assert why.condition == "band_is_poor"
    assert why.sentence == "6.4 tokens/s is what this setup is known to reach: 5–8."
    assert conditions(case(POOR)) == ["unexplained"]


@pytest.mark.parametrize(
    "result", [each for each in RESULTS if each not in {"ok", "loading", *SKIPPED, *NOT_AN_ANSWER}]
)
def test_each_way_to_fail_says_what_to_look_at(result: Result) -> None:
    """A failed probe has one advice, by the way in which it failed."""
    (why,) = advise_target(case(None, probe(None, result, "it failed")))
    assert (why.condition, why.title) == (f"failed_{result}", FAILURES[result][0])
    assert why.sentence.endswith(f"{why.title[1:]}: it failed.")
    assert why.remedy.endswith((".", "?"))


def test_a_server_that_went_down_since_its_last_good_probe() -> None:
    """A status check that fails says what to look at before the next probe does."""
    down = TargetState("t", URL, 1.0, up=False, error="connection refused")
    (why,) = advise_target(case(Judgement("good", LIMITS), probe(16.0), state=down))
    assert (why.condition, why.sentence) == ("failed_down", "No answer: connection refused.")


def test_an_error_that_ends_with_a_question_gets_no_full_stop() -> None:
    """A server's own end of a sentence is kept."""
    (why,) = advise_target(case(None, probe(None, "connect", "refused. Is the server running?")))
    assert why.sentence == "No connection: refused. Is the server running?"


@pytest.mark.parametrize("result", sorted(NOT_AN_ANSWER))
def test_each_fault_of_answers_is_named(result: Result) -> None:
    """Nonsense, a wrong answer and that of another request are three reasons; the end of the error is the sentence's."""
    (why,) = advise_target(case(None, probe(None, result, "it says Lyon ")))
    assert why.title == FAULTS_OF_ANSWERS[result]
    assert why.sentence == f"{why.title[:1].upper()}{why.title[1:]}: it says Lyon."


def test_what_is_said_is_not_said_again() -> None:
    """Requests of a stuck server are no hint to judge it by its users, and the memory's limit explains a poor band."""
    state = TargetState("t", URL, 1.0, up=True, requests_running=4.0)
    assert conditions(case(None, probe(16.0), state=state, stuck="requests wait")) == ["stuck"]
    assert conditions(case(None, probe(16.0), state=state)) == ["users"]
    limit = at_limit(8.3, 9.2, "none", "poor")
    assert limit.judgement is not None
    band = replace(limit.judgement, expected_min=8.0, expected_max=9.2)
    assert conditions(replace(limit, judgement=band)) == ["at_memory_limit"]


def test_a_speed_within_the_noise_of_its_band_is_not_slow() -> None:
    """11.96 is shown as 12.0, which lies within a band from 12: it needs no explanation. 11.7 does."""
    near, below = (
        case(Judgement("acceptable", LIMITS, expected_min=12, expected_max=20), probe(speed)) for speed in (11.96, 11.7)
    )
    assert conditions(near) == []
    assert conditions(below) == ["unexplained"]


def test_nothing_known_says_nothing() -> None:
    """A target that was never probed has no advice."""
    assert advise_target(Case(TargetInfo(URL))) == ()


def test_each_row_of_the_table_has_a_title() -> None:
    """Titles group servers, so no two conditions share one."""
    titles = [row.title for row in TARGET_CONDITIONS.values()]
    assert all(titles)
    assert len(set(titles)) == len(titles)
