"""What is published of a target: its identity as text, and how good its speed is. Pure."""

from dataclasses import replace

from exporter.host.process import working
from exporter.probe.result import Identity, Measurements, ProbeResult, TargetState
from exporter.settings import Profiles, Target
from exporter.snapshot import Service, TargetInfo
from exporter.target_facts.facts import settings_in
from exporter.target_facts.gpu import serving_of
from exporter.target_facts.server import Machine, ServerSetup, decided, setup_of
from exporter.tiers import Judgement, TargetFacts, hardware_of, judge, scenario_of, tier_of


def info_of(
    target: Target, identity: Identity | None, known: TargetFacts, machine: Machine, profiles: Profiles
) -> TargetInfo:
    """The identity of a target in words, as ``llm_target_info`` carries it; empty if it is not known."""
    setup = setup_of(target.url, machine)
    container, served = setup.container, serving_of(target, identity, machine)
    return TargetInfo(
        url=target.url,
        backend=known.backend,
        backend_version=(identity.backend_version if identity else None) or "",
        model=known.model or "",
        quantization=known.quantization or "",
        container=container.name if container else "",
        image=container.image if container else "",
        scenario=decided(target.scenario) or scenario_of(known, profiles) or "",
        hardware=decided(target.hardware) or hardware_of(known, profiles) or known.gpu_name,
        gpus=served.gpus,
        gpu_rule=served.rule or "",
        gpu_reason=served.reason,
        settings=settings_in(target, identity, machine),
        unknown=_unknown(setup, machine),
        weight_bytes=known.weights.bytes,
    )


def _unknown(setup: ServerSetup, machine: Machine) -> tuple[str, ...]:
    """What could not be read of a server on this machine, and why."""
    if not setup.local:
        return ()
    if setup.process is not None:
        computing = working(setup.process)
        return tuple(dict.fromkeys((*setup.process.unknown, *(computing.unknown if computing else ()))))
    if setup.container is not None and setup.container.launch is not None:
        return ()
    hidden = machine.processes.reading.hidden
    return (f"how it was started: {hidden}",) if hidden else ()


def service_of(target: Target, state: TargetState | None, profiles: Profiles) -> Service:
    """How good what users get is, by the bounds of the target."""
    bounds = target.tiers or profiles.tiers
    speed = state.user_tokens_per_second if state else None
    return Service(None if speed is None else tier_of(speed, bounds), bounds.acceptable)


def judged_figures(result: ProbeResult) -> Measurements | None:
    """What a speed is judged by: beside users a probe measures what is left for it, which says nothing of the setup."""
    if result.result != "ok":
        return None
    return replace(result.measurements, tokens_per_second=None) if result.beside_users else result.measurements


def judgement_of(
    target: Target,
    known: TargetFacts,
    figures: Measurements | None,
    profiles: Profiles,
    *,
    decode_watts: float | None = None,
) -> Judgement:
    """How good a target's speed is; None for ``figures`` while none is known. ``decode_watts`` is as ``judge`` takes it.

    A speed whose tokens were estimated is not judged: an estimate may be off by more than a tier.
    """
    counted = figures is not None and figures.token_count_exact is not False
    return judge(
        figures.tokens_per_second if figures is not None and counted else None,
        bounds=target.tiers or profiles.tiers,
        known=known,
        profiles=profiles,
        scenario=decided(target.scenario),
        hardware=decided(target.hardware),
        context_tokens=_context_tokens(figures),
        decode_watts=decode_watts,
    )


def _context_tokens(figures: Measurements | None) -> float:
    """The mean length of the context while a probe decoded: its prompt and half of its answer."""
    if figures is None:
        return 0.0
    return (figures.prompt_tokens or 0) + (figures.output_tokens or 0) / 2
