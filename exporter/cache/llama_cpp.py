"""The cache of llama.cpp: once a flat folder of GGUF files, since 2026 the layout of the Hugging Face hub; often both."""

import re
from collections.abc import Iterator, Mapping

from exporter.cache import files, huggingface
from exporter.cache.facts import ModelFacts
from exporter.cache.tree import ScanErrors

_NOT_FLAT = re.compile(rf"\.locks|{huggingface.SHARED_STORE}|{huggingface.type_and_name.pattern}", re.DOTALL)


def scan(
    path: str, previous: Mapping[str, ModelFacts], scan_errors: ScanErrors, share: tuple[int, int]
) -> Iterator[ModelFacts]:
    """The repositories of the hub layout, and the files that lie beside them."""
    yield from huggingface.scan(path, previous, scan_errors, share)
    if share[0] == 0:
        yield from files.scan_folders(path, previous, scan_errors, skip=_NOT_FLAT)
