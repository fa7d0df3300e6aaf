"""What is published of a target: its identity, and how its speed is judged."""

import pytest

from exporter.probe.result import Measurements
from exporter.target_facts import info_of, judgement_of, target_facts_of
from tests.target_facts.machines import HERE, MACHINE, PROFILES, SAYS


@pytest.mark.parametrize(("exact", "tier"), [(True, "good"), (None, "good"), (False, None)])
def test_a_speed_whose_tokens_were_estimated_has_no_tier(*, exact: bool | None, tier: str | None) -> None:
    """An estimate may be off by more than a tier: it is shown, and not judged."""
    figures = Measurements(tokens_per_second=16.0, token_count_exact=exact)
    known = target_facts_of(HERE, SAYS, MACHINE)
    judgement = judgement_of(HERE, known, figures, PROFILES)
    assert judgement.tier == tier


def test_the_identity_as_text() -> None:
    """llm_target_info names the container, the image, the scenario and the hardware."""
    info = info_of(HERE, SAYS, target_facts_of(HERE, SAYS, MACHINE), MACHINE, PROFILES)
    assert (info.container, info.image) == ("vllm-rocm", "rocm/vllm-dev:nightly")
    assert (info.scenario, info.hardware, info.backend_version) == ("vllm-fp16", "ryzen-ai-max-395", "0.32.0")
