"""Headers of weight files → what a roofline needs. Bounded readers: any bytes may be in a file that ends in .gguf.

Nothing of the weights themselves is read. A file that is not what its name says raises ``WeightsError``.
"""

import json
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.cache.facts import WeightFacts
from exporter.cache.tree import read

MAX_JSON_BYTES = 16 << 20
MAX_SAFETENSORS_HEADER = 32 << 20
MAX_GGUF_HEADER = 64 << 20
MAX_TENSORS = 100_000
MAX_PAIRS = 10_000
_PIECE = 1 << 20
_GGUF_MAGIC = int.from_bytes(b"GGUF", "little")


class WeightsError(ValueError):
    """The file's header is not that of its format."""


class CutShortError(WeightsError):
    """The file ends within its own header."""


@dataclass(frozen=True, slots=True)
class Header:
    """A weight file's header: bytes of each tensor, metadata (GGUF), and where its last tensor ends in the file."""

    tensors: Mapping[str, int]
    end: int
    metadata: Mapping[str, Any]


def read_json(name: str, dir_fd: int | None = None) -> dict[str, Any]:
    """A JSON object of at most 16 MiB. Raises OSError, ``WeightsError``."""
    raw = read(name, MAX_JSON_BYTES + 1, dir_fd)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WeightsError("not a JSON object")
    return value


def read_safetensors_index(name: str, dir_fd: int | None = None) -> tuple[dict[str, str], int | None]:
    """``*.index.json`` → (file of each tensor, bytes of all tensors where it says). Raises OSError, ``WeightsError``."""
    index = read_json(name, dir_fd)
    weight_map, metadata = index.get("weight_map"), index.get("metadata")
    if not isinstance(weight_map, dict) or set(map(type, weight_map.values())) - {str}:
        raise WeightsError("no weight_map")
    return weight_map, _count(metadata.get("total_size")) if isinstance(metadata, dict) else None


def read_safetensors_header(name: str, dir_fd: int | None = None) -> Header:
    """Eight bytes of length, then JSON: each tensor's range in the rest. Raises OSError, ``WeightsError``."""
    start = read(name, 8, dir_fd)
    if len(start) < 8:
        raise CutShortError("ends within its header")
    (length,) = struct.unpack("<Q", start)
    if length > MAX_SAFETENSORS_HEADER:
        raise WeightsError("not a safetensors header")
    raw = read(name, length, dir_fd, offset=8)
    if len(raw) < length:
        raise CutShortError("ends within its header")
    try:
        entries = json.loads(raw)
        ranges = {tensor: entry["data_offsets"] for tensor, entry in entries.items() if tensor != "__metadata__"}
        tensors = {tensor: int(end) - int(begin) for tensor, (begin, end) in ranges.items()}
        last = max((int(end) for _, end in ranges.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError("not a safetensors header") from error
    if last < 0 or any(size < 0 for size in tensors.values()):
        raise WeightsError("not a safetensors header")
    return Header(tensors, 8 + length + last, {})


# bytes of a block, elements of a block, by ggml type number
_GGML = {
    0: (4, 1), 1: (2, 1), 2: (18, 32), 3: (20, 32), 6: (22, 32), 7: (24, 32), 8: (34, 32), 9: (36, 32),
    10: (84, 256), 11: (110, 256), 12: (144, 256), 13: (176, 256), 14: (210, 256), 15: (292, 256),
    16: (66, 256), 17: (74, 256), 18: (98, 256), 19: (50, 256), 20: (18, 32), 21: (110, 256), 22: (82, 256),
    23: (136, 256), 24: (1, 1), 25: (2, 1), 26: (4, 1), 27: (8, 1), 28: (8, 1), 29: (56, 256), 30: (2, 1),
    34: (54, 256), 35: (66, 256), 39: (17, 32), 40: (36, 64), 41: (18, 128), 42: (18, 64),
}  # fmt: skip

# general.file_type → the name that people know a quantization by
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
    39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_KEPT_ARRAY = 4096


class _Cursor:
    """Reads forward through the start of a file, a piece at a time."""

    def __init__(self, name: str, dir_fd: int | None) -> None:
        self.name, self.dir_fd = name, dir_fd
        self.buffer = b""
        self.base = 0
        self.at = 0

    @property
    def offset(self) -> int:
        return self.base + self.at

    def need(self, length: int) -> int:
        """Move past ``length`` bytes, all of them in the buffer; returns where they begin in it."""
        if self.at + length > len(self.buffer):
            if self.offset + length > MAX_GGUF_HEADER:
                raise WeightsError("its header has no end")
            self.buffer = self.buffer[self.at :]
            self.base, self.at = self.offset, 0
            short = max(length - len(self.buffer), _PIECE)
            self.buffer += read(self.name, short, self.dir_fd, offset=self.base + len(self.buffer))
            if length > len(self.buffer):
                raise CutShortError("ends within its header")
        start, self.at = self.at, self.at + length
        return start

    def scalar(self, form: str) -> Any:
        start = self.need(struct.calcsize(form))  # first: it may replace the buffer
        return struct.unpack_from(form, self.buffer, start)[0]

    def string(self) -> str:
        length = self.scalar("<Q")
        start = self.need(length)
        return self.buffer[start : start + length].decode("utf-8", "replace")

    def skip(self, length: int) -> None:
        while length > 0:
            step = min(length, _PIECE)
            self.need(step)
            length -= step

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise WeightsError(f"unknown metadata type {kind}")
        inner, count = self.scalar("<I"), self.scalar("<Q")
        if inner in _SCALARS:
            if count > _KEPT_ARRAY:
                self.skip(count * struct.calcsize(_SCALARS[inner]))
                return None
            return [self.scalar(_SCALARS[inner]) for _ in range(count)]
        if inner != _STRING:
            raise WeightsError("arrays within arrays")
        for _ in range(count):  # a tokenizer's words: nothing that a roofline needs
            self.need(self.scalar("<Q"))
        return None


def read_gguf_header(name: str, dir_fd: int | None = None) -> Header:
    """GGUF versions 2 and 3, little-endian. Raises OSError, ``WeightsError``."""
    cursor = _Cursor(name, dir_fd)
    if cursor.scalar("<I") != _GGUF_MAGIC:
        raise WeightsError("does not begin with GGUF")
    version, tensor_count, pair_count = cursor.scalar("<I"), cursor.scalar("<Q"), cursor.scalar("<Q")
    if version not in {2, 3}:
        raise WeightsError(f"GGUF version {version}")
    if tensor_count > MAX_TENSORS or pair_count > MAX_PAIRS:
        raise WeightsError(f"a header of {tensor_count} tensors and {pair_count} pairs")
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("<I"))
    tensors: dict[str, int] = {}
    offsets: dict[str, int] = {}
    end = 0
    for _ in range(tensor_count):
        tensor = cursor.string()
        dimensions = cursor.scalar("<I")
        if dimensions > 8:
            raise WeightsError(f"a tensor of {dimensions} dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= cursor.scalar("<Q")
        kind, offset = cursor.scalar("<I"), cursor.scalar("<Q")
        block_bytes, block_elements = _GGML.get(kind, (0, 1))  # of a type newer than this table the end isn't known
        tensors[tensor] = elements // block_elements * block_bytes
        offsets[tensor] = offset
        end = max(end, offset + tensors[tensor])
    alignment = _count(metadata.get("general.alignment")) or 32
    data = -(-cursor.offset // alignment) * alignment
    if not all(tensors.values()):
        _fill_gaps(tensors, offsets, os.stat(name, dir_fd=dir_fd).st_size - data)
    return Header(tensors, data + end, metadata)


def _fill_gaps(tensors: dict[str, int], offsets: Mapping[str, int], data_bytes: int) -> None:
    """Give tensors of a type that isn't known the room up to the next one, which is its size but for the padding."""
    ends = sorted({*offsets.values(), data_bytes})
    for tensor, offset in offsets.items():
        following = bisect_right(ends, offset)
        if not tensors[tensor] and following < len(ends):
            tensors[tensor] = ends[following] - offset


def weigh_gguf(headers: Iterable[Header], data_bytes: int) -> WeightFacts:
    """The shards of one GGUF → its weights. ``data_bytes``: the sum of the files' sizes, headers included."""
    tensors: dict[str, int] = {}
    metadata: dict[str, Any] = {}
    for header in headers:
        tensors.update(header.tensors)
        metadata = {**header.metadata, **metadata}
    architecture = metadata.get("general.architecture")

    def of(key: str) -> Any:
        return metadata.get(f"{architecture}.{key}")

    is_sized = bool(tensors) and all(tensors.values())
    weight_bytes = sum(tensors.values()) if is_sized else data_bytes
    moe = bool(_count(of("expert_count"))) or any(_EXPERTS in tensor for tensor in tensors)
    layers, heads, width = _count(of("block_count")), _count(of("attention.head_count")), _count(of("embedding_length"))
    kv_heads = _kv_heads(of("attention.head_count_kv")) or heads
    head_dim = _count(of("attention.key_length")) or _quotient(width, heads)
    file_type = metadata.get("general.file_type")
    return WeightFacts(
        weight_bytes,
        input_embedding_bytes=tensors.get("token_embd.weight"),
        tied="output.weight" not in tensors if "token_embd.weight" in tensors else None,
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        moe=moe,
        active_bytes=_active_gguf(tensors, of) if is_sized else None if moe else weight_bytes,
        kv_elements_per_token=_kv_elements(of, kv_heads, head_dim, _INTERVALS.get(str(architecture))),
        sliding_window=_count(of("attention.sliding_window")),
        quantization=_FILE_TYPES.get(file_type) if isinstance(file_type, int) else None,
        architecture=architecture if isinstance(architecture, str) else None,
    )


_EXPERTS = "_exps."
_BLOCK = re.compile(r"blk\.(\d+)\.")
# Of these a token reads a row, however large they are.
_LOOKED_UP = ("per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
# Of their layers one in so many has a KV cache that grows, where the file doesn't say how many.
_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "minimax-01": 8}


def _kv_heads(each: object) -> int:
    """One number, or one a layer: 0 where a layer has no cache."""
    return max((_count(one) or 0 for one in each), default=0) if isinstance(each, list) else _count(each) or 0


def _active_gguf(tensors: Mapping[str, int], of: Callable[[str], Any]) -> int | None:
    """Bytes of the tensors that one token reads, the input embedding with them; of experts the share that it uses.

    The last blocks of a model that can draft its own tokens are read only while it drafts. ``None`` where the file
    doesn't say how many experts a token uses.
    """
    experts, used = _count(of("expert_count")), of("expert_used_count")
    own = (_count(of("block_count")) or 0) - (_count(of("nextn_predict_layers")) or 0)
    active = 0
    for tensor, size in tensors.items():
        found = _BLOCK.match(tensor)
        block = int(found[1]) if found else -1
        if tensor in _LOOKED_UP or (own > 0 and block >= own):
            continue
        if "_chexps." in tensor:  # experts in groups, of which a token uses another number
            return None
        if _EXPERTS not in tensor:
            active += size
            continue
        of_block = _count(used[block]) if isinstance(used, list) and 0 <= block < len(used) else _count(used)
        if not experts or not of_block or of_block > experts:
            return None
        active += size * of_block // experts
    return active


def _kv_elements(
    of: Callable[[str], Any], kv_heads: int | None, head_dim: int | None, usual_interval: int | None
) -> int | None:
    """Numbers that a token adds to the KV cache, over all layers that have one of their own."""
    layers = max((_count(of("block_count")) or 0) - (_count(of("nextn_predict_layers")) or 0), 0)
    latent, rotary = _count(of("attention.kv_lora_rank")), _count(of("rope.dimension_count"))
    if latent and rotary:
        return layers * (latent + rotary) or None
    value_dim = _count(of("attention.value_length")) or head_dim
    if not (layers and kv_heads and head_dim and value_dim):
        return None
    each = of("attention.head_count_kv")
    interval = _count(of("full_attention_interval")) or usual_interval
    if isinstance(each, list):
        heads = [_count(one) or 0 for one in each]
    elif interval:
        heads = [kv_heads if layer % interval == 0 else 0 for layer in range(1, layers + 1)]
    elif of("ssm.state_size") is None:
        heads = [kv_heads] * layers
    else:
        return None
    heads = heads[: max(layers - (_count(of("attention.shared_kv_layers")) or 0), 0)]
    of_window = (_count(of("attention.key_length_swa")) or head_dim) + (
        _count(of("attention.value_length_swa")) or value_dim
    )
    pattern = of("attention.sliding_window_pattern")
    is_windowed = [one is True for one in pattern] if isinstance(pattern, list) else []
    is_windowed += [False] * (len(heads) - len(is_windowed))
    return sum(
        count * (of_window if windowed else head_dim + value_dim)
        for count, windowed in zip(heads, is_windowed, strict=False)
    )


_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
)
_HEADS = ("lm_head.weight", "embed_out.weight", "lm_head.qweight")


def embeddings_in(tensors: Iterable[str]) -> list[str]:
    """The input embedding of a language model among its tensors; that of what it sees or hears with is another."""
    found = [tensor for tensor in tensors if tensor.endswith(_EMBEDDINGS)]
    return [tensor for tensor in found if "visual" not in tensor and "vision" not in tensor][:1]


_EXPERT_MODULES = ".experts."
_LAYER = re.compile(r"(?:language_model\.)?(?:model\.)?(?:language_model\.)?layers\.(\d+)\.")
_SENSES = re.compile(r"(?:model\.)?(?:visual|vision_\w+|audio_\w+|multi_modal_projector|mm_projector|embed_vision)\.")


def _is_unread(tensor: str, layers: int | None) -> bool:
    """Whether a decoded token needs no such tensor: layers that only draft tokens, and what sees or hears."""
    layer = _LAYER.match(tensor)
    drafts = tensor.startswith("mtp.") or (layer is not None and layers is not None and int(layer[1]) >= layers)
    return drafts or _SENSES.match(tensor) is not None


def expert_counts(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(experts, experts that one token uses) of a config.json; (None, …) for a dense model."""
    text = _text(config)
    experts = _first(text, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    return experts, _first(text, "num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk")


def weigh_safetensors(
    config: Mapping[str, Any], weight_bytes: int, names: Iterable[str], sizes: Mapping[str, int]
) -> WeightFacts:
    """config.json, bytes of all tensors, their names, and the sizes of those whose headers were read → the weights."""
    text = _text(config)
    names = tuple(names)
    layers, heads = _first(text, "num_hidden_layers", "n_layer"), _first(text, "num_attention_heads", "n_head")
    kv_heads = _first(text, "num_key_value_heads", "num_kv_heads") or heads
    head_dim = _first(text, "head_dim") or _quotient(_first(text, "hidden_size", "n_embd"), heads)
    latent, rotary = _first(text, "kv_lora_rank"), _first(text, "qk_rope_head_dim")
    kinds = text.get("layer_types")
    cached = layers
    if isinstance(kinds, list) and kinds:
        cached = sum(isinstance(kind, str) and kind.endswith("attention") and "linear" not in kind for kind in kinds)
    elif any(key.startswith(("mamba", "ssm_", "linear_", "hybrid_")) for key in text):
        cached = None
    elements = None
    if latent and rotary and layers:
        elements = layers * (latent + rotary)
    elif cached and kv_heads and head_dim:
        elements = cached * 2 * kv_heads * head_dim
    experts, used = expert_counts(config)
    moe = bool(experts) or any(_EXPERT_MODULES in name for name in names)
    # Where not every header was read, as of a dense model in shards, nothing is taken out: the ceiling comes out low.
    unread = (
        {name: size for name, size in sizes.items() if _is_unread(name, layers)} if len(sizes) == len(names) else {}
    )
    expert_bytes = sum(size for name, size in sizes.items() if _EXPERT_MODULES in name and name not in unread)
    quantization = config.get("quantization_config") or text.get("quantization_config")
    architectures = config.get("architectures")
    return WeightFacts(
        weight_bytes,
        input_embedding_bytes=next((sizes[tensor] for tensor in embeddings_in(sizes)), None),
        tied=not [name for name in names if name.endswith(_HEADS)],
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        moe=moe,
        active_bytes=_active(weight_bytes - sum(unread.values()), expert_bytes, experts, used)
        if experts or not moe
        else None,
        kv_elements_per_token=elements,
        sliding_window=_first(text, "sliding_window") if text.get("use_sliding_window") is not False else None,
        dtype=_word(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype")),
        quantization=_word(quantization.get("quant_method")) if isinstance(quantization, dict) else None,
        architecture=_word(architectures[0]) if isinstance(architectures, list) and architectures else None,
    )


def _active(weights: int, expert_bytes: int, experts: int | None, used: int | None) -> int | None:
    if not experts:
        return weights
    if not used or not expert_bytes or used > experts:
        return None
    return weights - expert_bytes + expert_bytes * used // experts


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a model that sees or hears as well."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _first(values: Mapping[str, Any], *keys: str) -> int | None:
    return next((number for key in keys if (number := _count(values.get(key)))), None)


def _count(value: object) -> int | None:
    """A positive whole number that a config can mean, else None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 63 else None


def _quotient(dividend: int | None, divisor: int | None) -> int | None:
    return dividend // divisor if dividend and divisor else None


def _word(value: object) -> str | None:
    return value[:64] if isinstance(value, str) else None
