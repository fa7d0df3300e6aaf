"""A real llama-server as people start it: behind a prefix, over TLS, with a draft model, with a template that thinks, for embeddings."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.attacks.running import QUIET
from tests.ports import free_port
from tests.real.daemon import labels_of, running_daemon, scrape, value
from tests.real.llama import make_model, running_llama
from tests.samples import Samples
from tests.servers.certificates import make_home_authority
from tests.waiting import eventually

pytestmark = pytest.mark.real

SPEED: Final = "llm_probe_tokens_per_second"

# ChatML in which the assistant's turn begins with a thought, as the templates of models that think have it.
THINKS = """\
{%- for message in messages -%}<|im_start|>{{ message.role }}
{%- if message.reasoning_content %}
<think>
{{ message.reasoning_content }}
</think>
{% endif %}
{{ message.content }}<|im_end|>
{% endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant
<think>
{% endif -%}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model to measure and a small one that drafts for it."""
    folder = tmp_path_factory.mktemp("models")
    for preset in ("slow", "tiny"):
        make_model(folder, preset)
    return folder


@contextmanager
def measured(binary: Path, models: Path, tmp_path: Path, *options: str, path: str = "") -> Iterator[Samples]:
    """What a daemon exports of a llama-server with these options, once it has the speed of three probes."""
    server, own, config = free_port(), free_port(), tmp_path / "config.yml"
    config.write_text(f"""
{QUIET}host: {{interval: 1s}}
modules: {{default: {{interval: 1s, max_tokens: 32}}}}
targets: [{{name: it, url: 'http://127.0.0.1:{server}{path}', modules: [default], budget: {{share: 100%}}}}]
""")
    with (
        running_llama(binary, models / "slow.gguf", server, *options, wait=not path),
        running_daemon("--config", config, port=own, log=tmp_path / "log"),
    ):

        def good() -> Samples | None:
            samples = scrape(own)
            probes = value(samples, "llm_probes_total", target="it", result="ok") or 0
            return samples if probes >= 3 and value(samples, "llm_probe_tokens_per_second", target="it") else None

        yield eventually(good, f"three good probes; the log is {tmp_path / 'log'}")


def agrees(samples: Samples) -> bool:
    """Whether our speed is the server's own, and the tokens were counted by it."""
    ours = value(samples, "llm_probe_tokens_per_second", target="it")
    theirs = value(samples, "llm_probe_server_tokens_per_second", target="it")
    assert value(samples, "llm_probe_token_count_exact", target="it") == 1
    return bool(ours and theirs and ours / theirs == pytest.approx(1, abs=0.1))


def test_behind_a_prefix(binary: Path, models: Path, tmp_path: Path) -> None:
    """With ``--api-prefix`` all of it lies below a path, which the target's URL has."""
    with measured(binary, models, tmp_path, "--api-prefix", "/llm", path="/llm") as samples:
        assert agrees(samples)
        assert value(samples, "llm_target_up", target="it") == 1


def test_over_tls(binary: Path, models: Path, tmp_path: Path) -> None:
    """With a certificate of an authority made at home: measured where that is named, refused with a sentence where it isn't."""
    authority, certificate, key = make_home_authority(tmp_path / "tls")
    server, own, config = free_port(), free_port(), tmp_path / "config.yml"
    config.write_text(f"""
{QUIET}modules: {{default: {{interval: 1s, max_tokens: 32}}}}
targets:
  - {{name: it, url: 'https://127.0.0.1:{server}', modules: [default], budget: {{share: 100%}}, tls: {{ca_file: '{authority}'}}}}
  - {{name: other, url: 'https://localhost:{server}', modules: [default]}}
""")
    options = ("--ssl-key-file", str(key), "--ssl-cert-file", str(certificate))
    with (
        running_llama(binary, models / "slow.gguf", server, *options, wait=False),
        running_daemon("--config", config, port=own, log=tmp_path / "log"),
    ):

        def good() -> Samples | None:
            samples = scrape(own)
            probes = value(samples, "llm_probes_total", target="it", result="ok") or 0
            refused = value(samples, "llm_probes_total", target="other", result="tls")
            return samples if probes >= 3 and refused and value(samples, SPEED, target="it") else None

        samples = eventually(good, f"three good probes and a refused one; the log is {tmp_path / 'log'}")
        with urllib.request.urlopen(f"http://127.0.0.1:{own}/api/v1/probes?target=other", timeout=10) as answer:
            refused = json.load(answer)["probes"][0]
    assert agrees(samples)
    assert value(samples, "llm_target_up", target="it") == 1
    assert (value(samples, "llm_probe_phase_seconds", target="it", phase="tls") or 0) > 0
    assert labels_of(samples, "llm_target_info", target="it")["backend"] == "llama_cpp"
    assert value(samples, "llm_target_up", target="other") == 0
    assert value(samples, SPEED, target="other") is None
    assert refused["result"] == "tls"
    assert refused["error"] == (
        "the server's certificate is not accepted: unable to get local issuer certificate. Set url to the host that the certificate "
        "names, or tls.ca_file to its CA"
    )


def test_with_a_draft_model(binary: Path, models: Path, tmp_path: Path) -> None:
    """Its process says that it drafts, how much was accepted is told, the speed is the server's own, and there is no ceiling."""
    options = ("--model-draft", str(models / "tiny.gguf"), "--spec-type", "draft-simple")
    with measured(binary, models, tmp_path, *options) as samples:
        assert agrees(samples)
        told = value(samples, "llm_target_setting_info", target="it", setting="speculative", value="draft-simple")
        assert told == 1
        accepted = value(samples, "llm_probe_speculative_accepted_ratio", target="it")
        assert accepted is not None
        assert 0 <= accepted <= 1
        assert value(samples, "llm_decode_ceiling_tokens_per_second", target="it") is None


def test_with_a_template_that_thinks(binary: Path, models: Path, tmp_path: Path) -> None:
    """With ``--reasoning-format`` a thought comes apart from the answer: it is measured, and an answer that never came has no time."""
    template = tmp_path / "think.jinja"
    template.write_text(THINKS)
    options = ("--jinja", "--chat-template-file", str(template), "--reasoning-format", "deepseek")
    with measured(binary, models, tmp_path, *options) as samples:
        assert agrees(samples)
        assert value(samples, "llm_probe_ttft_seconds", target="it")
        assert value(samples, "llm_probe_time_to_first_answer_seconds", target="it") is None


def test_for_embeddings(binary: Path, models: Path, tmp_path: Path) -> None:
    """A build that chats all the same is measured; one that refuses is skipped as unable, and is no fault."""
    server, own, config = free_port(), free_port(), tmp_path / "config.yml"
    config.write_text(f"""
discovery: {{local: false, docker: false}}
docker: {{enabled: false}}
modules: {{default: {{interval: 1s, max_tokens: 32}}}}
targets: [{{name: it, url: 'http://127.0.0.1:{server}', modules: [default], budget: {{share: 100%}}}}]
""")
    with (
        running_llama(binary, models / "slow.gguf", server, "--embeddings", "--pooling", "mean"),
        running_daemon("--config", config, port=own, log=tmp_path / "log"),
    ):
        results: dict[str, float] = {}

        def ended() -> bool:
            nonlocal results
            results = {
                dict(labels)["result"]: count
                for (name, labels), count in scrape(own).items()
                if name == "llm_probes_total" and count
            }
            return sum(results.values()) >= 3

        eventually(ended, "three probes ended")
        assert results.keys() <= {"ok", "skipped_unable"}
