"""A prober of an address, and its probes and status checks, none of which was cancelled."""

import random
from typing import Any, Final

from exporter.probe.prober import Prober
from exporter.probe.result import ProbeResult, TargetState
from exporter.settings import Module, Target

SHORT: Final = Module(max_tokens=16, prompt_tokens=48)


def prober(url: str, **more: Any) -> Prober:
    """A prober whose random words are the same in each run; ``more`` are fields of its target, or arguments of its own."""
    target = {key: more.pop(key) for key in Target.model_fields if key in more}
    return Prober(Target(url=url, name="t", **target), draw=random.Random(1), **more)


def probe(one: Prober, module: Module = SHORT, name: str = "default") -> ProbeResult:
    """One probe."""
    result = one.probe(name, module)
    assert result is not None
    return result


def check(one: Prober) -> TargetState:
    """One status check."""
    state = one.status()
    assert state is not None
    return state
