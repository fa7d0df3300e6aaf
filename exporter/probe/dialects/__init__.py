"""The kinds of inference servers that a probe can speak with, in the order in which they are recognised."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from exporter.probe.dialects.dialect import Dialect, Get
from exporter.probe.dialects.llama_cpp import LlamaCpp
from exporter.probe.dialects.ollama import Ollama
from exporter.probe.dialects.openai import OpenAI, is_gateway
from exporter.probe.dialects.simulator import Simulator
from exporter.probe.dialects.text_generation_webui import TextGenerationWebui
from exporter.probe.dialects.transformers import Transformers
from exporter.probe.dialects.vllm import Vllm

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        "llama_cpp": LlamaCpp(),
        "vllm": Vllm(),
        "ollama": Ollama(),
        "simulator": Simulator(),
        "text_generation_webui": TextGenerationWebui(),
        "transformers": Transformers(),
        "openai": OpenAI(),
    }
)


def recognise(get: Get) -> Dialect | None:
    """The first dialect that knows the server from what it answers; None where none does.

    Every dialect asks ``/v1/models`` first, which is free on every server, and another path only where that answer fits: the
    same path is free on one server and costs money on another (LiteLLM's ``/health`` calls every model that it knows).
    """
    if is_gateway(get("/v1/models")):
        return DIALECTS["openai"]
    return next((each for each in DIALECTS.values() if each.recognise(get)), None)
