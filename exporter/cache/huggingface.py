"""The hub cache of Hugging Face: one folder a repository, files as links into its ``blobs``.

Layout: ``models--ORG--NAME/{blobs/<etag>, refs/<name>, snapshots/<commit>/<file> -> ../../blobs/<etag>}``; unfinished
downloads are ``blobs/<etag>[.<random>].incomplete``; ``blobs/`` beside the repositories is the store that they share.

A file costs one system call: following the link gives size, use and inode at once, and a blob whose inode no link led
to is an orphan. Reading each link as well as each blob takes half as long again.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace

from exporter.cache.facts import ModelFacts, Unfinished, WeightFacts, printable
from exporter.cache.files import judge
from exporter.cache.tree import (
    MAX_DEPTH,
    ScanErrors,
    described,
    folder,
    mark,
    measure_partial,
    read,
    unchanged,
    usable_marks,
)

REPO_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}
SHARED_STORE = "blobs"
SHARED_STORE_MARKER = ".huggingface-shared-blobs"
MAX_REFERENCES = 1000
REGULAR = stat.S_IFREG >> 12
HASH_LENGTHS = (64, 40)
_SHARED_NAME = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_IGNORED = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})

type_and_name = re.compile(r"(models|datasets|spaces|kernels)--(.+)", re.DOTALL)


def scan(
    path: str, previous: Mapping[str, ModelFacts], scan_errors: ScanErrors, share: tuple[int, int]
) -> Iterator[ModelFacts]:
    """The repositories of a hub cache, or of the folder above it; with ``share`` (i, n) every n-th, from the i-th."""
    path = hub_of(path)
    index, workers = share
    with folder(path, follow=True) as hub, os.scandir(hub) as entries:
        for entry in entries:
            name = entry.name
            if name == SHARED_STORE and index == 0:
                yield from _store(hub, path, previous, scan_errors)
            recognised = type_and_name.fullmatch(name)
            if recognised is None or sum(os.fsencode(name)) % workers != index:
                continue
            scan_errors.tick()
            try:
                if entry.is_dir():
                    facts = _repository(hub, f"{path}/{name}", recognised, previous.get(f"{path}/{name}"), scan_errors)
                    if facts.files or facts.missing or facts.orphaned_files or facts.unfinished:
                        yield facts
                else:
                    scan_errors.add(f"{path}/{name}", "not a folder")
            except OSError as error:
                scan_errors.add(f"{path}/{name}", error)
            except Exception as error:  # noqa: BLE001  # one repository must not hide the others
                scan_errors.add(f"{path}/{name}", f"can't be read: {described(error)}")


def hub_of(path: str) -> str:
    """The folder that holds the repositories: the one given, or ``hub`` in it (``HF_HOME`` is often given)."""
    inner = os.path.join(path, "hub")
    return inner if os.path.isdir(inner) else path


def _repository(
    hub: int, path: str, recognised: re.Match[str], previous: ModelFacts | None, scan_errors: ScanErrors
) -> ModelFacts:
    with folder(recognised[0], hub, follow=True) as repo:
        if previous is not None and unchanged(previous, repo):
            return _refreshed(previous, repo)
        name = printable(recognised[2].replace("--", "/"))
        return _Reading(path, repo, scan_errors).facts(REPO_TYPES[recognised[1]], name)


def _refreshed(previous: ModelFacts, repo: int) -> ModelFacts:
    """The facts of an unchanged repository: only what changes no folder is read again (growth, use)."""
    if not previous.unfinished and not previous.watched:
        return previous
    unfinished = []
    for download in previous.unfinished:
        measured = measure_partial(os.path.join("blobs", os.path.basename(download.path)), download.path, repo)
        unfinished.append(measured or download)
    last_used = previous.last_used_seconds
    for watched in previous.watched:
        try:
            last_used = max(last_used or 0.0, float(int(os.stat(watched, dir_fd=repo).st_atime)))
        except OSError:
            continue
    return replace(previous, unfinished=tuple(unfinished), last_used_seconds=last_used)


class _Reading:
    """One repository while it is read."""

    def __init__(self, path: str, repo: int, scan_errors: ScanErrors) -> None:
        self.path = path
        self.repo = repo
        self.scan_errors = scan_errors
        self.marks: list[tuple[str, int]] = []
        self.device = 0
        self.blobs: dict[int, str] = {}
        self.linked: set[str] = set()
        self.unfinished: list[tuple[str, Unfinished]] = []
        self.sizes: dict[int, int] = {}  # inode → size of each file that a snapshot leads to, on this device
        self.shared: dict[tuple[int, int], int] = {}
        self.last_used: float = 0
        self.main: dict[str, int | None] = {}  # files of the revision that is judged; None: the link dangles
        self.main_name = ""

    def facts(self, repo_type: str, name: str) -> ModelFacts:
        self._mark(".", self.repo)
        self._read_blobs()
        references = self._read_references()
        self._read_snapshots(references.get("main"))
        orphans = self._orphans()
        complete, missing, weights, variants = self._judge(references)
        incomplete = [download for etag, download in self.unfinished]
        if repo_type != "model":
            weights, variants = None, ()
        return ModelFacts(
            name if repo_type == "model" else f"{repo_type}s/{name}",
            self.path,
            sum(self.sizes.values()) + sum(self.shared.values()),
            complete,
            missing,
            float(self.last_used) or None,
            len(self.sizes) + len(self.shared),
            repo_type,
            weights,
            variants,
            tuple(incomplete),
            sum(orphans),
            len(orphans),
            tuple((*key, size) for key, size in self.shared.items()),
            usable_marks(self.marks),
            self._watched(),
        )

    def _read_blobs(self) -> None:
        try:
            with folder("blobs", self.repo) as blobs, os.scandir(blobs) as entries:
                self._mark("blobs", blobs)
                listed = list(entries)
                self.blobs = {entry.inode(): entry.name for entry in listed}
                for entry in listed:
                    if len(entry.name) not in HASH_LENGTHS or entry.is_symlink():
                        self._odd_blob(entry, blobs)
        except FileNotFoundError:
            return  # files are copied into the snapshots if links can't be made
        except OSError as error:
            self.scan_errors.add(f"{self.path}/blobs", error)

    def _odd_blob(self, entry: os.DirEntry[str], blobs: int) -> None:
        """A download that has not ended, or a link into the shared store, which is counted by itself."""
        name = entry.name
        if entry.is_symlink():
            self.linked.add(name)
        elif name.endswith(".incomplete"):
            download = measure_partial(name, f"{self.path}/blobs/{name}", blobs)
            if download is not None:
                self.unfinished.append((name.partition(".")[0], download))
        else:
            return
        del self.blobs[entry.inode()]

    def _mark(self, name: str, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self.device = found.st_dev
        mark(name, found, self.marks, self.scan_errors.now)

    def _read_references(self) -> dict[str, str]:
        references: dict[str, str] = {}
        self._read_references_below("refs", self.repo, "refs", references)
        return references

    def _read_references_below(self, name: str, above: int, path: str, references: dict[str, str]) -> None:
        try:
            with folder(name, above) as here, os.scandir(here) as entries:
                mark(path, os.fstat(here), self.marks, self.scan_errors.now)
                for entry in entries:
                    where = f"{path}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        if where.count("/") < MAX_DEPTH:
                            self._read_references_below(entry.name, here, where, references)
                    elif entry.name not in _IGNORED and len(references) < MAX_REFERENCES:
                        mark(where, entry.stat(), self.marks, self.scan_errors.now)
                        commit = read(entry.name, 128, here).decode("ascii", "replace").strip()
                        if not _COMMIT.fullmatch(commit):  # a link may lead to any file: its content isn't shown
                            self.scan_errors.add(f"{self.path}/{where}", "names no commit")
                            continue
                        references[where[5:]] = commit
        except FileNotFoundError:
            return
        except OSError as error:
            self.scan_errors.add(f"{self.path}/{path}", error)

    def _read_snapshots(self, main: str | None) -> None:
        """Every revision; the one that ``refs/main`` names is judged, else the newest."""
        newest = -1
        try:
            with folder("snapshots", self.repo) as snapshots, os.scandir(snapshots) as entries:
                mark("snapshots", os.fstat(snapshots), self.marks, self.scan_errors.now)
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        if entry.name not in _IGNORED:
                            self.scan_errors.add(f"{self.path}/snapshots/{entry.name}", "not a folder")
                        continue
                    files: dict[str, int | None] = {}
                    changed = entry.stat().st_mtime_ns
                    self._read_files(entry.name, snapshots, f"snapshots/{entry.name}", "", files)
                    if entry.name == main or (self.main_name != main and changed > newest):
                        newest, self.main, self.main_name = changed, files, entry.name
        except FileNotFoundError:
            return
        except OSError as error:
            self.scan_errors.add(f"{self.path}/snapshots", error)

    def _read_files(self, name: str, above: int, path: str, prefix: str, files: dict[str, int | None]) -> None:
        sizes, blobs, device, tick = self.sizes, self.blobs, self.device, self.scan_errors.tick
        last_used: float = 0
        try:
            with folder(name, above) as here, os.scandir(here) as entries:
                mark(path, os.fstat(here), self.marks, self.scan_errors.now)
                for entry in entries:  # this loop is what a scan's time goes into
                    tick()
                    try:
                        is_link = entry.is_symlink()
                        if is_link or not entry.is_dir():
                            mode, inode, dev, links, _, _, size, used, _, _ = entry.stat()
                        else:
                            self._descend(entry.name, here, f"{path}/{entry.name}", f"{prefix}{entry.name}/", files)
                            continue
                    except OSError as error:
                        self._broken(entry, error, path, prefix, files)
                        continue
                    if mode >> 12 != REGULAR:
                        continue
                    if dev != device and is_link and self.scan_errors.link_bounds.is_of_kernel(dev):
                        self.scan_errors.add(
                            f"{self.path}/{path}/{entry.name}", "is a link to a file that the kernel provides"
                        )
                        continue
                    files[prefix + entry.name] = size
                    if links == 1 and dev == device and (inode in blobs or not is_link):
                        sizes[inode] = size
                    else:
                        self.shared[dev, inode] = size
                    if used > last_used:  # noqa: PLR1730  # a call of max() for each file is felt here
                        last_used = used
        except OSError as error:
            self.scan_errors.add(f"{self.path}/{path}", error)
        self.last_used = max(last_used, self.last_used)

    def _descend(self, name: str, above: int, path: str, prefix: str, files: dict[str, int | None]) -> None:
        if prefix.count("/") > MAX_DEPTH:
            self.scan_errors.add(f"{self.path}/{path}", "not read: the folders are nested too deeply")
        else:
            self._read_files(name, above, path, prefix, files)

    def _broken(
        self, entry: os.DirEntry[str], error: OSError, path: str, prefix: str, files: dict[str, int | None]
    ) -> None:
        """A link that leads nowhere is a file that is missing; an entry that has gone meanwhile is nothing."""
        if not isinstance(error, FileNotFoundError):
            self.scan_errors.add(f"{self.path}/{path}/{entry.name}", error)
        elif not _is_there(entry):
            return
        files[prefix + entry.name] = None

    def _orphans(self) -> list[int]:
        """Sizes of the blobs that no snapshot leads to. (An overlay may list other inodes than it gives: look again.)"""
        left = [name for inode, name in self.blobs.items() if inode not in self.sizes]
        orphans = []
        for name in left:
            try:
                found = os.stat(f"blobs/{name}", dir_fd=self.repo, follow_symlinks=False)
            except OSError:
                continue  # gone since: it takes no room
            if found.st_ino not in self.sizes and (found.st_dev, found.st_ino) not in self.shared:
                orphans.append(found.st_size)
        return orphans

    def _judge(
        self, references: Mapping[str, str]
    ) -> tuple[bool | None, tuple[str, ...], WeightFacts | None, tuple[tuple[str, WeightFacts], ...]]:
        main = references.get("main")
        missing = []
        if main is not None and main != self.main_name:
            missing.append(f"snapshots/{main}")
        names = self.linked.union(self.blobs.values())  # what is there needs no second download
        pending = sum(etag not in names for etag, _ in self.unfinished)
        if pending:
            missing.append(f"{pending} unfinished download{'s' if pending > 1 else ''}")
        if not self.main:
            empty = not (main or self.blobs or self.unfinished)
            return None if empty else False, tuple(missing) if main or empty else (*missing, "snapshots"), None, ()
        verdict = judge(self.main, f"snapshots/{self.main_name}", self.repo, self.path, self.scan_errors)
        missing += verdict.missing
        complete = False if missing else verdict.complete
        return complete, tuple(printable(name) for name in missing[:8]), verdict.weights, verdict.variants

    def _watched(self) -> tuple[str, ...]:
        """The largest file: a program that loads the model reads it."""
        largest = max(filter(None, self.main.values()), default=None)
        names = [name for name, size in self.main.items() if size == largest]
        return (f"snapshots/{self.main_name}/{names[0]}",) if largest else ()


def _is_there(entry: os.DirEntry[str]) -> bool:
    """Whether a link that leads nowhere is still there itself, rather than deleted since its folder was listed."""
    try:
        entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return True


def _store(hub: int, path: str, previous: Mapping[str, ModelFacts], scan_errors: ScanErrors) -> Iterator[ModelFacts]:
    """The store that repositories share: its payloads use space once, whether or not a repository still links to them."""
    here = f"{path}/{SHARED_STORE}"
    try:
        with folder(SHARED_STORE, hub) as store:
            if read(SHARED_STORE_MARKER, 16, store) != b"1\n":
                return
            before = previous.get(here)
            if before is not None and unchanged(before, store):
                yield before
                return
            marks: list[tuple[str, int]] = []
            mark(".", os.fstat(store), marks, scan_errors.now)
            shared = tuple(_payloads(store, here, marks, scan_errors))
        size = sum(size for _, _, size in shared)
        yield ModelFacts(
            "", here, size, None, shared=shared, files=len(shared), repo_type="store", marks=usable_marks(marks)
        )
    except FileNotFoundError:
        return  # no store of ours
    except OSError as error:
        scan_errors.add(here, error)


def _payloads(
    store: int, path: str, marks: list[tuple[str, int]], scan_errors: ScanErrors
) -> Iterator[tuple[int, int, int]]:
    with os.scandir(store) as prefixes:
        for prefix in prefixes:
            if len(prefix.name) != 2 or not prefix.is_dir(follow_symlinks=False):
                continue
            scan_errors.tick()
            try:
                with folder(prefix.name, store) as inner, os.scandir(inner) as entries:
                    mark(prefix.name, os.fstat(inner), marks, scan_errors.now)
                    for entry in entries:
                        if _SHARED_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                            found = entry.stat(follow_symlinks=False)
                            yield found.st_dev, found.st_ino, found.st_size
            except OSError as error:
                scan_errors.add(f"{path}/{prefix.name}", error)
