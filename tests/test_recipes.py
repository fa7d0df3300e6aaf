"""Each recipe of CONTRIBUTING, followed in a copy of the tree: what it names is all that it takes.

What is added is an example; the checks that run over it are those of the project.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PARTS: Final = ("exporter", "grafana", "docs", "deploy", "tests", "pyproject.toml", "README.md", "CONTRIBUTING.md")
# Bytecode comes along, so that only what a recipe changes is compiled anew; what is just being written has a name of its own.
LEFT_OUT: Final = shutil.ignore_patterns("images", "*.pyc.*")


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the tree, to be changed as a contributor would."""

    root: Path

    def write(self, path: str, text: str) -> None:
        """A new file."""
        file = self.root / path
        assert not file.exists(), f"{path} is there already"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def put_before(self, path: str, mark: str, text: str, *, times: int = 1) -> None:
        """Put something before the place in a file where the mark stands, or before so many of them."""
        file = self.root / path
        before = file.read_text(encoding="utf-8")
        assert before.count(mark) == times, f"{path} has {before.count(mark)} places like {mark!r}"
        file.write_text(before.replace(mark, text + mark), encoding="utf-8")

    def run(self, *arguments: str) -> str:
        """What ``python`` prints for these arguments, which must succeed."""
        done = self.try_out(*arguments)
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-4000:]}{done.stderr[-2000:]}"
        return done.stdout

    def try_out(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``python`` with these arguments in the copy, without anything that tells it of another tree or of this test."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "LLM_"))}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def test(self, *nodes: str) -> None:
        """Run these tests of the copy; all must pass, and there must be some."""
        said = self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", *nodes)
        assert re.search(r"\d+ passed", said)

    def check_config(self, text: str) -> None:
        """The command takes a configuration."""
        path = self.root / "example.yml"
        path.write_text(text, encoding="utf-8")
        self.run("-m", "exporter", "check-config", str(path))

    def passage(self, recipe: str) -> str:
        """What CONTRIBUTING says of a recipe."""
        found = re.search(
            rf"^\*\*{recipe}\.\*\* (.*?)\n\n",
            (self.root / "CONTRIBUTING.md").read_text(encoding="utf-8"),
            re.MULTILINE | re.DOTALL,
        )
        assert found, f"CONTRIBUTING has no recipe {recipe!r}"
        return found[1]


@pytest.fixture
def tree(tmp_path: Path) -> Copy:
    """The parts of the tree that a recipe may touch, or that its checks read."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tmp_path / part, ignore=LEFT_OUT)
        else:
            shutil.copy2(ROOT / part, tmp_path / part)
    return Copy(tmp_path)


def follows(tree: Copy, recipe: str, *files: str) -> None:
    """CONTRIBUTING names every file that the recipe changes."""
    text = tree.passage(recipe)
    for file in files:
        assert file in text, f"the recipe {recipe!r} doesn't name {file}"


DIALECT = '''"""An example: the OpenAI chat API under another name."""

from dataclasses import dataclass

from exporter.probe.client import Request
from exporter.probe.dialects.dialect import (
    ChatRequest,
    Dialect,
    Get,
    ServerStatus,
    StatusQuery,
    json_of,
    member,
)
from exporter.probe.dialects.openai import OPTIONAL, chat_request, read_chat, status_by_models
from exporter.probe.stream import Event
from exporter.probe.timeline import Delta


@dataclass(frozen=True, slots=True)
class Example(Dialect):
    """An example."""

    name: str = "example_server"
    optional: frozenset[str] = OPTIONAL

    def recognise(self, get: Get) -> bool:
        """It says so."""
        return member(json_of(get("/example")), "example") is True

    def status(self, query: StatusQuery) -> ServerStatus:
        """One read."""
        return status_by_models(self.name, query)

    def request(self, chat: ChatRequest) -> Request:
        """The plain request."""
        return chat_request(chat)

    def read(self, event: Event) -> Delta:
        """One chunk."""
        return read_chat(event)
'''
ROW = """    Backend(
        "example_server",
        "Example Server",
        "Example",
        ports=(13999,),
        programs=(Program("example-server", port=13999, image=r"example-server$", executables=("example-server",)),),
    ),
"""
STREAM = (
    "HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n"
    'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\ndata: [DONE]\n\n'
)


def test_a_backend(tree: Copy) -> None:
    """One file, one row, one recorded stream: it is configured, looked for, named, replayed and listed."""
    follows(
        tree, "A backend", "exporter/probe/dialects/", "exporter/backends.py", "tests/fixtures/streams/", "make docs"
    )
    tree.write("exporter/probe/dialects/example_server.py", DIALECT)
    tree.put_before("exporter/backends.py", '    Backend(\n        "openai",\n', ROW)
    tree.write("tests/fixtures/streams/example_server/chat-stream.txt", STREAM)
    tree.run("-m", "docs.build")

    tree.check_config("targets: [{url: http://127.0.0.1:13999, backend: example_server}]\n")
    assert "example_server" in tree.run("-m", "exporter", "probe", "--help")
    tree.test(
        "tests/test_backends.py",
        "tests/probe/test_recorded_streams.py",
        "tests/test_docs.py::test_what_is_taken_from_tables_is_current",
    )
    tree.test("tests/test_architecture.py", "-k", "example_server or backends")
    seen = tree.run(
        "-c",
        "from exporter.containers.servers import made_for\n"
        "from exporter.discovery import LOCAL_PORTS\n"
        "from exporter.report import server_text\n"
        "print(13999 in LOCAL_PORTS, made_for('example.org/example-server:1'), server_text({'backend': 'example_server'}))",
    )
    assert seen == "True example-server Example Server\n"


def test_a_backend_without_a_recorded_stream_is_named(tree: Copy) -> None:
    """The last part of the recipe can't be forgotten."""
    tree.write("exporter/probe/dialects/example_server.py", DIALECT)
    tree.put_before("exporter/backends.py", '    Backend(\n        "openai",\n', ROW)
    done = tree.try_out("-m", "pytest", "-q", "-p", "no:xdist", "tests/probe/test_recorded_streams.py")
    assert done.returncode == 1
    assert "'example_server'" in done.stdout


LAYOUT = '''"""An example: a folder of files, as such."""

from exporter.cache import files

scan = files.scan
'''


def test_a_cache_layout(tree: Copy) -> None:
    """One module, one row, its name in the settings: it is configured, scanned and held to what every layout is."""
    files = ("exporter/cache/", "exporter/cache/layouts.py", "exporter/settings/model.py", "make docs")
    follows(tree, "A cache layout", *files)
    tree.write("exporter/cache/example.py", LAYOUT)
    tree.put_before(
        "exporter/cache/layouts.py", '        "compiled": Layout(', '        "example": Layout(example.scan),\n'
    )
    tree.put_before(
        "exporter/cache/layouts.py", "from exporter.cache import files", "from exporter.cache import example\n"
    )
    tree.put_before("exporter/settings/model.py", ']\n"""The layouts of', ', "example"')
    tree.run("-m", "docs.build")

    config = "discovery: {local: false, docker: false}\ncache: {paths: [{name: mine, kind: example, path: models}]}\n"
    tree.check_config(config)
    (tree.root / "models").mkdir()
    (tree.root / "models" / "a.gguf").write_bytes(b"GGUF")
    assert '"kind": "example"' in tree.run("-m", "exporter", "cache", "--json", "--config", "example.yml")
    tree.test(
        "tests/cache/test_layouts.py",
        "tests/cache/test_bad_input.py",
        "tests/test_docs.py::test_what_is_taken_from_tables_is_current",
    )


def test_a_cache_layout_that_the_settings_dont_know_is_named(tree: Copy) -> None:
    """A layout that could be scanned but not configured fails a test."""
    tree.put_before(
        "exporter/cache/layouts.py", '        "compiled": Layout(', '        "example": Layout(files.scan),\n'
    )
    assert tree.try_out("-m", "pytest", "-q", "-p", "no:xdist", "tests/cache/test_layouts.py").returncode == 1


METRIC = """    _gauge(
        DAEMON,
        "llm_probe_exporter_example_seconds",
        "An example: how late the last job started.",
        lambda s: _one(s.schedule_delay_seconds),
    ),
"""
PANEL = """        timeseries("An example", "Metric: llm_probe_exporter_example_seconds.",
                   [query(host("llm_probe_exporter_example_seconds"), "{{instance}}")], (8, 8), unit="s"),
"""


def test_a_metric(tree: Copy) -> None:
    """One row, one panel and its values in the sample history: it is exported, documented, shown and drawn."""
    files = ("exporter/metrics.py", "grafana/boards.py", "grafana/sample_history.py", "tests/test_metrics.py")
    follows(tree, "A metric", *files, "make docs grafana")
    tree.put_before("exporter/metrics.py", ")\n\nSECTIONS: Final", METRIC)
    assert (
        "llm_probe_exporter_example_seconds: on no dashboard" in tree.try_out("-m", "grafana.build", "--check").stderr
    )
    tree.put_before("grafana/boards.py", '        row("What it costs"),\n', PANEL)
    mark = '    history.put("llm_probe_exporter_schedule_delay_seconds"'
    drawn = '    history.put("llm_probe_exporter_example_seconds", 0.01, where)\n'
    tree.put_before("grafana/sample_history.py", mark, drawn)
    tree.run("tests/test_metrics.py")
    tree.run("-m", "docs.build")
    tree.run("-m", "grafana.build")

    assert "`llm_probe_exporter_example_seconds`" in (tree.root / "docs/metrics.md").read_text(encoding="utf-8")
    tree.test(
        "tests/test_metrics.py::test_the_whole_scene_is_as_it_was",
        "tests/test_metrics.py::test_the_golden_scene_has_every_metric",
        "tests/test_metrics.py::test_the_table_is_sound",
        "tests/grafana/test_alerts.py::test_what_is_committed_is_what_the_source_says",
        "tests/grafana/test_sample_history.py::test_every_metric_of_the_table_is_in_it",
        "tests/test_docs.py::test_what_is_taken_from_tables_is_current",
    )


FACT = '''"""An example: for how long the machine has been running."""

from dataclasses import dataclass
from pathlib import Path

from exporter.host.files import read_text


@dataclass(frozen=True, slots=True)
class ExampleFacts:
    """An example."""

    uptime_seconds: float | None = None
    problems: tuple[str, ...] = ()


def read_example(proc: Path) -> ExampleFacts:
    """What ``uptime`` says under a root of /proc."""
    problems: list[str] = []
    text = read_text(proc / "uptime", problems)
    return ExampleFacts(float(text.split()[0]) if text else None, tuple(problems))
'''
COLLECTOR = """def _read_example(host: Host) -> Collected:
    facts = read_example(host.proc)
    return Collected(((EXAMPLE, facts),), problems=facts.problems)


"""
FACTS_METRIC = """    _gauge(
        _by(EXAMPLE.kind),
        "host_example_seconds",
        "An example: how long the machine has been running.",
        lambda facts: _one(facts.uptime_seconds),
    ),
"""
FACTS_PANEL = """        timeseries("An example", "Metric: host_example_seconds.",
                   [query(host("host_example_seconds"), "{{instance}}")], (8, 8), unit="s"),
"""
COLLECTING = """
from pathlib import Path
from exporter.collectors import Collectors
from exporter.exposition import Exposition
from exporter.settings import Docker, Host, Settings
from exporter.snapshot import Snapshot

settings = Settings(host=Host(proc=Path("tests/fixtures/host/proc/example")), docker=Docker(enabled=False))
snapshot = Snapshot()
collectors = Collectors(snapshot, settings, changed=lambda *_: None, run_soon=lambda _: None)
collectors.use(settings)
next(job for job in collectors.jobs() if job.name == "example").run()
print(Exposition().render(snapshot.view()).decode())
"""


def test_a_host_fact_with_a_collector(tree: Copy) -> None:
    """A function with its fixture, read on a schedule of its own: its metric is exported, and whether the collector worked."""
    follows(tree, "A host fact", "exporter/host/", "tests/fixtures/host/", "tests/scenes.py")
    follows(tree, "A collector", "exporter/collectors.py", "exporter/snapshot.py", "exporter/metrics.py")
    tree.write("exporter/host/example.py", FACT)
    tree.write("tests/fixtures/host/proc/example/uptime", "4211.5 8000.0\n")
    importing, naming = "from exporter.host.example import {}\n", "    EXAMPLE,\n"

    key = 'EXAMPLE: Final[Key[ExampleFacts, ExampleFacts]] = Key(Kind("example", ExampleFacts))\n\n'
    tree.put_before("exporter/snapshot.py", "from exporter.host.gpu import", importing.format("ExampleFacts"))
    tree.put_before("exporter/snapshot.py", "_KINDS: Final", key)
    tree.put_before("exporter/snapshot.py", "ROCM, GPU, GPU_SENSORS, GPU_NAMES", "EXAMPLE, ")

    row = '        yield Collector("example", host.interval, partial(_read_example, host))\n'
    tree.put_before("exporter/collectors.py", "from exporter.host.gpu import", importing.format("read_example"))
    tree.put_before("exporter/collectors.py", "    GPU,\n    GPU_NAMES,\n", naming)
    tree.put_before("exporter/collectors.py", '        yield Collector("models"', row)
    tree.put_before("exporter/collectors.py", "def _read_machine(host: Host)", COLLECTOR)

    tree.put_before("exporter/metrics.py", "    GPU,\n    GPU_SENSORS,\n", naming)
    tree.put_before("exporter/metrics.py", ")\n\nMODEL_CACHE: Final", FACTS_METRIC)
    tree.put_before("grafana/boards.py", '        row("What else decides how fast it is"),\n', FACTS_PANEL)
    drawn = '    history.put("host_example_seconds", 4211.5, where)\n'
    tree.put_before("grafana/sample_history.py", '    history.put("host_kernel_info"', drawn)

    tree.put_before("tests/scenes.py", "from exporter.host.gpu import", importing.format("ExampleFacts"))
    tree.put_before("tests/scenes.py", "    GPU,\n    GPU_SENSORS,\n", naming)
    published = "    snapshot.publish(EXAMPLE, ExampleFacts(4211.5))\n"
    tree.put_before("tests/scenes.py", "    snapshot.publish(MACHINE, machine)\n", published)
    tree.run("tests/test_metrics.py")
    tree.run("-m", "docs.build")
    tree.run("-m", "grafana.build")

    seen = tree.run("-c", COLLECTING)
    assert "\nhost_example_seconds 4211.5\n" in seen
    assert '\nllm_probe_exporter_collector_success{collector="example"} 1.0\n' in seen
    tree.test(
        "tests/test_metrics.py::test_the_whole_scene_is_as_it_was",
        "tests/test_metrics.py::test_the_golden_scene_has_every_metric",
        "tests/grafana/test_alerts.py::test_what_is_committed_is_what_the_source_says",
        "tests/grafana/test_sample_history.py::test_every_metric_of_the_table_is_in_it",
        "tests/test_docs.py::test_what_is_taken_from_tables_is_current",
        "tests/test_architecture.py::test_no_files_import_each_other",
    )


ALERT = """    Alert(
        name="LLMProbeExample",
        severity="info",
        summary="An example",
        description="The exporter {{ $labels.instance }} is an example.",
        value="llm_probe_exporter_schedule_delay_seconds",
        op=">",
        bound="60",
        hold="5m",
        keep="0s",
        board="llm-exporter",
        panel="Lateness of the last job",
        variables=_HOST_LABELS,
        means="An example.",
        look=("At nothing.",),
    ),
"""
CASES = """    RuleCase(
        "LLMProbeExample",
        "fires after five minutes",
        {DELAY: "0.01 90@30"},
        {"34m": (), "35m": ("LLMProbeExample",)},
        labels=_HOST_L,
        description="The exporter box:9937 is an example.",
    ),
    _missing("LLMProbeExample", DELAY),
"""


def test_an_alert(tree: Copy, promtool: Callable[[Path], None]) -> None:
    """One alert and its cases: rules for Prometheus and Grafana, their tests, the runbook and its page follow."""
    follows(tree, "An alert", "grafana/alerts.py", "grafana/rule_tests.py", "make grafana")
    tree.put_before("grafana/alerts.py", ")\n\n\n@dataclass(frozen=True, slots=True)\nclass Inhibition", ALERT)
    tree.put_before("grafana/rule_tests.py", ")\n\n\ndef _values(", CASES)
    tree.run("-m", "grafana.build")

    tree.test(
        "tests/grafana/test_alerts.py", "tests/web/test_runbook.py", "-k", "LLMProbeExample or committed or runbook"
    )
    assert 'id="llmprobeexample"' in tree.run("-c", "from exporter.web.runbook import *; print(render_runbook())")
    promtool(tree.root)


@pytest.fixture
def promtool() -> Callable[[Path], None]:
    """Checks the rules of a tree where promtool is installed."""

    def check(root: Path) -> None:
        if program := shutil.which("promtool"):
            subprocess.run(
                [program, "check", "rules", "deploy/prometheus/rules/alerts.yml"],
                cwd=root,
                check=True,
                capture_output=True,
            )

    return check


def test_a_setting(tree: Copy) -> None:
    """One field with its type, and its line in the documentation: read, checked, in the environment, a path as any other."""
    follows(tree, "A setting", "exporter/settings/model.py", "docs/configuration.md", "tests/golden/settings/")
    mark = "    profiles_file: ReadableFile | None = None\n"
    tree.put_before("exporter/settings/model.py", mark, "    example_file: ReadableFile | None = None\n")
    tree.put_before("docs/configuration.md", "profiles_file: null ", "example_file: null\n")

    tree.put_before("tests/golden/settings/unknown-keys.txt", ", profiles_file)", ", example_file", times=2)
    tree.write("tests/golden/settings/example.yml", "example_file: gone.txt\n")
    message = 'example.yml:1: example_file: there is no such file: "gone.txt"\n'
    tree.write("tests/golden/settings/example.txt", message)

    tree.write("beside/it.txt", "")
    tree.write("beside/example.yml", "example_file: it.txt\n")
    tree.run("-m", "exporter", "check-config", "beside/example.yml")
    tree.test(
        "tests/test_docs.py::test_the_documented_defaults_are_the_defaults",
        "tests/test_settings.py::test_a_bad_file_gives_exactly_these_messages",
    )
