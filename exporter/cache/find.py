"""Which model of a cache a server means by the name, the repository, the folder or the file that it tells."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from exporter.cache.facts import CacheFacts, ModelFacts, WeightFacts

_HUB_FOLDER = re.compile(r"models--(.+)")


def find_model(caches: Iterable[CacheFacts], name: str) -> ModelFacts | None:
    """The model that ``name`` means: an id (``Qwen/Qwen3-8B``), a tag (``qwen3``, ``qwen3:8b``), a path as another
    machine or container sees it (``/root/.cache/…/models--Qwen--Qwen3-8B/snapshots/…``), a GGUF (``…/Q4_K_M.gguf``).

    An exact name wins over an equal last part; of several equally good ones a complete one, then the first.
    """
    models = [model for cache in caches for model in cache.models]
    for wanted in _names(name):
        for of in (_full, _last):
            matching = [model for model in models if wanted in of(model)]
            if matching:
                return next((model for model in matching if model.complete), matching[0])
    return None


def find_weights(caches: Iterable[CacheFacts], name: str) -> WeightFacts | None:
    """The weights that ``name`` means: the model's own, or in a repository of several GGUF files that file's."""
    model = find_model(caches, name)
    if model is None or model.weights is not None:
        return model.weights if model else None
    wanted = re.split(r"[/:]", name.lower().removesuffix(".gguf"))[-1]
    matching = [weights for variant, weights in model.variants if variant.lower().endswith(wanted)]
    return matching[0] if len(matching) == 1 else None


def _names(name: str) -> list[str]:
    """What may be meant, best first, in lower case."""
    name = name.lower().rstrip("/")
    found = [name, f"{name}:latest"]
    hubs = map(_HUB_FOLDER.fullmatch, PurePosixPath(name).parts)
    found += [hub[1].replace("--", "/") for hub in hubs if hub]
    file = PurePosixPath(name).name
    if file.endswith(".gguf"):
        file = re.sub(r"-\d{5}-of-\d{5}$", "", file.removesuffix(".gguf"))
    elif "/" in name and ":" in file:
        found.append(name.rpartition(":")[0])  # llama-server -hf ORG/REPOSITORY:QUANTIZATION
    return [*found, file]


def _full(model: ModelFacts) -> set[str]:
    return {model.name.lower(), model.path.lower()}


def _last(model: ModelFacts) -> set[str]:
    return {PurePosixPath(model.name.lower()).name, *(PurePosixPath(name.lower()).name for name, _ in model.variants)}
