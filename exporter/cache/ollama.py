"""The model store of Ollama: manifests that name layers, layers as blobs named by their SHA-256.

Layout: ``manifests/<host>/<namespace>/<model>/<tag>`` (an OCI manifest) and ``blobs/sha256-<64 hex>``; a download is
``sha256-<hex>-partial``, made at full size at once and filled, with its state in ``-partial-<n>``.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from exporter.cache.facts import ModelFacts, Unfinished, WeightFacts, printable
from exporter.cache.tree import ScanErrors, described, folder, mark, measure_partial, unchanged, usable_marks
from exporter.cache.weights import END_OF_OFFSETS, WeightsError, read_gguf_header, read_json, weights_of_gguf

MODEL_LAYER = "application/vnd.ollama.image.model"
MAX_MANIFEST_DEPTH = 6
MAX_MANIFEST_BYTES = 1 << 20
MAX_LAYERS = 1000
_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")
_PARTIAL = re.compile(r"sha256[-:][0-9a-f]{64}-partial")


_Layer = tuple[str, int | None, str]
"""SHA-256, size, media type."""


@dataclass(frozen=True, slots=True)
class _Blob:
    name: str
    size: int
    used: float
    device: int
    inode: int


def scan(
    path: str, previous: Mapping[str, ModelFacts], scan_errors: ScanErrors, share: tuple[int, int]
) -> Iterator[ModelFacts]:
    """Every tag as a model, then, without a name, what no manifest names: orphaned and unfinished layers."""
    if share[0]:
        return
    path = store_of(path)
    with folder(path, follow=True) as store:
        rest = previous.get(path)
        if rest is not None and unchanged(rest, store):
            unfinished = (
                measure_partial(f"blobs/{os.path.basename(d.path)}", d.path, store) or d for d in rest.unfinished
            )
            yield replace(rest, unfinished=tuple(unfinished))
            yield from (_used(model, store) for model in previous.values() if model.path != path)
            return
        marks: list[tuple[str, int]] = []
        blobs, partial = _read_blobs(store, path, marks, scan_errors)
        referenced: set[str] = set()
        for manifest in _manifests("manifests", store, f"{path}/manifests", marks, scan_errors):
            where = f"{path}/{manifest}"
            scan_errors.tick()
            try:
                layers = _layers(read_json(manifest, store, limit=MAX_MANIFEST_BYTES))
            except (OSError, WeightsError) as error:
                scan_errors.add(where, error)
                missing = (f"manifest: {printable(str(error))}",)
                yield ModelFacts(printable(tag_of(manifest)), where, 0, complete=False, missing=missing)
                continue
            referenced.update(digest for digest, _, _ in layers)
            model = _model(printable(tag_of(manifest)), where, layers, blobs)
            try:
                weights = _weights(model, layers, store, previous.get(where), scan_errors)
            except Exception as error:  # noqa: BLE001  # any bytes may be in a blob; the other tags must be seen
                scan_errors.add(where, f"can't be read: {described(error)}")
                weights = None
            yield replace(model, weights=weights)
        orphans = [blob.size for digest, blob in blobs.items() if digest not in referenced]
        yield ModelFacts(
            "",
            path,
            0,
            None,
            unfinished=partial,
            orphaned_bytes=sum(orphans),
            orphaned_files=len(orphans),
            repo_type="store",
            marks=usable_marks(marks),
        )


def store_of(path: str) -> str:
    """The folder that holds ``manifests`` and ``blobs``: the one given, or ``models`` in it (``~/.ollama``)."""
    inner = os.path.join(path, "models")
    return inner if os.path.isdir(inner) and not os.path.isdir(os.path.join(path, "manifests")) else path


def _used(model: ModelFacts, store: int) -> ModelFacts:
    try:
        used = max((os.stat(name, dir_fd=store).st_atime for name in model.watched), default=None)
    except OSError:
        return model
    return model if used is None else replace(model, last_used_seconds=max(used, model.last_used_seconds or 0.0))


def _read_blobs(
    store: int, path: str, marks: list[tuple[str, int]], scan_errors: ScanErrors
) -> tuple[dict[str, _Blob], tuple[Unfinished, ...]]:
    blobs: dict[str, _Blob] = {}
    partial = []
    try:
        with folder("blobs", store, follow=True) as here, os.scandir(here) as entries:
            mark("blobs", os.fstat(here), marks, scan_errors.now)
            for entry in entries:
                scan_errors.tick()
                try:
                    if digest := _BLOB.fullmatch(entry.name):
                        found = entry.stat()
                        blobs[digest[1]] = _Blob(entry.name, found.st_size, found.st_atime, found.st_dev, found.st_ino)
                    elif _PARTIAL.fullmatch(entry.name):
                        download = measure_partial(entry.name, f"{path}/blobs/{entry.name}", here)
                        partial += [] if download is None else [download]
                except FileNotFoundError:
                    continue
                except OSError as error:
                    scan_errors.add(f"{path}/blobs/{entry.name}", error)
    except FileNotFoundError:
        pass
    except OSError as error:
        scan_errors.add(f"{path}/blobs", error)
    scan_errors.tick()
    return blobs, tuple(partial)


def _manifests(
    name: str, above: int, path: str, marks: list[tuple[str, int]], scan_errors: ScanErrors
) -> Iterator[str]:
    """Paths of the manifests, below the store."""
    below = path[path.rindex("/manifests") + 1 :]
    try:
        with folder(name, above) as here, os.scandir(here) as entries:
            mark(below, os.fstat(here), marks, scan_errors.now)
            scan_errors.tick()
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if below.count("/") < MAX_MANIFEST_DEPTH:
                        yield from _manifests(entry.name, here, f"{path}/{entry.name}", marks, scan_errors)
                elif not entry.name.startswith(".") and entry.is_file():
                    mark(f"{below}/{entry.name}", entry.stat(), marks, scan_errors.now)
                    yield f"{below}/{entry.name}"
    except FileNotFoundError:
        return
    except OSError as error:
        scan_errors.add(path, error)


def tag_of(manifest: str) -> str:
    """``manifests/registry.ollama.ai/library/qwen3/8b`` → ``qwen3:8b``, as Ollama itself names it."""
    _, *parts, tag = manifest.split("/")
    if parts[:1] == ["registry.ollama.ai"]:
        parts = parts[2:] if parts[1:2] == ["library"] else parts[1:]
    return f"{'/'.join(parts)}:{tag}" if parts else tag


def _model(name: str, where: str, layers: list[_Layer], blobs: Mapping[str, _Blob]) -> ModelFacts:
    missing = []
    for digest, size, _ in layers:
        blob = blobs.get(digest)
        if blob is None:
            missing.append(f"sha256-{digest}")
        elif size is not None and blob.size != size:
            missing.append(f"sha256-{digest}: has {blob.size} of {size} bytes")
    present = {digest: blobs[digest] for digest, _, _ in layers if digest in blobs}
    weights = [present[digest].name for digest, _, kind in layers if kind == MODEL_LAYER and digest in present]
    return ModelFacts(
        name,
        where,
        sum(blob.size for blob in present.values()),
        not missing,
        tuple(missing[:8]),
        max((blob.used for blob in present.values()), default=None),
        len(present),
        shared=tuple((blob.device, blob.inode, blob.size) for blob in present.values()),
        watched=tuple(f"blobs/{blob}" for blob in weights),
    )


def _layers(manifest: Mapping[str, Any]) -> list[_Layer]:
    """The config and the layers. Raises ``WeightsError`` for what is no manifest."""
    layers = manifest.get("layers")
    if not isinstance(layers, list):
        raise WeightsError("no layers")
    if len(layers) > MAX_LAYERS:
        raise WeightsError(f"{len(layers)} layers")
    found = []
    for layer in [manifest.get("config"), *layers]:
        digest = layer.get("digest") if isinstance(layer, dict) else None
        if isinstance(digest, str) and (match := _BLOB.fullmatch(digest)):
            size, kind = layer.get("size"), layer.get("mediaType")
            if size is not None and not (type(size) is int and 0 <= size < END_OF_OFFSETS):
                raise WeightsError("a layer whose size is not a number of bytes")
            found.append((match[1], size, kind if isinstance(kind, str) else ""))
        elif layer is not None and layer != {}:
            raise WeightsError("a layer without a digest")
    return found


def _weights(
    model: ModelFacts, layers: list[_Layer], store: int, before: ModelFacts | None, scan_errors: ScanErrors
) -> WeightFacts | None:
    if before is not None and before.weights is not None and before.shared == model.shared:
        return before.weights
    if not model.watched:
        return None
    try:
        headers = (read_gguf_header(name, store) for name in model.watched)
        return weights_of_gguf(headers, sum(size or 0 for _, size, kind in layers if kind == MODEL_LAYER))
    except WeightsError:
        return None  # a layer of another format
    except OSError as error:
        scan_errors.add(model.path, error)
        return None
