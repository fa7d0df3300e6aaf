"""What verdicts say, walked through all that can be put into it: each text must read as a sentence. Docstrings: short sentences.

The values come from where the daemon takes them: command lines of each program, every machine of the fixtures, each condition.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from exporter.advice import Advice, AdviceFacts, Case, advise, advise_target
from exporter.containers.facts import ContainerFacts, Devices, EngineReading
from exporter.history.change_lines import ChangeLine
from exporter.host.gpu import GpuFacts, GpuSample, read_gpus, sample_gpus
from exporter.host.gpu_links import read_links, read_render_nodes
from exporter.host.machine import GpuSettings, MachineFacts, PowerProfile, read_machine
from exporter.host.other_gpus import OtherGpu, read_other_gpus
from exporter.host.process import NO_PROC, OTHERS_HIDDEN, OWN_CONTAINER, ProcessReading
from exporter.host.rocm import RocmFacts
from exporter.host.throttling import REASONS
from exporter.launch.programs import SERVERS
from exporter.launch.settings import cpu_offload, read_launch
from exporter.machine_report import Findings, ServerReport, machine_json, machine_markdown, machine_rows
from exporter.probe.result import NOT_AN_ANSWER, RESULTS, Measurements, ProbeResult, TargetState
from exporter.serving_gpu import Candidate, Evidence, which_gpu
from exporter.settings import load_profiles
from exporter.snapshot import GpuNames, ServerProcesses, TargetInfo
from exporter.target_facts import Machine
from exporter.tiers import NO_GPU_GIVEN, ON_CPU, SAID_BY_THE_SERVER, Judgement, TargetFacts, Weights, judge
from tests.host.machines import NAMES, build, candidates

PROFILES = load_profiles(None)
URL = "http://127.0.0.1:8000"
HALO = TargetFacts(
    "llama_cpp", "m-14B", weights=Weights(9e9, 9e9, 14e9, experts=False), gfx_target="gfx1151", compute_units=40
)
OFFLOADS = {
    "llama-server": (
        "-ngl 0",
        "-ngl 20",
        "--n-cpu-moe 36",
        "--n-cpu-moe 0",
        "-cmoe",
        "-ot exps=CPU",
        "-nkvo",
        "--device none",
        "--device none -ngl 0",
        "--rpc 10.0.0.7:50052",
        "-ngl 99",
        "-ngl 20 --n-cpu-moe 4 -nkvo",
    ),
    "vllm": ("serve m --cpu-offload-gb 8", "serve m --offload-group-size 8", "serve m", "serve m --device cpu"),
    "sglang": ("--model-path m --cpu-offload-gb 4",),
    "koboldcpp": ("--model m.gguf --usecpu", "--model m.gguf --gpulayers 0", "--model m.gguf --moecpu 3"),
    "text-generation-webui": ("--model m --cpu", "--model m --gpu-layers 0", "--model m --cpu-moe"),
    "transformers": ("--device cpu", "--device cuda"),
}
DRAFTS = {
    "llama-server": (
        "-m m.gguf -md d.gguf",
        "-m m.gguf --spec-type ngram-mod",
        "-m m.gguf --spec-type draft-mtp,ngram-mod",
    ),
    "vllm": (
        'serve m --speculative-config {"method":"mtp"}',
        'serve m --speculative-config {"model":"d"}',
        "serve m --speculative-config x",
        "serve m --speculative-config.method eagle3",
    ),
    "sglang": ("--model-path m --speculative-algorithm EAGLE3",),
}
FAULTS = (
    (r"\(\s*\)|\(all\)|\(none\)|\(on\)|\(default\)|\(True\)", "a word in parentheses that says nothing"),
    (r"\bNone\b|\bnan\b|\binf\b|\bdict\b|<|>|\{|\}", "a value of the program"),
    (r" {2}| [,.;:]|[,;:]\.|\.\.|,,|;;|: *:|^\s|\s$", "a gap where a word should stand"),
    (r"\de[+-]\d", "a power of ten"),
    (r"–(?!\d)", "a figure that nobody measured"),
    (
        r"\b1 (GPUs|requests|tokens|pages|servers)\b|\b(?:[2-9]|\d\d+) (GPU|request|server)\b",
        "a number and a noun that differ",
    ),
    (r"(?<![\d.,-])0 (GPUs?|requests?|servers?)\b", "nothing, counted"),
    (r"\b(\w+) \1\b(?! \d)", "a word twice"),
    (r"\b(llama_cpp|text_generation_webui|no_effect|memory_bandwidth)\b", "an id for a name"),
)


def fault_in(text: str) -> str | None:
    """What is odd about a text, None where nothing is."""
    for pattern, fault in FAULTS:
        if found := re.search(pattern, text):
            return f"{fault}: {found[0]!r}"
    return None if text.count("(") == text.count(")") else "a parenthesis alone"


def read_well(texts: Iterator[str]) -> int:
    """How many different texts were read, none of them odd."""
    seen = set(texts)
    odd = {text: fault for text in seen if (fault := fault_in(text))}
    assert not odd, odd
    return len(seen)


@pytest.mark.parametrize(
    "text",
    [
        "not all of its work is done on the GPU (all), so the GPU's memory isn't its limit",
        "it drafts tokens (on), so one read of the weights may give several tokens",
        "– tokens/s, and nothing that is known explains it.",
        "0 requests of its users run now.",
        "1 GPUs may serve",
        "ceiling of the  server",
        "The answer is no text, however fast it came: .",
    ],
)
def test_what_is_odd_is_seen(text: str) -> None:
    """The reader of these tests knows a sentence that is none."""
    assert fault_in(text)


def offloads() -> Iterator[str | None]:
    """All that launch settings can say is off the GPU."""
    yield from (None, "none", "all", "cpu, gpu_layers 0")
    for name, commands in OFFLOADS.items():
        for command, complete, layers in product(commands, (True, False), (None, 48)):
            yield cpu_offload(read_launch(name, command.split(), {}, complete=complete), layers)


def speculations() -> Iterator[str | None]:
    """All that launch settings can say of drafting."""
    yield from (None, "none", "on", SAID_BY_THE_SERVER)
    for name, commands in DRAFTS.items():
        yield from (read_launch(name, command.split(), {}, complete=True).speculative for command in commands)


def test_each_program_that_can_offload_is_walked() -> None:
    """The tables above name a command of each program whose switches can keep work off the GPU."""
    can = {
        name
        for name, server in SERVERS.items()
        if server.switches.keys()
        & {"cpu_only", "cpu_offload_gb", "offload_groups", "override_tensor", "all_experts_on_cpu"}
    }
    assert can <= OFFLOADS.keys()


def judgements() -> Iterator[Judgement]:
    """Judgements of all that can be known or unknown of a setup."""
    weights = (HALO.weights, Weights(), Weights(9e9), Weights(9e9, experts=True))
    for no_gpu, offloaded, offload in product(("", ON_CPU, NO_GPU_GIVEN), (None, True, False), set(offloads())):
        yield judged(replace(HALO, no_gpu=no_gpu, offloaded=offloaded, offload=offload))
    for speculative in set(speculations()):
        yield judged(replace(HALO, speculative=speculative))
    words = ("", "its file can't be read: /models/x.gguf: Permission denied")
    for model, size, gpu, why in product(
        (None, "m-14B", "qwen3-30b-a3b", "mixtral-8x7b"), weights, ("", "Radeon RX 7300"), words
    ):
        known = replace(HALO, model=model, weights=size, gpu_name=gpu, weights_problem=why)
        yield judged(known)
        yield judged(replace(known, gfx_target=None))
    for speed in (9.2, 30.0, 1234.5):
        yield judged(HALO, speed)


def judged(known: TargetFacts, speed: float | None = 6.4) -> Judgement:
    return judge(speed, bounds=PROFILES.tiers, known=known, profiles=PROFILES)


def test_reasons_for_a_missing_ceiling() -> None:
    """Each is a clause about the server that reads well behind a colon."""
    found = list(judgements())
    assert read_well(each.no_ceiling for each in found) > 40
    assert read_well(each.off_gpu for each in found) > 10
    on_cpu = [each for each in found if each.off_gpu == ON_CPU]
    assert on_cpu
    assert {each.no_ceiling for each in on_cpu} == {"it computes on the CPU, so the GPU's memory isn't its limit"}


def evidence(gpus: tuple[Candidate, ...]) -> Iterator[Evidence]:
    """All rules on the GPUs of one machine, and all reasons why none decides."""
    addresses = [gpu.address for gpu in gpus]
    yield Evidence(gpus)
    for named in (("renderD200",), tuple(addresses[:1]), tuple(addresses[:2])):
        yield Evidence(gpus, named=named)
    for variables in (
        (("HIP_VISIBLE_DEVICES", "0"),),
        (("HIP_VISIBLE_DEVICES", "-1"),),
        (("GGML_VK_VISIBLE_DEVICES", "1"),),
    ):
        yield Evidence(gpus, variables=variables)
    for devices in ("none", "ROCm0", "Vulkan0,Vulkan1", "CUDA0"):
        yield Evidence(gpus, devices=devices)
    for compute, found, size in product((None, "rocm", "vulkan", "cuda", "cpu"), (True, False), (None, 5e9, 500e9)):
        yield Evidence(gpus, compute=compute, process_found=found, weights_bytes=size)  # type: ignore[arg-type]
    for parallel, size in product((1, 2, 8), (None, 5e9)):
        yield Evidence(gpus, tensor_parallel=parallel, weights_bytes=size)
    yield Evidence(gpus, render_nodes=("renderD128",))
    yield Evidence(gpus, render_nodes=("renderD200", "renderD201"))
    yield Evidence(gpus, vendors=("amd",))
    yield Evidence(gpus, split_mode="none", main_gpu=0)
    yield Evidence(gpus, held_complete=True)
    yield Evidence(gpus, held=tuple((address, 9 << 30) for address in addresses))
    for problem in (
        NO_PROC,
        OTHERS_HIDDEN,
        OWN_CONTAINER,
        "process 7 is not in /proc: it has ended, or is hidden from the exporter",
    ):
        yield Evidence(gpus, held_problem=problem)


def test_reasons_for_the_gpu_that_serves(tmp_path: Path) -> None:
    """On every machine of the fixtures, whatever is said of a server."""
    machines = [candidates(build(name, tmp_path / name)) for name in NAMES]
    assert read_well(which_gpu(each).reason for gpus in [(), *machines] for each in evidence(gpus)) > 150


def probe(result: str, speed: float | None, error: str = "", **more: float | bool | None) -> ProbeResult:
    measured = (
        Measurements(tokens_per_second=speed, stream_buffered=speed is None) if result == "ok" else Measurements()
    )
    found = ProbeResult("t", "default", result, error, 0.0, 60.0, measurements=measured)  # type: ignore[arg-type]
    return replace(found, **more)  # type: ignore[arg-type]  # each field by its own type


def cases() -> Iterator[Case]:
    """Targets with one thing known after the other, and several at once."""
    state = TargetState("t", URL, 1.0, up=True)
    gpu_free = ContainerFacts("0", "vllm", "i", "s", "vllm", running=True, cache_path="/root/.cache/huggingface/hub")
    judged_as = [*judgements(), None]
    settings: list[dict[str, str]] = [
        {},
        {"compute": "cpu"},
        {"compute": "cpu", "cpu_offload": "all"},
        {"aiter": "no_effect"},
    ]
    settings += [{"cpu_offload": offload} for offload in set(offloads()) if offload]
    for judgement, known in product(judged_as, settings):
        yield Case(TargetInfo(URL, "llama_cpp", settings=tuple(known.items())), judgement, probe("ok", 6.4))
    slow = judged(HALO)
    for result, error in product(RESULTS, ("", "connection refused")):
        for speed in (None, 6.4):
            yield Case(TargetInfo(URL), slow, probe(result, speed, error))
        if result in NOT_AN_ANSWER:
            yield Case(TargetInfo(URL), slow, probe("ok", 6.4), probe(result, None, error))
    for running, theirs, together in product((0.0, 0.3, 1.0, 2.0), (None, 4.2), (None, 0.0, 31.0)):
        asked = replace(state, requests_running=running, generated_tokens_per_second=together)
        for beside in (None, 0.4, 1.0, 3.0):
            ran = probe("ok", 6.4, beside_users=beside)
            yield Case(TargetInfo(URL), slow, ran, state=asked, user_tokens_per_second=theirs, least_for_users=10.0)
    for quantization in ("", "none", "BF16", "Q8_0", "Q4_K_M", "awq", "fp8"):
        yield Case(TargetInfo(URL, quantization=quantization), judged(HALO, 24.0), probe("ok", 24.0))
    line = ChangeLine(1234.0, "image changed from a to b", "6.4, before 12.1 tok/s", standing=True)
    yield Case(TargetInfo(URL), slow, probe("ok", 6.4), changes=(line,))
    yield Case(
        TargetInfo(URL), slow, probe("ok", 6.4), changes=(replace(line, what="nothing changed", explained=False),)
    )
    for devices in (Devices(), Devices(kfd=True, dri=True)):
        yield Case(TargetInfo(URL), slow, probe("ok", 6.4), container=replace(gpu_free, devices=devices))
    for share, degrees in product((0.05, 0.4, 1.0), ((), (("edge", 97.0),))):
        hot = GpuSample("0", temperatures=degrees, throttling=tuple((reason, share) for reason in REASONS))
        yield Case(TargetInfo(URL), slow, probe("ok", 6.4), samples=(hot,))
    yield Case(TargetInfo(URL), slow, probe("ok", 6.4), stuck="requests have been running for four minutes")
    for unknown in (OTHERS_HIDDEN, OWN_CONTAINER, "its environment can't be read"):
        yield Case(TargetInfo(URL, unknown=(unknown,)), slow, probe("ok", 6.4))


def assert_reads(advice: Advice) -> None:
    """A sentence with its end, a remedy with its end or none, and a title."""
    assert (
        advice.sentence[:1].isupper()
        or advice.sentence[:1].isdigit()
        or advice.sentence.startswith(("tuned", "amdgpu"))
    )
    assert advice.sentence.endswith(".")
    assert advice.remedy.endswith((".", "?")) or not advice.remedy or advice.remedy.endswith("huggingface."), (
        advice.remedy
    )
    assert advice.title


def test_why_a_server_is_as_it_is() -> None:
    """Each advice on each case; no case of a server on the CPU is told that only a part of its work is."""
    told: list[str] = []
    for case in cases():
        found = advise_target(case)
        conditions = {each.condition for each in found}
        assert not {"computes_on_cpu", "offload"} <= conditions, case
        for each in found:
            assert_reads(each)
            told += [each.sentence, each.remedy, each.title]
    assert read_well(iter(told)) > 80


def machines() -> Iterator[AdviceFacts]:
    """Machines with each setting that a condition looks at."""
    gpu = GpuFacts("0000:c1:00.0", "Radeon 8060S", "gfx1151", 40, unified_memory=True, memory_pool_bytes=62 << 30)
    for level in ("auto", "low", "profile_min_sclk", "profile_min_mclk", None):
        settings = GpuSettings(gpu.address, (("mes", "0x83"),), "113-X", level, 120.0, 304.0)
        for value in ("pt", "on", "off", None):
            parameters = (("amd_iommu", value), ("amdgpu.gttsize", "126976")) if value else ()
            for word in ("quiet", "cool", "low-power", "balanced", None):
                power = PowerProfile(word, "powersave", "acpi-cpufreq", None, "throughput-performance")
                facts = MachineFacts("6.14.0-37-generic", parameters, power, gpus=(settings,))
                yield AdviceFacts(facts, (gpu,), ((gpu.address, 80e9),), "in-tree")


def test_what_hurts_on_a_machine() -> None:
    """Each condition with each value that it can be given."""
    told = [each for facts in machines() for each in advise(facts)]
    for each in told:
        assert_reads(each)
    assert {each.condition for each in told} >= {
        "gpu_clocks_pinned_low",
        "amd_iommu_option_ignored",
        "governor_saves_power",
    }
    assert read_well(each.sentence for each in told) > 10


def findings(name: str, root: Path) -> Iterator[Findings]:
    """What a machine of the fixtures tells, with servers of which nothing, little or all is known."""
    build(name, root)
    sysfs, proc = root / "sys", root / "proc"
    gpus = read_gpus(sysfs).gpus
    names = GpuNames(read_links(sysfs), read_other_gpus(sysfs, proc), tuple(sorted(read_render_nodes(sysfs).items())))
    sampled = tuple(replace(each, throttling=tuple((reason, 0.4) for reason in REASONS)) for each in sample_gpus(sysfs))
    servers = tuple(
        ServerReport(TargetInfo(URL, backend, unknown=unknown), judgement, port)
        for backend, port, unknown, judgement in (
            ("", None, (), judged(HALO, None)),
            (
                "llama_cpp",
                8080,
                ("its environment can't be read: the process belongs to another user",),
                judged(HALO, None),
            ),
            ("ollama", 11434, (), judged(replace(HALO, no_gpu=ON_CPU), None)),
            ("text_generation_webui", 5000, (), judged(TargetFacts("text_generation_webui"), None)),
        )
    )
    for samples, hidden, engine in product(
        (sampled, ()),
        ("", NO_PROC, OTHERS_HIDDEN),
        (EngineReading(available=True), EngineReading(available=False, problem="")),
    ):
        reading = ServerProcesses(ProcessReading(hidden=hidden))
        machine = Machine(gpus=gpus, names=names, processes=reading, samples=samples)
        yield Findings(machine, read_machine(root), RocmFacts(None, None), engine, servers)


@pytest.mark.parametrize("name", NAMES)
def test_what_machine_prints(name: str, tmp_path: Path) -> None:
    """Every line of the table and of what is unknown, on every machine of the fixtures, in all three forms."""
    for found in findings(name, tmp_path):
        rows = machine_rows(found)
        unknown = machine_json(found)["unknown"]
        assert read_well(f"{what}: {why}" for what, why in rows) > 5
        assert all(each["what"] and each["why"] for each in unknown)
        assert len(machine_markdown(found).splitlines()) == len(rows) + 2


def test_a_machine_of_which_nothing_is_known() -> None:
    """Nothing could be read, or of its GPU nothing but that it is there: the reasons are told."""
    alone = GpuFacts("0000:03:00.0", "AMD GPU 9999")
    other = OtherGpu("nvidia", "nvidia", "0000:01:00.0")
    for machine in (Machine(), Machine(gpus=(alone,)), Machine(names=GpuNames((), (other,), ()))):
        found = Findings(machine, MachineFacts(), RocmFacts(None, None), EngineReading(available=False, problem=""))
        assert read_well(f"{what}: {why}" for what, why in machine_rows(found)) > 8


ROOT = Path(__file__).parent.parent
LONGEST = 30
"""Words of a sentence; code in backticks and numbers are none."""
CODE = re.compile(r"``.+?``|`[^`]+`", re.DOTALL)
SENTENCE_END = re.compile(r"(?<=[.!?])[)\"']?\s+(?=[A-Z\"'(`])")
LIST_ITEM = re.compile(r"\s*(?:[-*]|\d+\.) ")
WORD = re.compile(r"(?<!\w)[A-Za-z][A-Za-z'-]*")


def docstrings_in(tree: ast.Module, *, modules_only: bool) -> Iterator[str]:
    """Those of the module, its classes and functions, and the texts below constants and fields."""
    for node in [tree] if modules_only else ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in node.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    text = statement.value.value
                    if isinstance(text, str):
                        yield inspect.cleandoc(text)


def sentences_in(docstring: str) -> Iterator[str]:
    """The sentences of a docstring. Indented blocks, which hold code or an exposition, are none."""
    paragraph: list[str] = []
    for line in [*docstring.splitlines(), ""]:
        is_code = line.startswith("    ")
        if paragraph and (is_code or not line or LIST_ITEM.match(line)):
            yield from SENTENCE_END.split(" ".join(paragraph))
            paragraph = []
        if line and not is_code:
            paragraph.append(line.strip())


def word_count(sentence: str) -> int:
    """How many words a sentence has without its code and its numbers."""
    return len(WORD.findall(CODE.sub(" ", sentence)))


@pytest.mark.parametrize("folder", ["exporter", "grafana", "tests"])
def test_sentences_of_docstrings_are_short(folder: str) -> None:
    """A reader gets each sentence at once: it has at most 30 words."""
    found = {
        f"{path.relative_to(ROOT)}: {sentence}": count
        for path in sorted((ROOT / folder).rglob("*.py"))
        for text in docstrings_in(ast.parse(path.read_text(encoding="utf-8")), modules_only=folder == "tests")
        for sentence in sentences_in(text)
        if (count := word_count(sentence)) > LONGEST
    }
    assert found == {}


def test_what_is_long_is_seen() -> None:
    """Sentences are told apart, and what is no word doesn't count."""
    text = (
        f"Short, by ``{'code ' * 40}``. {'Word ' * 31}\n\n    {'exposition ' * 40}\n\n- {'item ' * 20}\n- {'12 ' * 40}"
    )
    assert [word_count(each) for each in sentences_in(text)] == [2, 31, 20, 0]
