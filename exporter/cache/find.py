"""Which model of a cache a server means by the name, the repository, the folder or the file that it names."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from exporter.cache.facts import CacheFacts, ModelFacts, WeightFacts

_HUB_FOLDER = re.compile(r"models--(.+)")


def find_model(caches: Iterable[CacheFacts], name: str) -> ModelFacts | None:
    """The model that ``name`` means: an id (``Qwen/Qwen3-8B``), a tag (``qwen3``, ``qwen3:8b``), a path as another
    machine or container sees it (``/root/.cache/…/models--Qwen--Qwen3-8B/snapshots/…``), a GGUF (``…/Q4_K_M.gguf``).

    An exact name wins over an equal last part; of several equally good ones a complete one, then the first.
    """
    index = _index_of(tuple(cache.models for cache in caches))
    for wanted in _names(name):
        if (found := index.full.get(wanted) or index.last.get(wanted)) is not None:
            return found
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


@dataclass(frozen=True, slots=True)
class _Index:
    """The models of some scans by each of their names in lower case: whole ones, and last parts."""

    scans: tuple[tuple[ModelFacts, ...], ...]
    full: Mapping[str, ModelFacts]
    last: Mapping[str, ModelFacts]


_newest = _Index((), {}, {})


def _index_of(scans: tuple[tuple[ModelFacts, ...], ...]) -> _Index:
    """The index of these scans, built again only for other scans: targets are judged far more often than caches are scanned."""
    global _newest  # noqa: PLW0603 - replaced whole, so that threads may read it
    known = _newest
    if len(known.scans) != len(scans) or any(old is not new for old, new in zip(known.scans, scans, strict=True)):
        _newest = known = _Index(scans, _best_by(_full, scans), _best_by(_last, scans))
    return known


def _best_by(
    names_of: Callable[[ModelFacts], set[str]], scans: Iterable[Iterable[ModelFacts]]
) -> Mapping[str, ModelFacts]:
    best: dict[str, ModelFacts] = {}
    for model in (model for scan in scans for model in scan):
        for name in names_of(model):
            if name not in best or (model.complete and not best[name].complete):
                best[name] = model
    return best


def _full(model: ModelFacts) -> set[str]:
    return {model.name.lower(), model.path.lower()}


def _last(model: ModelFacts) -> set[str]:
    names = (model.name, *(name for name, _ in model.variants))
    return {name.lower().rpartition("/")[2] for name in names}
