"""The layouts of model caches, one row each: every other list of them follows from this table.

The settings take the same names (``settings.CacheKind``; a test holds the two equal). The scanning process imports this
module too, so it stays light.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from exporter.cache import files, huggingface, llama_cpp, ollama
from exporter.cache.facts import ModelFacts
from exporter.cache.tree import ScanErrors

Scan = Callable[[str, Mapping[str, ModelFacts], ScanErrors, tuple[int, int]], Iterator[ModelFacts]]
"""(path, models of the last scan by path, errors, (worker, workers)) → the worker's share of the models.

Raises OSError if the cache as a whole can't be read.
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout of a model cache.

    ``folder_of`` gives the folder that holds the models, of the path by which a user names the cache. ``split`` says that
    several processes can share a scan, ``blobs`` how files are stored that are named by a hash of their content. A layout
    that is not ``configurable`` is found, but can't be named in the settings.
    """

    scan: Scan
    folder_of: Callable[[str], str] = str
    split: bool = False
    blobs: Literal["none", "hub", "store"] = "none"
    configurable: bool = True


LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType(
    {
        "huggingface": Layout(huggingface.scan, huggingface.hub_of, split=True, blobs="hub"),
        "ollama": Layout(ollama.scan, ollama.store_of, blobs="store"),
        "llama_cpp": Layout(llama_cpp.scan, huggingface.hub_of, split=True, blobs="hub"),
        "lm_studio": Layout(files.scan),
        "files": Layout(files.scan),
        "compiled": Layout(files.scan_compiled, configurable=False),
    }
)
