"""Which GPU serves a target: one decision from what was read and stated, the first rule that decides. Pure.

The rules, in their order:

- what the settings name
- what the server was given: a container's devices, the variables that hide devices, ``--device``, ``-mg``
- whose memory the server's processes hold
- the first GPUs in ROCm's order, as many as its tensor parallel has
- the one GPU whose memory in use is at least the model's weights
- a small integrated GPU never serves beside a discrete one
- the only GPU

A GPU of another vendor is a GPU: it may be the one that serves, and beside it the last rules decide nothing. If no rule
decides, the reason is given.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal

from exporter.host.gpu import GpuFacts, GpuSample, memory_in_use
from exporter.host.gpu_links import GpuLink
from exporter.host.other_gpus import OtherGpu
from exporter.launch.settings import Compute

Rule = Literal[
    "settings", "given", "process_memory", "tensor_parallel", "memory_in_use", "small_integrated", "only_gpu"
]
Split = Literal["parallel", "layers"]

SMALL_UNITS: Final = 4
"""Compute units up to which an integrated GPU never serves beside a discrete one."""
VULKAN_VARIABLE: Final = "GGML_VK_VISIBLE_DEVICES"
RUNTIME_BYTES: Final = 1 << 30
"""More than a runtime takes on each GPU that it sees."""
HELD_SHARE: Final = 0.1
"""Share of the most that a server holds on one GPU from which it uses another too."""

RUNTIMES: Final[Mapping[Compute, str]] = {"rocm": "ROCm", "vulkan": "Vulkan", "cuda": "CUDA", "cpu": "the CPU"}

_DEVICE: Final = re.compile(r"(rocm|hip|vulkan|cuda)(\d{1,3})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A GPU that may serve. ``None`` and empty if not known; only amdgpu's have figures.

    ``integrated`` says whether it is a part of the processor. ``memory_in_use`` is in bytes, of all processes. ``kfd_nodes``
    give ROCm's order, ``unique_ids`` are those by which ROCm names it.
    """

    address: str
    name: str
    vendor: str = "amd"
    driver: str = "amdgpu"
    integrated: bool | None = None
    compute_units: int | None = None
    memory_in_use: int | None = None
    render_nodes: tuple[str, ...] = ()
    kfd_nodes: tuple[int, ...] = ()
    unique_ids: tuple[str, ...] = ()
    gfx_target: str | None = None
    small: bool = False

    @property
    def readable(self) -> bool:
        """Whether the exporter can read what it is and does."""
        return self.driver == "amdgpu"

    @property
    def title(self) -> str:
        """Its name and its address."""
        return f"{self.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of which GPU serves one target on this machine; ``None`` and empty if nothing says it.

    ``named`` are the settings' addresses or render nodes. ``render_nodes`` are those that a container was given (``None``:
    all, or no container), ``vendors`` the vendors whose devices it was given. ``variables`` are the server's that hide
    devices, by name; ``devices``, ``main_gpu`` and ``split_mode`` are llama.cpp's ``--device``, ``-mg`` and ``-sm``.
    ``compute`` is what computes, ``process_found`` whether the server is a process of this machine. ``held`` are (address,
    bytes) that its processes hold, ``held_complete`` that nothing held was measured as such, ``held_problem`` why it
    couldn't be. ``weights_bytes`` is the size of the model's weights.
    """

    gpus: tuple[Candidate, ...] = ()
    named: tuple[str, ...] = ()
    render_nodes: tuple[str, ...] | None = None
    vendors: tuple[str, ...] | None = None
    variables: tuple[tuple[str, str], ...] = ()
    devices: str | None = None
    main_gpu: int | None = None
    split_mode: str | None = None
    compute: Compute | None = None
    process_found: bool = False
    held: tuple[tuple[str, int], ...] = ()
    held_complete: bool = False
    held_problem: str = ""
    tensor_parallel: int | None = None
    weights_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """The decision: addresses of the AMD GPUs that serve, and the rule that decided, with its reason.

    ``others`` are addresses of GPUs that serve and can't be read. Both empty with a ``rule``: no GPU serves. Without a
    ``rule`` it is unknown, ``reason`` says why, and ``in_question`` are the addresses of all that may serve.
    """

    gpus: tuple[str, ...] = ()
    rule: Rule | None = None
    reason: str = ""
    others: tuple[str, ...] = ()
    in_question: tuple[str, ...] = ()


def candidates_of(
    gpus: Iterable[GpuFacts],
    samples: Iterable[GpuSample] = (),
    links: Iterable[GpuLink] = (),
    others: Iterable[OtherGpu] = (),
    render_nodes: Iterable[tuple[str, str]] = (),
) -> tuple[Candidate, ...]:
    """Bring together what was read of each GPU. ``render_nodes`` are (name, address) of all GPUs."""
    sampled = {sample.address: sample for sample in samples}
    linked = {link.address: link for link in links}
    nodes: dict[str, tuple[str, ...]] = {}
    for name, address in render_nodes:
        nodes[address] = (*nodes.get(address, ()), name)
    own = [
        Candidate(
            address=gpu.address,
            name=gpu.name,
            # An AMD GPU without a memory of its own is a part of a processor.
            integrated=gpu.unified_memory,
            compute_units=gpu.compute_units,
            memory_in_use=memory_in_use(gpu, sampled[gpu.address]) if gpu.address in sampled else None,
            render_nodes=(link := linked.get(gpu.address, GpuLink(gpu.address))).render_nodes
            or nodes.get(gpu.address, ()),
            kfd_nodes=link.kfd_nodes,
            unique_ids=link.unique_ids,
            gfx_target=gpu.gfx_target,
        )
        for gpu in gpus
    ]
    foreign = [
        Candidate(
            address=other.address,
            name=other.title,
            vendor=other.vendor,
            driver=other.driver,
            integrated=other.integrated,
            render_nodes=nodes.get(other.address, ()),
            small=other.small,
        )
        for other in others
    ]
    return (*own, *foreign)


def which_gpu(evidence: Evidence) -> Serving:
    """Decide which GPUs serve a target."""
    if evidence.named:
        return _named(evidence)
    state = _Given.begin(evidence)
    if state.decided:
        return state.decided
    left = state.left
    for rule in (_by_process_memory, _by_tensor_parallel, _by_memory_in_use, _by_what_is_left):
        decided = rule(evidence, left, state)
        if decided:
            return decided
    return _unknown(evidence, left)


def are_alike(gpus: Sequence[GpuFacts]) -> bool:
    """Whether GPUs are of one kind, so that what holds for one of them holds for whichever serves."""
    return len({(gpu.gfx_target, gpu.compute_units, gpu.bandwidth_bytes_per_second) for gpu in gpus}) == 1


def bandwidth_together(bandwidths: Sequence[float | None], split: Split, shares: Sequence[float] = ()) -> float | None:
    """Bytes per second at which several GPUs together read a model's weights; ``None`` if that can't be known.

    ``parallel`` (tensor parallel, rows): all read their equal parts at the same time, and wait for the slowest.
    ``layers``: one reads after the other, so equal GPUs are no faster than one; of unequal ones ``shares``, each GPU's
    part of the weights in any unit, decide.
    """
    known = [bandwidth for bandwidth in bandwidths if bandwidth]
    if not known or len(known) != len(bandwidths):
        return None
    if split == "parallel":
        return min(known) * len(known)
    if max(known) == min(known):
        return known[0]
    if len(shares) != len(known) or sum(shares) <= 0:
        return None
    return sum(shares) / sum(share / bandwidth for share, bandwidth in zip(shares, known, strict=True))


# What the settings and the server's own switches say ------------------------------------------------------------------


def _named(evidence: Evidence) -> Serving:
    found: list[Candidate] = []
    for name in evidence.named:
        gpu = next((gpu for gpu in evidence.gpus if _is_called(gpu, name)), None)
        if gpu is None:
            here = ", ".join(each.title for each in evidence.gpus) or "none"
            return Serving(
                reason=f"the settings name the GPU {name!r}, which this machine does not have (it has: {here})"
            )
        found.append(gpu)
    return _serving(found, "settings", "the settings name it" if len(found) == 1 else "the settings name them")


def _is_called(gpu: Candidate, name: str) -> bool:
    wanted = name.strip().removeprefix("/dev/dri/").removeprefix("by-path/pci-").removesuffix("-render")
    return wanted in gpu.render_nodes or wanted.lower() in {gpu.address, gpu.address.partition(":")[2]}


@dataclass(frozen=True, slots=True)
class _Given:
    """What the server was given: the GPUs that are left, in the orders in which each runtime numbers them."""

    left: tuple[Candidate, ...]
    rocm: tuple[Candidate, ...] | None
    """``None`` if the order isn't known."""
    vulkan: tuple[Candidate, ...] | None
    reasons: tuple[str, ...] = ()
    decided: Serving | None = None

    @staticmethod
    def begin(evidence: Evidence) -> "_Given":
        if evidence.compute == "cpu":
            return _Given(
                (), None, None, decided=Serving(rule="given", reason="no GPU: the server computes on the CPU")
            )
        left = tuple(gpu for gpu in evidence.gpus if _may_use(gpu, evidence))
        reasons: tuple[str, ...] = ()
        if evidence.render_nodes is not None:
            left = tuple(gpu for gpu in left if set(gpu.render_nodes) & set(evidence.render_nodes))
            reasons = (f"the container was given {', '.join(evidence.render_nodes)}",)
        state = _Given(left, _rocm_order(left), _vulkan_order(left), reasons)
        for step in (_apply_variables, _apply_devices, _apply_main_gpu):
            state = step(state, evidence)
            if state.decided:
                return state
        if state.reasons and len(state.left) == 1:
            return replace(state, decided=_serving(state.left, "given", "; ".join(state.reasons)))
        return state

    def keep(self, chosen: Sequence[Candidate], reason: str) -> "_Given":
        """Leave only these GPUs, in this order."""

        def kept(order: tuple[Candidate, ...] | None) -> tuple[Candidate, ...] | None:
            return None if order is None else tuple(gpu for gpu in chosen if gpu in order)

        return replace(
            self, left=tuple(chosen), rocm=kept(self.rocm), vulkan=kept(self.vulkan), reasons=(*self.reasons, reason)
        )


def _may_use(gpu: Candidate, evidence: Evidence) -> bool:
    """Whether the server could use a GPU at all, by what computes and by whose devices it was given."""
    if gpu.driver == "vfio-pci" and (evidence.process_found or evidence.compute):
        return False
    if evidence.vendors is not None and gpu.vendor not in evidence.vendors:
        return False
    if evidence.compute == "rocm":
        return gpu.readable
    return gpu.vendor == "nvidia" if evidence.compute == "cuda" else True


def _rocm_order(gpus: Sequence[Candidate]) -> tuple[Candidate, ...] | None:
    """ROCm's order: that of KFD's nodes, unless the runtime may have put GPUs of one kind together."""
    amd = [gpu for gpu in gpus if gpu.readable]
    if len(amd) > 1 and not all(gpu.kfd_nodes for gpu in amd):
        return None
    order = sorted(amd, key=lambda gpu: gpu.kfd_nodes)
    kinds = [gpu.gfx_target for gpu in order]
    together = sum(one != other for one, other in pairwise(kinds)) < len(set(kinds))
    return tuple(order) if together or not order else None


def _vulkan_order(gpus: Sequence[Candidate]) -> tuple[Candidate, ...] | None:
    """Vulkan's order on Linux: discrete GPUs before integrated ones, each kind by PCI address."""
    if any(gpu.integrated is None for gpu in gpus) and len(gpus) > 1:
        return None
    return tuple(sorted(gpus, key=lambda gpu: (bool(gpu.integrated), gpu.address)))


def _apply_variables(state: _Given, evidence: Evidence) -> _Given:
    """Apply the variables of the runtime that computes; of both, if nothing says which does, only if they agree."""
    variables = {name: value.strip() for name, value in evidence.variables if value.strip()}
    by_rocm = _apply_rocm_variables(state, variables) if evidence.compute in {None, "rocm"} else state
    by_vulkan = state
    if VULKAN_VARIABLE in variables and evidence.compute in {None, "vulkan"}:
        by_vulkan = _mask(state, state.vulkan, VULKAN_VARIABLE, variables[VULKAN_VARIABLE])
    if state in (by_rocm, by_vulkan):
        return by_vulkan if by_rocm == state else by_rocm
    agree = {gpu.address for gpu in by_rocm.left} == {gpu.address for gpu in by_vulkan.left}
    return by_rocm if agree and by_rocm.decided == by_vulkan.decided else state


def _apply_rocm_variables(state: _Given, variables: Mapping[str, str]) -> _Given:
    """ROCr hides devices first; HIP, for which CUDA's variable means the same, numbers those that are left."""
    names = ["ROCR_VISIBLE_DEVICES"]
    if "HIP_VISIBLE_DEVICES" in variables:
        names.append("HIP_VISIBLE_DEVICES")
    elif not any(gpu.vendor == "nvidia" for gpu in state.left):  # else it may be meant for that one
        names.append("CUDA_VISIBLE_DEVICES")
    for name in names:
        if name in variables and not state.decided:
            state = _mask(state, state.rocm, name, variables[name])
    return state


def _mask(state: _Given, order: tuple[Candidate, ...] | None, name: str, value: str) -> _Given:
    """Leave what a variable shows: indices or ids, up to the first that is none."""
    reason = f"{name}={value}"
    chosen: list[Candidate] = []
    for token in value.split(","):
        unique = token.strip().lower().removeprefix("gpu-")
        gpu = next((gpu for gpu in state.left if unique in gpu.unique_ids), None)
        if gpu is None and token.strip().isdecimal():
            if order is None:
                return state
            gpu = order[int(token)] if int(token) < len(order) else None
        if gpu is None:
            break
        chosen.append(gpu)
    if not chosen:
        return replace(state, decided=Serving(rule="given", reason=f"no GPU: {reason} hides them all"))
    return state.keep(chosen, reason)


def _apply_devices(state: _Given, evidence: Evidence) -> _Given:
    """llama.cpp's ``--device``: names of its backends with their numbers, over all of which it splits a model."""
    if not evidence.devices:
        return state
    reason = f"the server was started with --device {evidence.devices}"
    if evidence.devices.strip().lower() == "none":
        return replace(state, decided=Serving(rule="given", reason=f"no GPU: {reason}"))
    chosen: list[Candidate] = []
    for token in evidence.devices.split(","):
        found = _DEVICE.fullmatch(token.strip())
        if not found:
            return state
        gpu = _numbered(state, found[1].lower(), int(found[2]))
        if gpu is None:
            return state
        chosen.append(gpu)
    state = state.keep(chosen, reason)
    if evidence.split_mode == "none" and len(chosen) > 1:
        return state
    return replace(state, decided=_serving(chosen, "given", "; ".join(state.reasons)))


def _numbered(state: _Given, runtime: str, number: int) -> Candidate | None:
    if runtime == "cuda":
        nvidia = [gpu for gpu in state.left if gpu.vendor == "nvidia"]
        # Its own order is by speed: a number means one GPU only if there is one. On AMD, HIP may call itself CUDA.
        if nvidia:
            return nvidia[0] if len(nvidia) == 1 and number == 0 else None
    order = state.vulkan if runtime == "vulkan" else state.rocm
    return order[number] if order is not None and number < len(order) else None


def _apply_main_gpu(state: _Given, evidence: Evidence) -> _Given:
    """With ``-sm none`` the model is on one GPU, which ``-mg`` numbers; with another mode it decides nothing."""
    if evidence.split_mode != "none":
        return state
    number = evidence.main_gpu or 0
    orders = {"rocm": (state.rocm,), "vulkan": (state.vulkan,)}.get(evidence.compute or "", (state.rocm, state.vulkan))
    numbered: set[Candidate | None] = set()
    for order in orders:
        # Integrated GPUs are numbered by older versions; newer ones leave them out beside a discrete one.
        discrete = tuple(gpu for gpu in order or () if not gpu.integrated)
        for devices in (order, order if evidence.devices or not discrete else discrete):
            numbered.add(devices[number] if devices is not None and 0 <= number < len(devices) else None)
    gpu, *more = numbered
    if gpu is None or more:
        return state
    return state.keep([gpu], f"the server was started with -sm none, and -mg is {number}")


# What the machine shows ------------------------------------------------------------------------------------------------


def _by_process_memory(evidence: Evidence, left: Sequence[Candidate], _: _Given) -> Serving | None:
    by_address = {gpu.address: gpu for gpu in evidence.gpus}
    held = [(by_address[address], count) for address, count in evidence.held if address in by_address and count > 0]
    if not held:
        if not evidence.held_complete or not left:
            return None
        return Serving(
            reason="the server's processes hold no memory of a GPU that can be read: no model is loaded, or it computes elsewhere"
        )
    most = max(count for _, count in held)
    least = HELD_SHARE * most
    if evidence.weights_bytes is not None and most >= evidence.weights_bytes:  # the whole model is on one
        least = max(least, min(most, RUNTIME_BYTES))
    serving = [gpu for gpu, count in held if count >= least]
    return _serving(serving, "process_memory", "the server's processes hold their memory there")


def _by_tensor_parallel(evidence: Evidence, left: Sequence[Candidate], state: _Given) -> Serving | None:
    size = evidence.tensor_parallel
    if size is None or size < 1 or state.rocm is None or not all(gpu.readable for gpu in left):
        return None
    usable = _without_small(left)
    order = [gpu for gpu in state.rocm if gpu in usable]
    if len(order) < max(size, 2):
        return None
    taken = "one GPU" if size == 1 else "as many GPUs"
    reason = f"a tensor parallel size of {size} takes {taken}, the first in ROCm's order"
    return _serving(order[:size], "tensor_parallel", reason)


def _by_memory_in_use(evidence: Evidence, left: Sequence[Candidate], _: _Given) -> Serving | None:
    usable = _without_small(left)
    weights = evidence.weights_bytes
    if weights is None or len(usable) < 2 or any(gpu.memory_in_use is None for gpu in usable):
        return None
    parts = max(evidence.tensor_parallel or 1, 1)
    full = [gpu for gpu in usable if (gpu.memory_in_use or 0) >= weights / parts]
    if len(full) != parts:
        return None
    reason = f"of {len(usable)} GPUs it alone has as much memory in use as the model's weights have"
    if parts > 1:
        reason = f"{parts} of {len(usable)} GPUs have as much memory in use as their parts of the model's weights have"
    return _serving(full, "memory_in_use", reason)


def _by_what_is_left(evidence: Evidence, left: Sequence[Candidate], _: _Given) -> Serving | None:
    usable = _without_small(left)
    if len(usable) != 1 or not usable[0].readable:
        return None
    if len(usable) < len(left):
        small = ", ".join(gpu.title for gpu in left if gpu not in usable)
        reason = f"an integrated GPU as small as {small} never serves beside a discrete one"
        return _serving(usable, "small_integrated", reason)
    reason = "it is the only GPU"
    if evidence.compute:
        reason += f" that a server on {RUNTIMES[evidence.compute]} can use"
    elif len(evidence.gpus) > 1:
        reason += " that the server can use"
    return _serving(usable, "only_gpu", reason)


def _without_small(gpus: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The GPUs without the small integrated ones, if there is a discrete one."""
    if not any(gpu.integrated is False for gpu in gpus):
        return tuple(gpus)
    return tuple(gpu for gpu in gpus if not _is_small(gpu))


def _is_small(gpu: Candidate) -> bool:
    few = gpu.compute_units is not None and gpu.compute_units <= SMALL_UNITS
    return gpu.integrated is True and (few or gpu.small)


def _unknown(evidence: Evidence, left: Sequence[Candidate]) -> Serving:
    if not evidence.gpus:
        return Serving(reason="this machine has no GPU that can be seen")
    if not left:
        return Serving(reason="the server was given no GPU of this machine that can be seen")
    usable = _without_small(left)
    in_question = tuple(gpu.address for gpu in usable)
    foreign = ", ".join(gpu.title for gpu in usable if not gpu.readable)
    if len(usable) == 1:
        return Serving(reason=f"it may be the {foreign}, of which nothing can be read here", in_question=in_question)
    reasons = [f"{len(usable)} GPUs may serve: {', '.join(gpu.title for gpu in usable)}"]
    unmeasured = ", ".join(gpu.title for gpu in usable if gpu.memory_in_use is None)
    if evidence.held_problem:
        reasons.append(evidence.held_problem)
    if foreign:
        reasons.append(f"nothing can be read of {foreign}")
    elif evidence.weights_bytes is None:
        reasons.append("the size of the model is not known")
    elif unmeasured:
        reasons.append(f"the memory in use is not known of {unmeasured}")
    else:
        reasons.append("the model's size and the memory in use do not tell which")
    reasons.append("set targets[].gpu")
    return Serving(reason="; ".join(reasons), in_question=in_question)


def _serving(gpus: Sequence[Candidate], rule: Rule, reason: str) -> Serving:
    titles = ", ".join(gpu.title for gpu in gpus)
    return Serving(
        gpus=tuple(gpu.address for gpu in gpus if gpu.readable),
        rule=rule,
        reason=f"{titles}: {reason}" if titles else reason,
        others=tuple(gpu.address for gpu in gpus if not gpu.readable),
    )
