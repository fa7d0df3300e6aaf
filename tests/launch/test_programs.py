"""Which server a process or a command is, by its command line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.launch.programs import SERVERS, VARIABLES, ProgramName, run_by, started_by


@pytest.mark.parametrize(
    ("command", "name", "arguments"),
    [
        ("/usr/local/bin/llama-server -m a.gguf", "llama-server", "-m a.gguf"),
        ("./llama-server", "llama-server", ""),
        ("/nix/store/x/bin/.llama-server-wrapped -c 1", "llama-server", "-c 1"),
        ("/lib64/ld-linux-x86-64.so.2 /opt/bin/llama-server -c 1", "llama-server", "-c 1"),
        ("llama serve -m a.gguf", "llama-server", "-m a.gguf"),
        ("/usr/bin/python3.12 /venv/bin/vllm serve m --port 1", "vllm", "m --port 1"),
        ("python3 -u -X dev -m vllm.entrypoints.openai.api_server --model m", "vllm", "--model m"),
        ("python -m vllm.entrypoints.cli.main serve m", "vllm", "m"),
        ("/usr/local/bin/ollama serve", "ollama", ""),
        (
            "/usr/local/bin/ollama runner --ollama-engine --model /b --port 4",
            "ollama-runner",
            "--ollama-engine --model /b --port 4",
        ),
        ("/tmp/ollama/ollama_llama_server --model /b", "ollama-runner", "--model /b"),
        ("python server.py --api --model m", "text-generation-webui", "--api --model m"),
        ("/venv/bin/python /venv/bin/transformers serve m", "transformers", "m"),
        ("./koboldcpp-linux-x64-rocm --model m.gguf", "koboldcpp", "--model m.gguf"),
        ("python3 koboldcpp.py m.gguf 5002", "koboldcpp", "m.gguf 5002"),
        ("python3 -m sglang.launch_server --model-path m", "sglang", "--model-path m"),
        ("python3 -m llama_cpp.server --model m.gguf", "other", "--model m.gguf"),
    ],
)
def test_servers(command: str, name: ProgramName, arguments: str) -> None:
    """Each program is known by its own name, its script's or its module's, and its arguments begin after that."""
    started = run_by(command.split())
    assert started is not None
    assert (started.name, " ".join(started.arguments)) == (name, arguments)
    again = started_by(["tini", "--", *command.split()])
    assert again is not None
    assert again.name == name


@pytest.mark.parametrize(
    "command",
    [
        "",
        "bash -c llama-server",
        "sudo llama-server -m a.gguf",
        "podman run --rm image llama-server -m a.gguf",
        "toolbox run llama-server",
        "tmux new-session -d llama-server",
        "vim llama-server.log",
        "grep llama-server",
        "tail -f /var/log/llama-server",
        "llama-bench -m a.gguf",
        "llama-cli -m a.gguf",
        "llama cli -m a.gguf",
        "vllm bench serve --model m",
        "ollama run qwen3",
        "python -c print(1) vllm serve m",
        "python -Bc pass llama-server",
        "python train.py vllm serve m",
        "python server.py",
        "python -X",
        "uv run vllm serve m",
        "VLLM::EngineCore",
    ],
)
def test_other_processes(command: str) -> None:
    """What only has a server's name among its arguments, measures one, or computes for one is none."""
    assert run_by(command.split()) is None


def test_a_word_that_is_a_model_s_name() -> None:
    """``llama`` is a program only with its subcommand."""
    started = started_by(["run.sh", "--alias", "llama", "vllm", "serve", "m"])
    assert started is not None
    assert started.name == "vllm"


def test_no_key_is_in_the_tables() -> None:
    """No option and no variable that holds a secret is ever read."""
    options = {
        option for server in SERVERS.values() for switch in server.switches.values() for option in switch.options
    }
    secret = re.compile(r"key|token$|password|secret|auth", re.IGNORECASE)
    assert [name for name in options | VARIABLES if secret.search(name)] == []


@given(
    st.lists(
        st.text(alphabet="pythonvlmserc-:./=1 ", max_size=12) | st.sampled_from(["vllm", "python3", "-m", "-c", ""])
    )
)
def test_any_command_is_survived(command: list[str]) -> None:
    """No command line raises."""
    run_by(command)
    started_by(command)
