"""Plain folders of GGUF or safetensors files, and whether a set of files is a whole model.

Also the layout of LM Studio (``<publisher>/<repository>/*.gguf``) and of any folder that somebody configured.
"""

import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.cache.facts import ModelFacts, Unfinished, WeightFacts, printable
from exporter.cache.tree import BLOCK_BYTES, MAX_DEPTH, MAX_MARKS, SETTLED_NS, ScanErrors, described, folder
from exporter.cache.weights import (
    CutShortError,
    Header,
    WeightsError,
    embeddings_in,
    expert_counts,
    read_gguf_header,
    read_json,
    read_safetensors_header,
    read_safetensors_index,
    weights_of_gguf,
    weights_of_safetensors,
)

_WEIGHTS = tuple(".safetensors .gguf .bin .pt .pth .onnx .h5 .msgpack .ckpt .npz .tflite".split())
UNFINISHED_SUFFIXES = (".incomplete", ".part", ".downloadInProgress", ".tmp", ".crdownload")
MAX_HEADERS = 512
MAX_MODEL_TENSORS = 400_000
"""In all files of a model together: twice those of the largest published mixtures."""
MAX_SINGLE = 16
"""Files that stand alone and are judged by their own header; of a heap of more only the first are opened."""
MAX_LOOSE = 200_000
MAX_LINKED_FOLDERS = 10_000
"""Folders that links lead to, with those below them."""
MAX_LINKS = 50_000
MAX_FOLDERS = 500_000

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)", re.DOTALL)
_INDEX = (".safetensors.index.json", ".bin.index.json")


def scan(
    path: str, previous: Mapping[str, ModelFacts], scan_errors: ScanErrors, share: tuple[int, int]
) -> Iterator[ModelFacts]:
    """A tree of folders that hold models: each GGUF by itself, each folder with safetensors as a whole."""
    if share[0] == 0:
        yield from scan_folders(path, previous, scan_errors)


def scan_compiled(
    path: str, _previous: Mapping[str, ModelFacts], scan_errors: ScanErrors, share: tuple[int, int]
) -> Iterator[ModelFacts]:
    """What a server compiled for itself: only its size is of interest."""
    if share[0] == 0:
        sizes = {
            (file.device, file.inode): file.size
            for where in _walk(path, scan_errors)
            for file in where.files
            if not file.linked
        }
        yield ModelFacts("", path, sum(sizes.values()), None, files=len(sizes), repo_type="compiled")


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int
    block_bytes: int
    modified_ns: int
    used: float
    device: int
    inode: int
    linked: bool


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str  # below the root, "" for the root itself
    descriptor: int
    files: list[_File]
    dangling: list[str]


def scan_folders(
    root: str, previous: Mapping[str, ModelFacts], scan_errors: ScanErrors, *, skip: re.Pattern[str] | None = None
) -> Iterator[ModelFacts]:
    """Every model below ``root``, then what else lies there, without a name. ``skip``: folders left to another scan."""
    loose: dict[tuple[int, int], int] = {}
    overflow = 0
    unfinished: list[Unfinished] = []
    for here in _walk(root, scan_errors, skip=skip):
        prefix = f"{here.path}/" if here.path else ""
        models, rest = _models(here.files)
        for stem, files in models.items():
            name = f"{prefix}{stem}".rstrip("/") or os.path.basename(os.path.abspath(root))
            dangling = here.dangling if not stem else [name for name in here.dangling if name.startswith(stem)]
            yield _model(name, root, here, (files, dangling), previous.get(f"{root}/{name}"), scan_errors=scan_errors)
        for file in rest:
            if _is_unfinished(file.name):
                where = f"{root}/{prefix}{file.name}"
                unfinished.append(Unfinished(where, file.block_bytes, file.modified_ns / 1e9))
            elif len(loose) < MAX_LOOSE:
                loose[file.device, file.inode] = file.size
            else:
                overflow += file.size
    shared = tuple((*key, size) for key, size in loose.items())
    size = overflow + sum(loose.values())
    yield ModelFacts("", root, size, None, shared=shared, unfinished=tuple(unfinished), repo_type="loose")


def _is_unfinished(name: str) -> bool:
    return name.endswith(UNFINISHED_SUFFIXES) or name.startswith("downloading_")


def _models(files: list[_File]) -> tuple[dict[str, list[_File]], list[_File]]:
    """The files of one folder → (models by stem, the rest): each GGUF with its shards; else the folder, stem ""."""
    models: dict[str, list[_File]] = {}
    rest = []
    for file in files:
        if file.name.endswith(".gguf"):
            shard = _SHARD.fullmatch(file.name)
            models.setdefault(shard["stem"] if shard else file.name.removesuffix(".gguf"), []).append(file)
        else:
            rest.append(file)
    if any(file.name.endswith((".safetensors", ".safetensors.index.json")) for file in rest):
        models[""] = [file for file in rest if not _is_unfinished(file.name)]
        rest = [file for file in rest if _is_unfinished(file.name)]
    return models, rest


def _model(
    name: str,
    root: str,
    here: _Folder,
    found: tuple[list[_File], list[str]],
    before: ModelFacts | None,
    *,
    scan_errors: ScanErrors,
) -> ModelFacts:
    """The model that these files of a folder are; ``found`` has its files, and its links that lead nowhere."""
    files, dangling = found
    path = f"{root}/{name}"
    marks = tuple(sorted((f"{file.name}:{file.size}", file.modified_ns) for file in files))
    settled = all(scan_errors.now * 1e9 - file.modified_ns > SETTLED_NS for file in files)
    sizes: dict[str, int | None] = {file.name: file.size for file in files}
    if before is not None and before.marks == marks and not dangling:
        verdict = Completeness(before.complete, before.missing, before.weights, before.variants)
    else:
        where = f"{root}/{here.path}".rstrip("/")
        verdict = judge({**sizes, **dict.fromkeys(dangling)}, "", here.descriptor, where, scan_errors)
    shared = {(file.device, file.inode): file.size for file in files}
    return ModelFacts(
        printable(name),
        path,
        sum(shared.values()),
        verdict.complete,
        tuple(map(printable, verdict.missing[:8])),
        max((file.used for file in files), default=None),
        len(shared),
        weights=verdict.weights,
        variants=verdict.variants,
        shared=tuple((*key, size) for key, size in shared.items()),
        marks=marks if settled and len(marks) <= MAX_MARKS else (),
    )


def _walk(root: str, scan_errors: ScanErrors, *, skip: re.Pattern[str] | None = None) -> Iterator[_Folder]:
    """Each folder below ``root`` once, its files with it: real ones first, then those that links lead to."""
    with folder(root, follow=True) as top:
        yield from _Walk(root, scan_errors, skip).folders(top)


class _Walk:
    """A walk through the folders below a root."""

    def __init__(self, root: str, scan_errors: ScanErrors, skip: re.Pattern[str] | None) -> None:
        self.root = root
        self.scan_errors = scan_errors
        self.bounds = scan_errors.link_bounds
        self.skip = skip
        self.seen: set[tuple[int, int]] = set()  # device and inode
        self.links: deque[str] = deque()
        self.linked = 0
        self.is_told = False

    def folders(self, top: int) -> Iterator[_Folder]:
        """All folders. Links come last, the nearest first, so that a folder is listed under its own name if it has one here."""
        yield from self._below(top, "", is_linked=False)
        while self.links:
            name = self.links.popleft()
            self.scan_errors.tick()
            try:
                with folder(name, top, follow=True) as here:
                    if self._follows(os.fstat(here), name):
                        yield from self._below(here, name, is_linked=True)
            except FileNotFoundError:
                continue  # gone since it was listed
            except OSError as error:
                self.scan_errors.add(f"{self.root}/{name}", error)

    def _below(self, here: int, path: str, *, is_linked: bool) -> Iterator[_Folder]:
        self.scan_errors.tick()
        if not self._enters(os.fstat(here), path, is_linked=is_linked):
            return
        files: list[_File] = []
        dangling: list[str] = []
        with os.scandir(here) as entries:
            for entry in entries:
                self.scan_errors.tick()
                name = f"{path}/{entry.name}" if path else entry.name
                try:
                    if entry.is_dir():
                        yield from self._below_entry(entry, here, name, is_linked=is_linked)
                    elif stat.S_ISREG((found := entry.stat()).st_mode):
                        if entry.is_symlink() and self.bounds.is_of_kernel(found.st_dev):
                            self.scan_errors.add(f"{self.root}/{name}", "is a link to a file that the kernel provides")
                        else:
                            files.append(_file(entry, found))
                except FileNotFoundError:
                    if entry.is_symlink():
                        dangling.append(entry.name)
                except OSError as error:
                    self.scan_errors.add(f"{self.root}/{name}", error)
        yield _Folder(path, here, files, dangling)

    def _below_entry(self, entry: os.DirEntry[str], above: int, name: str, *, is_linked: bool) -> Iterator[_Folder]:
        if self.skip is not None and self.skip.fullmatch(entry.name):
            return  # left to another scan
        if entry.is_symlink():
            self._note_link(name)
        elif name.count("/") >= MAX_DEPTH:
            self.scan_errors.add(f"{self.root}/{name}", "not read: the folders are nested too deeply")
        else:
            with folder(entry.name, above) as here:
                yield from self._below(here, name, is_linked=is_linked)

    def _enters(self, found: os.stat_result, path: str, *, is_linked: bool) -> bool:
        if is_linked and (found.st_dev, found.st_ino) in self.seen:
            return False  # (Some network filesystems give inodes twice: what isn't linked is entered in any case.)
        if path and self.bounds.is_of_kernel(found.st_dev):
            self.scan_errors.add(f"{self.root}/{path}", "holds files that the kernel provides")
            return False
        if len(self.seen) >= MAX_FOLDERS or (is_linked and self.linked >= MAX_LINKED_FOLDERS):
            self._report_too_many(path)
            return False
        self.linked += is_linked
        self.seen.add((found.st_dev, found.st_ino))
        return True

    def _follows(self, found: os.stat_result, name: str) -> bool:
        """Whether the folder that a link leads to is to be entered: not if it was seen, or leads out of all caches."""
        if (found.st_dev, found.st_ino) in self.seen:
            return False
        refusal = self.bounds.refusal(found) or (
            "not read: the folders are nested too deeply" if name.count("/") >= MAX_DEPTH else None
        )
        if refusal is not None:
            self.scan_errors.add(f"{self.root}/{name}", refusal)
        return refusal is None

    def _note_link(self, name: str) -> None:
        if len(self.links) < MAX_LINKS:
            self.links.append(name)
        else:
            self._report_too_many(name)

    def _report_too_many(self, path: str) -> None:
        if not self.is_told:
            self.is_told = True
            self.scan_errors.add(
                f"{self.root}/{path}", "there are too many folders: this one and all later ones are not read"
            )


def _file(entry: os.DirEntry[str], found: os.stat_result) -> _File:
    return _File(
        entry.name,
        found.st_size,
        found.st_blocks * BLOCK_BYTES,
        found.st_mtime_ns,
        found.st_atime,
        found.st_dev,
        found.st_ino,
        entry.is_symlink(),
    )


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether files make a whole model; what is missing, by name; and the weights, in sets if there are several."""

    complete: bool | None
    missing: tuple[str, ...]
    weights: WeightFacts | None
    variants: tuple[tuple[str, WeightFacts], ...]


def judge(
    files: Mapping[str, int | None], base: str, dir_fd: int | None, where: str, scan_errors: ScanErrors
) -> Completeness:
    """Judge a model by its own files: indexes, numbered shards, headers; never by an expected figure.

    ``files``: name below ``base`` → size, ``None`` where its link leads nowhere. ``base`` is below ``dir_fd``, which
    ``where`` names in problems. Never raises: what its files bring about is a problem of this model alone.
    """
    try:
        return _Judgement(files, base, dir_fd, where, scan_errors).verdict()
    except Exception as error:  # noqa: BLE001  # any bytes may be in these files; the other models must be seen
        scan_errors.add(f"{where}/{base}".rstrip("/"), f"can't be read: {described(error)}")
        return Completeness(None, (), None, ())


class _Judgement:
    """One model's files while their indexes and headers are read."""

    def __init__(
        self, files: Mapping[str, int | None], base: str, dir_fd: int | None, where: str, scan_errors: ScanErrors
    ) -> None:
        self.files = files
        self.base, self.dir_fd = base, dir_fd
        self.where, self.scan_errors = where, scan_errors
        self.weights = {name: size for name, size in files.items() if name.endswith(_WEIGHTS) and size is not None}
        self.missing = [name for name, size in files.items() if size is None]
        self.headers: dict[str, Header | None] = {}
        self.tensors = 0  # in the headers that are kept
        self.indexed: set[str] = set()  # files that some index names
        self.whole: dict[
            str, tuple[dict[str, str], int | None]
        ] = {}  # folder → its safetensors index, if none is absent

    def verdict(self) -> Completeness:
        self._indexes()
        by_itself = [name for name in self.weights if name not in self.indexed]
        self._shards(by_itself)
        variants = self._ggufs([name for name in by_itself if name.endswith(".gguf")])
        tensors = self._safetensors([name for name in by_itself if name.endswith(".safetensors")])
        found = variants[0][1] if tensors is None and len(variants) == 1 else tensors
        complete = False if self.missing else True if self.weights else None
        missing = tuple(dict.fromkeys(self.missing))
        return Completeness(complete, missing, found, variants if len(variants) > 1 or tensors is not None else ())

    def path(self, name: str) -> str:
        return f"{self.base}/{name}" if self.base else name

    def _indexes(self) -> None:
        """Every folder needs all files of one of its indexes; safetensors first, as servers prefer them."""
        lacking: dict[str, list[str]] = {}
        names = [name for name, size in self.files.items() if size is not None and name.endswith(_INDEX)]
        for name in sorted(names, key=lambda name: (not name.endswith(_INDEX[0]), name)):
            prefix = _folder(name)
            self.scan_errors.tick()
            try:
                weight_map, total = read_safetensors_index(self.path(name), self.dir_fd)
            except (OSError, WeightsError) as error:
                self.scan_errors.add(f"{self.where}/{self.path(name)}", error)
                lacking.setdefault(prefix, [f"{name}: {error}"])
                continue
            wanted = {prefix + shard for shard in weight_map.values()}
            absent = sorted(wanted - self.weights.keys())
            if len(absent) == len(wanted) and any(_folder(weight) == prefix for weight in self.weights):
                continue  # it came along with another format's weights
            self.indexed |= wanted
            if not absent and name.endswith(_INDEX[0]):
                size = sum(self.weights[shard] for shard in wanted)
                absent = [f"{name}: its files have {size} of {total} bytes"] if total and size < total else []
                self.whole[prefix] = weight_map, total
            if prefix not in lacking or not absent:
                lacking[prefix] = absent
        for absent in lacking.values():
            self.missing += absent

    def _shards(self, names: list[str]) -> None:
        """Files that number themselves 00001-of-0000N need all N."""
        sets: dict[tuple[str, int, str], set[int]] = {}
        for name in names:
            if shard := _SHARD.fullmatch(name):
                sets.setdefault((shard["stem"], int(shard["count"]), shard["suffix"]), set()).add(int(shard["number"]))
        for (stem, count, suffix), present in sorted(sets.items()):
            numbers = [number for number in range(1, min(count, 999) + 1) if number not in present]
            self.missing += [f"{stem}-{number:05d}-of-{count:05d}{suffix}" for number in numbers]

    def _header(self, name: str) -> Header | None:
        """A weight file's header; ``None`` if there is none, which is then said. A short file is missing something."""
        if name in self.headers or len(self.headers) >= MAX_HEADERS:
            return self.headers.get(name)
        self.headers[name] = None
        self.scan_errors.tick()
        is_gguf = name.endswith(".gguf")
        try:
            header = (read_gguf_header if is_gguf else read_safetensors_header)(self.path(name), self.dir_fd)
        except (OSError, WeightsError) as error:
            if is_gguf or isinstance(error, CutShortError):
                self.missing.append(f"{name}: {error}")
            else:
                self.scan_errors.add(f"{self.where}/{self.path(name)}", error)
            return None
        self.tensors += len(header.tensors)
        if self.tensors > MAX_MODEL_TENSORS:
            raise WeightsError(f"more than {MAX_MODEL_TENSORS} tensors")
        if self.weights[name] < header.end:
            self.missing.append(f"{name}: has {self.weights[name]} of {header.end} bytes")
        self.headers[name] = header
        return header

    def _ggufs(self, names: list[str]) -> tuple[tuple[str, WeightFacts], ...]:
        """Each GGUF, its shards taken together, by name. (What turns images into tokens is not what decodes.)"""
        sets: dict[str, list[str]] = {}
        for name in sorted(names):
            shard = _SHARD.fullmatch(name)
            sets.setdefault(shard["stem"] if shard else name.removesuffix(".gguf"), []).append(name)
        found = []
        for stem, shards in sorted(sets.items()):
            headers = [header for name in shards if (header := self._header(name)) is not None]
            if headers and "mmproj" not in stem:
                found.append((printable(stem), weights_of_gguf(headers, sum(self.weights[name] for name in shards))))
        return tuple(found)

    def _safetensors(self, by_itself: list[str]) -> WeightFacts | None:
        """The weights in the uppermost folder that has safetensors, with its config.json."""
        headers = {name: self._header(name) for name in by_itself[:MAX_SINGLE]}
        if not by_itself and not self.whole:
            return None
        prefix = min((*self.whole, *map(_folder, by_itself)), key=lambda name: (name.count("/"), name))
        config = self._config(prefix)
        if prefix in self.whole:
            weight_map, total = self.whole[prefix]
            shards = {prefix + shard for shard in weight_map.values()}
            weight_bytes = total or sum(self.weights[shard] for shard in shards)
            return weights_of_safetensors(config, weight_bytes, weight_map, self._sizes(weight_map, prefix, config))
        sizes: dict[str, int] = {}
        for name, header in headers.items():
            if header is not None and _folder(name) == prefix:
                sizes.update(header.tensors)
        if not sizes or len(by_itself) > MAX_SINGLE:
            return None
        return weights_of_safetensors(config, sum(sizes.values()), sizes, sizes)

    def _config(self, prefix: str) -> Mapping[str, Any]:
        name = f"{prefix}config.json"
        if self.files.get(name) is None:
            return {}
        try:
            return read_json(self.path(name), self.dir_fd)
        except (OSError, WeightsError) as error:
            self.missing.append(f"{name}: {error}")
            return {}

    def _sizes(self, weight_map: Mapping[str, str], prefix: str, config: Mapping[str, Any]) -> dict[str, int]:
        """Tensor sizes from the shards' headers: the embedding's, or all if experts must be separated from the rest."""
        experts, _ = expert_counts(config)
        wanted = set(weight_map.values()) if experts else {weight_map[tensor] for tensor in embeddings_in(weight_map)}
        sizes: dict[str, int] = {}
        for shard in sorted(wanted):
            header = self._header(prefix + shard)
            if header is None:
                return {}
            sizes.update(header.tensors)
        return sizes


def _folder(name: str) -> str:
    """``a/b`` → ``a/``; ``b`` → ````."""
    return name[: name.rindex("/") + 1] if "/" in name else ""
