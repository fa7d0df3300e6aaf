"""Model caches on disk → frozen facts (``facts``): sizes, completeness, waste, and what a roofline needs of the weights.

``folders.find_caches`` says where they are, ``scanner.Scanner`` scans one without holding anything up, ``verify``
hashes. A new kind is one module with a ``scan`` and one line here. This module is also what the scanning process
imports, so it stays light.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from exporter.cache import files, huggingface, llama_cpp, ollama
from exporter.cache.facts import ModelFacts
from exporter.cache.tree import ScanErrors

Scan = Callable[[str, Mapping[str, ModelFacts], ScanErrors, tuple[int, int]], Iterator[ModelFacts]]
"""(path, models of the last scan by path, errors, (worker, workers)) → the worker's share of the models.

Raises OSError where the cache as a whole can't be read.
"""

SCANNERS: Final[Mapping[str, Scan]] = {
    "huggingface": huggingface.scan,
    "ollama": ollama.scan,
    "llama_cpp": llama_cpp.scan,
    "lm_studio": files.scan,
    "files": files.scan,
    "compiled": files.scan_compiled,
}
