"""How a model's weights are quantized, by what it is called. Pure."""

import re
from typing import Final

_GGUF = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(?:IQ[1-4]_(?:XXS|XS|S|M|NL)|Q[1-8]_(?:K(?:_(?:XXS|XS|S|M|L|XL|P))?|[01](?:_\d_\d)?)|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4"
    r"|BF16|F16|F32)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# First match wins. The names follow those of vLLM's --quantization if it has one.
_NAMED: Final = (
    ("awq", re.compile(r"(?<![a-z0-9])awq", re.IGNORECASE)),
    ("gptq", re.compile(r"(?<![a-z0-9])gptq", re.IGNORECASE)),
    ("mxfp4", re.compile(r"mxfp4|gpt-oss", re.IGNORECASE)),
    ("nvfp4", re.compile(r"nvfp4", re.IGNORECASE)),
    ("fp8", re.compile(r"(?<![a-z0-9])fp8|w8a8[-_]?fp8", re.IGNORECASE)),
    ("int8", re.compile(r"(?<![a-z0-9])int8|w8a8|w8a16", re.IGNORECASE)),
    ("int4", re.compile(r"(?<![a-z0-9])int4|w4a16|4[-_]?bits?(?![a-z0-9])", re.IGNORECASE)),
    ("bitsandbytes", re.compile(r"(?<![a-z0-9])bnb(?![a-z0-9])", re.IGNORECASE)),
)


def gguf_type(name: str) -> str | None:
    """The type in a GGUF's file name, path, repository or tag: ``…-Q4_K_M-00001-of-00002.gguf`` gives ``Q4_K_M``."""
    found = _GGUF.findall(name)
    return found[-1].upper() if found else None


def method_in(name: str) -> str | None:
    """The method in the name of a safetensors model: ``Qwen/Qwen2.5-14B-Instruct-AWQ`` gives ``awq``."""
    return next((method for method, pattern in _NAMED if pattern.search(name)), None)
