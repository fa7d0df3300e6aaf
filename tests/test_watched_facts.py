"""Which facts of a target are watched for changes, out of the made-up machine of the golden exposition."""

from dataclasses import replace

import pytest

from exporter.containers.facts import CandidateUrl, Devices, EngineReading
from exporter.history.change import Ledger, observe_facts
from exporter.host.process import ProcessFacts, ProcessReading
from exporter.launch.settings import read_launch
from exporter.probe.result import Identity
from exporter.settings import Module, Target, load_profiles
from exporter.snapshot import CONTAINERS, MACHINE, PROCESSES, ServerProcesses, Snapshot, View
from exporter.target_facts import info_of, machine_of, target_facts_of
from exporter.watched_facts import watched_facts
from tests.scenes import containers, publish_all

URL = "http://127.0.0.1:8001"
TARGET = Target(url=URL, name="vllm-aiter")
IDENTITY = Identity("vllm", "0.11.2", "Qwen/Qwen2.5-14B-Instruct", "none", weight_bytes=29_540_067_328)
MODULES = {"default": Module(), "prefill": Module(max_tokens=16, prompt_tokens=2048)}
PROFILES = load_profiles(None)


def facts_of(
    view: View, target: Target = TARGET, identity: Identity | None = IDENTITY, **modules: Module
) -> dict[str, str | None]:
    machine = machine_of(view)
    known = target_facts_of(target, identity, machine)
    info = info_of(target, identity, known, machine, PROFILES)
    return watched_facts(target, identity, info, known.weights, modules=MODULES | modules, view=view)


def published(image: str = "rocm/vllm:0.11", image_id: str = "sha256:1") -> Snapshot:
    """The scene with the target in a container of this image."""
    snapshot = publish_all(Snapshot())
    first, *others = containers()
    served = replace(
        first,
        image=image,
        image_id=image_id,
        urls=(CandidateUrl(URL, "published_port"),),
        devices=Devices(kfd=True, dri=True),
    )
    every = (served, *others)
    snapshot.publish(CONTAINERS, EngineReading(available=True, containers=every, last_known=every))
    return snapshot


def test_the_machine_belongs_to_what_runs_on_it() -> None:
    """A local target has the facts of its container, its GPU and its host; a remote one only its own."""
    view = published().view()
    local = facts_of(view)
    assert local["kernel"] == "6.18.4-200.fc43.x86_64"
    assert local["host ROCm"] == "7.2.0-43"
    assert local["driver"] == "6.16.13 (dkms)"
    assert local["kernel parameter amd_iommu"] == "off"
    assert local["firmware mes of 0000:c1:00.0"] == "0x80"
    assert local["vBIOS of 0000:c1:00.0"] == "113-STRXLGEN-001"
    assert local["GTT size of 0000:c1:00.0"] == "118111600640 bytes"
    assert local["platform profile"] == "performance"
    assert (local["image"] or "").startswith("rocm/vllm:")
    remote = facts_of(view, Target(url="http://10.0.0.7:8000", name="far"))
    assert remote.keys() < local.keys()
    assert remote["backend version"] == "0.11.2"
    assert not {"kernel", "image", "gpu", "host ROCm"} & remote.keys()


def test_an_image_of_the_same_name_with_another_digest_is_another() -> None:
    """``latest`` that was pulled anew is a change."""
    before = facts_of(published("vllm:latest", "sha256:" + "a" * 64).view())
    after = facts_of(published("vllm:latest", "sha256:" + "b" * 64).view())
    ledger = observe_facts(observe_facts(Ledger("t"), 1.0, before), 2.0, after)
    (change,) = ledger.changes
    assert [each.fact for each in change.differences] == ["image"]
    assert change.differences[0].after == "vllm:latest (bbbbbbbbbbbb)"


def test_a_server_that_says_nothing_changes_nothing() -> None:
    """While it is down, its container and the settings name its model otherwise; none of that is a change."""
    view = published().view()
    ledger = Ledger("t")
    for number, identity in enumerate((IDENTITY, None, IDENTITY)):
        ledger = observe_facts(ledger, float(number), facts_of(view, identity=identity))
    assert ledger.changes == ()


@pytest.mark.parametrize(
    ("identity", "fact"),
    [
        (replace(IDENTITY, backend_version="0.12.0"), "backend version"),
        (replace(IDENTITY, model="Qwen/Qwen3-8B"), "model"),
        (replace(IDENTITY, weight_bytes=9_000_000_000), "weights"),
        (replace(IDENTITY, quantization="awq"), "quantization"),
    ],
)
def test_what_the_server_says_is_watched(identity: Identity, fact: str) -> None:
    """A new version, model, file of weights or quantization is one change."""
    view = published().view()
    ledger = observe_facts(observe_facts(Ledger("t"), 1.0, facts_of(view)), 2.0, facts_of(view, identity=identity))
    assert fact in [each.fact for change in ledger.changes for each in change.differences]


def test_another_kernel_and_another_shape_of_a_module_are_changes() -> None:
    """Also a field of the request, whose value is not told."""
    snapshot = published()
    before = facts_of(snapshot.view())
    machine = snapshot.view().get(MACHINE)
    assert machine is not None
    snapshot.publish(MACHINE, replace(machine, kernel_release="6.19.0"))
    after = facts_of(snapshot.view(), default=Module(request={"secret": "value"}))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"kernel", "module default"}
    assert "value" not in str(after)


def launched(command: str) -> View:
    """The scene with a llama-server beside it, started by this command line."""
    launch = read_launch("llama-server", command.split(), {}, complete=True)
    process = ProcessFacts(
        pid=7, launch=launch, start_ticks=1, network="own", port=8071, listening=True, compute="rocm"
    )
    snapshot = publish_all(Snapshot())
    snapshot.publish(PROCESSES, ServerProcesses(ProcessReading((process,)), ()))
    return snapshot.view()


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("", "-ngl 0", ("setting cpu_offload", "default", "gpu_layers 0")),
        ("-cmoe", "", ("setting cpu_offload", "cpu_moe", "default")),
        ("", "-c 65536", ("setting context", "default", "65536")),
        ("-ub 2048", "", ("setting micro_batch", "2048", "default")),
        ("-fa off", "-fa on", ("setting flash_attention", "off", "on")),
        ("-md d.gguf", "", ("setting speculative", "draft", "none")),
    ],
)
def test_a_switch_that_is_new_or_gone_is_a_change(before: str, after: str, change: tuple[str, str, str]) -> None:
    """The command line was read whole both times, so what it leaves out is known to be the program's default."""
    target, identity = Target(url="http://127.0.0.1:8071", name="llama"), replace(IDENTITY, backend="llama_cpp")
    one, other = (facts_of(launched(f"-m m.gguf {each}"), target, identity) for each in (before, after))
    ledger = observe_facts(observe_facts(Ledger("t"), 1.0, one), 2.0, other)
    (found,) = ledger.changes
    assert [(each.fact, each.before, each.after) for each in found.differences] == [change]


def test_a_canary_of_another_depth_is_another_shape() -> None:
    """Its figures are of another prompt."""
    view = published().view()
    target = TARGET.model_copy(update={"modules": ("canary",)})
    one, other = (
        facts_of(view, target, canary=Module(max_tokens=512, depth=depth))["module canary"] for depth in (2048, 8192)
    )
    assert one != other
    assert "2048 tokens deep" in (one or "")
