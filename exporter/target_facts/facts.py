"""All that is known of one target, of which each source knows a part. Pure."""

from dataclasses import replace

from exporter.host.process import settings_of_process
from exporter.launch.settings import settings_of
from exporter.probe.result import Identity, TargetState
from exporter.settings import Target
from exporter.target_facts.gpu import NOT_HERE, gpus_of, serving_of, with_gpu
from exporter.target_facts.server import Machine, ServerSetup, compute_of, decided, setup_of
from exporter.target_facts.weights import files_of, stated_weights, weights_of
from exporter.tiers import NO_GPU_GIVEN, ON_CPU, SAID_BY_THE_SERVER, TargetFacts


def target_facts_of(
    target: Target, identity: Identity | None, machine: Machine, state: TargetState | None = None
) -> TargetFacts:
    """All that is known of one target; None, field by field, if nobody said. ``state`` is its newest status check."""
    setup = setup_of(target.url, machine)
    container = setup.container
    identity = identity or Identity(decided(target.backend) or (container and container.backend) or "")
    model = identity.model or target.model or (container and (container.served_model_name or container.model)) or None
    users = state.requests_running if state else None
    known = TargetFacts(identity.backend, model=model, quantization=identity.quantization, users=users)
    if not setup.local:
        return replace(
            known,
            weights=stated_weights(identity, None),
            no_gpu=ON_CPU if identity.on_cpu else "",
            offloaded=identity.offloaded,
            speculative=_speculative(None, state),
            bandwidth_problem=NOT_HERE,
        )
    files, problem = files_of(setup, identity, model, machine)
    settings = dict(settings_in(target, identity, machine))
    kv_cache = settings.get("kv_cache") or (container.kv_cache_dtype if container else None)
    quantization = container.quantization if container else None
    quantization = quantization or next((each.quantization for each in setup.launches if each.quantization), None)
    weights = weights_of(identity, files, kv_cache, quantization)
    served = serving_of(target, identity, machine)
    known = replace(
        known,
        quantization=identity.quantization or quantization or (files and (files.quantization or files.dtype)) or None,
        kv_cache=kv_cache,
        aiter=_aiter(setup),
        weights=weights,
        weights_problem=problem,
        no_gpu=_why_no_gpu(setup, identity),
        offloaded=identity.offloaded,
        offload=settings.get("cpu_offload"),
        speculative=_speculative(settings.get("speculative"), state),
    )
    return with_gpu(known, setup, served, machine)


def _speculative(launched: str | None, state: TargetState | None) -> str | None:
    """How tokens are drafted, by the launch settings, else by what the answers reported; ``none`` if neither says that they are."""
    if launched in {None, "none"} and state is not None and state.drafts:
        return SAID_BY_THE_SERVER
    return launched


def _why_no_gpu(setup: ServerSetup, identity: Identity) -> str:
    """Why no GPU computes, in words; empty if one may."""
    if compute_of(setup, identity) == "cpu":
        return ON_CPU
    return NO_GPU_GIVEN if setup.container is not None and not setup.container.devices.gives_gpu else ""


def _aiter(setup: ServerSetup) -> bool | None:
    stated = next((each.aiter for each in setup.launches if each.aiter is not None), None)
    return setup.container.aiter if stated is None and setup.container else stated


def settings_in(target: Target, identity: Identity | None, machine: Machine) -> tuple[tuple[str, str], ...]:
    """The launch settings that decide speed, by name, in words, and the GPU that serves, as far as they can be read."""
    setup = setup_of(target.url, machine)
    if not setup.local:
        return ()
    served = serving_of(target, identity, machine)
    gfx_targets = tuple(gpu.gfx_target for gpu in gpus_of(served, machine) if gpu.gfx_target)
    files, _ = files_of(setup, identity or Identity(""), identity.model if identity else None, machine)
    layers = files.layers if files else None
    known: dict[str, str] = {}
    if setup.container and setup.container.launch:
        known = settings_of(setup.container.launch, layers=layers, gfx_targets=gfx_targets)
    if setup.process:
        known |= settings_of_process(setup.process, layers=layers, gfx_targets=gfx_targets)
    if (compute := compute_of(setup, identity)) is not None:
        known["compute"] = compute
    if served.gpus:
        known["gpu"] = ",".join(served.gpus)
    return tuple(sorted(known.items()))
