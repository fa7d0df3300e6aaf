"""The facts about caches: frozen records. Sizes in bytes, times in Unix seconds, ``None`` if not known."""

import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """A folder to scan. ``kind`` is a key of ``exporter.cache.layouts.LAYOUTS``; ``name`` becomes the ``cache`` label."""

    name: str
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What a roofline needs of one set of weights, read from config.json and safetensors, or from a GGUF header.

    ``active_bytes``: weights that one token reads before the input embedding is taken out. Of a dense model that is all; of a
    mixture of experts it is the shared part and the experts that one token uses. It is ``None`` if that can't be known.
    ``kv_elements_per_token``: numbers that one token of context adds to the KV cache over all layers. Multiply it by the bytes
    of the cache's type. It is ``None`` for layouts that don't grow with each token in every layer. ``sliding_window``: tokens
    that its windowed layers keep, if it has such layers.
    """

    weight_bytes: int
    input_embedding_bytes: int | None = None
    tied: bool | None = None
    layers: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    moe: bool = False
    active_bytes: int | None = None
    kv_elements_per_token: int | None = None
    sliding_window: int | None = None
    dtype: str | None = None
    quantization: str | None = None
    architecture: str | None = None

    @property
    def read_bytes_per_token(self) -> int | None:
        """Weights that one decoded token reads: of an untied input embedding only one row, which is nothing."""
        if self.active_bytes is None or self.tied is None:
            return None
        return self.active_bytes if self.tied else self.active_bytes - (self.input_embedding_bytes or 0)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A download that has not ended, or never will. ``bytes`` are the blocks that are really there."""

    path: str
    bytes: int
    modified_seconds: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model of a cache; each file counts once, whatever links to it.

    ``complete``: whether the files that its own index, manifest or header calls for are there; ``None`` if nothing
    says what should be there. ``missing`` names what is not, at most eight. ``variants``: (name, weights) of each GGUF
    in a repository that holds several; ``weights`` is set if there is one set. ``shared``: (device, inode, bytes)
    of files that another model may hold as well. ``marks`` and ``watched`` let the next scan see that nothing changed.
    """

    name: str
    path: str
    bytes: int
    complete: bool | None
    missing: tuple[str, ...] = ()
    last_used_seconds: float | None = None
    files: int = 0
    repo_type: str = "model"
    weights: WeightFacts | None = None
    variants: tuple[tuple[str, WeightFacts], ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    orphaned_bytes: int = 0
    orphaned_files: int = 0
    shared: tuple[tuple[int, int, int], ...] = ()
    marks: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    watched: tuple[str, ...] = field(default=(), repr=False)

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of its tensors, if one set of weights was read."""
        return None if self.weights is None else self.weights.weight_bytes


@dataclass(frozen=True, slots=True)
class FilesystemFacts:
    """The filesystem that holds a cache. ``device`` tells two names of one filesystem apart from two filesystems."""

    mountpoint: str
    device: str
    free_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """One scan of one cache.

    ``error``: why the cache could not be read at all (it is a file, forbidden, hanging); then ``bytes`` is ``None``.
    ``problems``: the first twenty entries that could not be read, each with its reason; ``unreadable_entries`` counts
    all of them. ``bytes`` are whole files (as ``huggingface_hub`` counts them in its own caches); what is unfinished,
    orphaned, or compiled code is apart. ``others``: data sets, spaces and kernels of a Hugging Face cache; they are in
    ``bytes``.
    """

    name: str
    kind: str
    path: str
    bytes: int | None
    models: tuple[ModelFacts, ...] = ()
    others: tuple[ModelFacts, ...] = ()
    incomplete_bytes: int = 0
    stale_incomplete_bytes: int = 0
    orphaned_bytes: int = 0
    compile_cache_bytes: int = 0
    unreadable_entries: int = 0
    problems: tuple[str, ...] = ()
    error: str | None = None
    filesystem: FilesystemFacts | None = None
    scan_seconds: float = 0.0
    scanned_at_seconds: float = 0.0


STALE_SECONDS = 24 * 3600.0
"""A download that was not written for this long is abandoned: its client has given up or will start again."""


def printable(text: str) -> str:
    """A file name as a label can carry it: bytes that are not UTF-8 and control characters become U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    with suppress(UnicodeEncodeError):  # a surrogate that stands for no byte comes from JSON, and is replaced below
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join("\ufffd" if unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"} else letter for letter in text)


def combine(cache_folder: CacheFolder, models: list[ModelFacts], now: float) -> CacheFacts:
    """Models of one cache → its totals. What several models share counts once; equal names get a number.

    A model without a name only uses space (the shared store of a hub, compiled code): it counts and isn't listed.
    """
    own = 0
    shared: dict[tuple[int, int], int] = {}
    for model in models:
        if model.repo_type == "compiled":
            continue
        own += model.bytes
        for device, inode, size in model.shared:
            own -= size
            shared[device, inode] = size
    named: dict[str, ModelFacts] = {}
    for model in sorted(models, key=lambda model: (model.name, model.path)):
        name, again = model.name, 1
        while name in named:
            again += 1
            name = f"{model.name}~{again}"
        if name:
            named[name] = model if name == model.name else replace(model, name=name)
    unfinished = [download for model in models for download in model.unfinished]
    listed = [model for model in named.values() if model.bytes or model.files or model.unfinished or model.missing]
    return CacheFacts(
        cache_folder.name,
        cache_folder.kind,
        cache_folder.path,
        bytes=own + sum(shared.values()),
        models=tuple(model for model in listed if model.repo_type == "model"),
        others=tuple(model for model in listed if model.repo_type != "model"),
        incomplete_bytes=sum(download.bytes for download in unfinished),
        stale_incomplete_bytes=sum(d.bytes for d in unfinished if now - d.modified_seconds > STALE_SECONDS),
        orphaned_bytes=sum(model.orphaned_bytes for model in models),
        compile_cache_bytes=sum(model.bytes for model in models if model.repo_type == "compiled"),
        scanned_at_seconds=now,
    )


def filesystems(caches: tuple[CacheFacts, ...]) -> tuple[FilesystemFacts, ...]:
    """Each filesystem that holds a cache, once, whatever paths lead to it."""
    found = {cache.filesystem.device: cache.filesystem for cache in reversed(caches) if cache.filesystem is not None}
    return tuple(sorted(found.values(), key=lambda filesystem: filesystem.mountpoint))
