"""Headers of weight files → what a roofline needs. Bounded readers: any bytes may be in a file that ends in .gguf.

Nothing of the weights themselves is read. A file that is not what its name says raises ``WeightsError``. Each file has a
budget of bytes, of elements and of seconds, so that no file costs more time or memory than the largest real ones.
"""

import json
import os
import re
import struct
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from exporter.cache.facts import WeightFacts
from exporter.cache.tree import open_file, read, read_at

MAX_JSON_BYTES = 32 << 20
MAX_JSON_VALUES = 750_000
MAX_SAFETENSORS_HEADER = 32 << 20
MAX_GGUF_HEADER = 64 << 20
MAX_TENSORS = 100_000
MAX_PAIRS = 10_000
MAX_ELEMENTS = 4_000_000
"""Elements of all arrays of a GGUF: the tokenizers of published models have up to 800,000."""
MAX_SECONDS = 10.0
"""For one file's header: half of the time after which a scan counts as hanging."""
MAX_LAYERS = 4096
END_OF_OFFSETS = 1 << 63
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


def read_json(name: str, dir_fd: int | None = None, *, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of at most ``limit`` bytes. Raises OSError, ``WeightsError``."""
    raw = read(name, limit + 1, dir_fd)
    if len(raw) > limit:
        raise WeightsError(f"more than {limit} bytes of JSON")
    return _json_object(raw)


def _json_object(raw: bytes) -> dict[str, Any]:
    """Parse an object, after a count of its values: a short text can make objects of a hundred times its size."""
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if values > MAX_JSON_VALUES:
        raise WeightsError(f"JSON of {values} values")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WeightsError("not a JSON object")
    return value


def read_safetensors_index(name: str, dir_fd: int | None = None) -> tuple[dict[str, str], int | None]:
    """``*.index.json`` → (file of each tensor, bytes of all tensors if it says). Raises OSError, ``WeightsError``."""
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
    entries = _json_object(raw)
    ranges = {tensor: _range(entry) for tensor, entry in entries.items() if tensor != "__metadata__"}
    if any(end > begin for (_, end), (begin, _) in pairwise(sorted(ranges.values()))):
        raise WeightsError("not a safetensors header: its tensors overlap")
    last = max((end for _, end in ranges.values()), default=0)
    return Header({tensor: end - begin for tensor, (begin, end) in ranges.items()}, 8 + length + last, {})


def _range(entry: object) -> tuple[int, int]:
    """A tensor's range of bytes. Raises ``WeightsError`` unless it is two integers, 0 ≤ begin ≤ end < 2^63."""
    match entry:
        case {"data_offsets": [int(begin), int(end)]} if type(begin) is type(end) is int:
            if 0 <= begin <= end < END_OF_OFFSETS:
                return begin, end
    raise WeightsError("not a safetensors header: a tensor's data_offsets are not a range")


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
_LARGEST_ALIGNMENT = 1 << 20
_LONGEST_KEY = 65_535
_LONGEST_NAME = 512
_LONGEST_WORD = 256
_LONGEST_LIST = MAX_LAYERS
"""A list that says something of each layer."""
# Of a header's pairs those that are used: these keys, and these after the name of the architecture.
_GENERAL = frozenset({"general.architecture", "general.alignment", "general.file_type"})
_OF_ARCHITECTURE = (
    ".block_count", ".embedding_length", ".expert_count", ".expert_used_count", ".full_attention_interval",
    ".nextn_predict_layers", ".rope.dimension_count", ".ssm.state_size",
    ".attention.head_count", ".attention.head_count_kv", ".attention.key_length", ".attention.key_length_swa",
    ".attention.kv_lora_rank", ".attention.shared_kv_layers", ".attention.sliding_window",
    ".attention.sliding_window_pattern", ".attention.value_length", ".attention.value_length_swa",
)  # fmt: skip


class _Cursor:
    """Reads forward through the start of an open file, a piece at a time, within the budget of a file."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.file_bytes = os.fstat(descriptor).st_size
        self.buffer = b""
        self.base = 0
        self.at = 0
        self.elements = 0
        self.until = time.monotonic() + MAX_SECONDS

    @property
    def offset(self) -> int:
        return self.base + self.at

    def need(self, length: int) -> int:
        """Move past ``length`` bytes, all of them in the buffer; returns where they begin in it."""
        if self.at + length > len(self.buffer):
            self._within_budget(length)
            self.buffer = self.buffer[self.at :]
            self.base, self.at = self.offset, 0
            short = max(length - len(self.buffer), _PIECE)
            self.buffer += read_at(self.descriptor, short, self.base + len(self.buffer))
            if length > len(self.buffer):
                raise CutShortError("ends within its header")
        start, self.at = self.at, self.at + length
        return start

    def _within_budget(self, length: int) -> None:
        if self.offset + length > MAX_GGUF_HEADER:
            raise WeightsError("its header does not end")
        if time.monotonic() > self.until:
            raise WeightsError(f"its header took more than {MAX_SECONDS:g} s to read")

    def scalar(self, form: str) -> Any:
        start = self.need(struct.calcsize(form))  # first: it may replace the buffer
        return struct.unpack_from(form, self.buffer, start)[0]

    def string(self, longest: int) -> str:
        """A string of at most that many bytes; a longer one raises ``WeightsError``."""
        length = self.scalar("<Q")
        if length > longest:
            raise WeightsError(f"a name of {length} bytes")
        start = self.need(length)
        return self.buffer[start : start + length].decode("utf-8", "replace")

    def skip(self, length: int) -> None:
        """Move past ``length`` bytes; those that are not in the buffer are not read."""
        if self.at + length <= len(self.buffer):
            self.at += length
            return
        self._within_budget(length)
        self.base, self.buffer, self.at = self.offset + length, b"", 0
        if self.base > self.file_bytes:
            raise CutShortError("ends within its header")

    def skip_strings(self, count: int) -> None:
        """Move past that many strings, as a tokenizer's words: the loop that a header's time goes into."""
        unpack = struct.Struct("<Q").unpack_from
        buffer, at, end = self.buffer, self.at, len(self.buffer)
        for _ in range(count):
            following = at + 8
            if following <= end:
                following += unpack(buffer, at)[0]
            if following <= end:
                at = following
                continue
            self.at = at
            self.skip(self.scalar("<Q"))
            buffer, at, end = self.buffer, self.at, len(self.buffer)
        self.at = at

    def value(self, kind: int, *, keep: bool) -> Any:
        """One value of the metadata; None if it isn't to be kept, or is a list or a text longer than any that is used."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            length = self.scalar("<Q")
            if not keep or length > _LONGEST_WORD:
                return self.skip(length)
            start = self.need(length)
            return self.buffer[start : start + length].decode("utf-8", "replace")
        if kind != _ARRAY:
            raise WeightsError(f"unknown metadata type {kind}")
        inner, count = self.scalar("<I"), self.scalar("<Q")
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            raise WeightsError(f"arrays of {self.elements} elements")
        if inner == _STRING:
            return self.skip_strings(count)
        if inner not in _SCALARS:
            raise WeightsError("arrays within arrays")
        form = f"<{count}{_SCALARS[inner][1]}"
        if not keep or count > _LONGEST_LIST:
            return self.skip(struct.calcsize(form))
        start = self.need(struct.calcsize(form))
        return list(struct.unpack_from(form, self.buffer, start))


def read_gguf_header(name: str, dir_fd: int | None = None) -> Header:
    """GGUF versions 2 and 3, little-endian. Raises OSError, ``WeightsError``."""
    descriptor = open_file(name, dir_fd)
    try:
        return _read_gguf(_Cursor(descriptor))
    finally:
        os.close(descriptor)


def _read_gguf(cursor: _Cursor) -> Header:
    if cursor.scalar("<I") != _GGUF_MAGIC:
        raise WeightsError("does not begin with GGUF")
    version, tensor_count, pair_count = cursor.scalar("<I"), cursor.scalar("<Q"), cursor.scalar("<Q")
    if version not in {2, 3}:
        raise WeightsError(f"GGUF version {version}")
    if tensor_count > MAX_TENSORS or pair_count > MAX_PAIRS:
        raise WeightsError(f"a header of {tensor_count} tensors and {pair_count} pairs")
    metadata = _read_metadata(cursor, pair_count)
    tensors: dict[str, int] = {}
    offsets: dict[str, int] = {}
    end = 0
    for _ in range(tensor_count):
        tensor = cursor.string(_LONGEST_NAME)
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
    if alignment > _LARGEST_ALIGNMENT:
        raise WeightsError(f"tensors aligned to {alignment} bytes")
    data = -(-cursor.offset // alignment) * alignment
    if data + end >= END_OF_OFFSETS or sum(tensors.values()) >= END_OF_OFFSETS:
        raise WeightsError("tensors of more bytes than a file can hold")
    if not all(tensors.values()):
        _fill_gaps(tensors, offsets, cursor.file_bytes - data)
    return Header(tensors, data + end, metadata)


def _read_metadata(cursor: _Cursor, pair_count: int) -> dict[str, Any]:
    """The pairs that are used. The lists among them have as many elements in all as one list may have, by each key once."""
    metadata: dict[str, Any] = {}
    kept = 0
    for _ in range(pair_count):
        key = cursor.string(_LONGEST_KEY)
        is_used = key in _GENERAL or (key.endswith(_OF_ARCHITECTURE) and len(key) <= _LONGEST_WORD)
        value = cursor.value(cursor.scalar("<I"), keep=is_used)
        if not is_used:
            continue
        kept += len(value) if isinstance(value, list) else 1
        if kept > len(_OF_ARCHITECTURE) * _LONGEST_LIST:
            raise WeightsError("more lists than a model has")
        metadata[key] = value
    return metadata


def _fill_gaps(tensors: dict[str, int], offsets: Mapping[str, int], data_bytes: int) -> None:
    """Give tensors of a type that isn't known the room up to the next one, which is its size but for the padding."""
    ends = sorted({*offsets.values(), data_bytes})
    for tensor, offset in offsets.items():
        following = bisect_right(ends, offset)
        if not tensors[tensor] and following < len(ends):
            tensors[tensor] = ends[following] - offset


def weights_of_gguf(headers: Iterable[Header], data_bytes: int) -> WeightFacts:
    """The shards of one GGUF → its weights. ``data_bytes``: the sum of the files' sizes, headers included.

    Raises ``WeightsError`` for more tensors than a model has.
    """
    tensors: dict[str, int] = {}
    metadata: dict[str, Any] = {}
    for header in headers:
        tensors.update(header.tensors)
        if len(tensors) > MAX_TENSORS:
            raise WeightsError(f"shards of more than {MAX_TENSORS} tensors")
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
_BLOCK = re.compile(r"blk\.([0-9]{1,9})\.")
# Of these a token reads a row, however large they are.
_LOOKED_UP = ("per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
# Of their layers one in that many has a KV cache that grows, if the file doesn't say how many.
_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "minimax-01": 8}


def _kv_heads(each: object) -> int:
    """One number, or one a layer: 0 if a layer has no cache."""
    return max((_count(one) or 0 for one in each), default=0) if isinstance(each, list) else _count(each) or 0


def _active_gguf(tensors: Mapping[str, int], of: Callable[[str], Any]) -> int | None:
    """Bytes of the tensors that one token reads, the input embedding with them; of experts the share that it uses.

    The last blocks of a model that can draft its own tokens are read only while it drafts. ``None`` if the file
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
    if not 0 < layers <= MAX_LAYERS:
        return None
    latent, rotary = _count(of("attention.kv_lora_rank")), _count(of("rope.dimension_count"))
    if latent and rotary:
        return _count(layers * (latent + rotary))
    value_dim = _count(of("attention.value_length")) or head_dim
    if not (kv_heads and head_dim and value_dim):
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
    found = sum(
        count * (of_window if windowed else head_dim + value_dim)
        for count, windowed in zip(heads, is_windowed, strict=False)
    )
    return found if found < END_OF_OFFSETS else None


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
_LAYER = re.compile(r"(?:language_model\.)?(?:model\.)?(?:language_model\.)?layers\.([0-9]{1,9})\.")
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


def weights_of_safetensors(
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
    # If not every header was read, as of a dense model in shards, nothing is taken out: the ceiling comes out low.
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
        kv_elements_per_token=_count(elements),
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
