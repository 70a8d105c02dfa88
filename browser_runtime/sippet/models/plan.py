"""Works out the memory a model will need from its header alone, before it is downloaded.

    plan = plan_memory([header], limit=memory_limit(environment))
    plan.verdict        # "fits", "fits_smaller" (with plan.max_n_ctx) or "too_large"
    print(plan.text)

What llama.cpp allocates is reckoned part by part: weights and KV cache exactly, compute buffers and what the engine
takes besides by formulas that were fitted to its CPU backend (within 10 % of the whole for the models that the tests
load).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..config import ContextConfig
from ..errors import ModelTooLarge
from ._ggml import GGML_TYPES
from .header import ArrayRef, GgufHeader

Verdict = Literal["fits", "fits_smaller", "too_large"]

DEFAULT_N_CTX = 4096
DEFAULT_N_UBATCH = 64
MIN_N_CTX = 256
WASM_MAX = (4 << 30) - (64 << 10)  # what the engines' memories are declared with, whatever their addresses
RUNTIME_BYTES = 26_700_000
BYTES_PER_TOKEN, BYTES_PER_MERGE = 152, 410  # of the vocabulary: strings, indices, and what loading them leaves behind
_CELLS = 256  # llama.cpp rounds the cells of a cache up to this

_TYPE_BY_NAME = {kind.name.lower(): kind for kind in GGML_TYPES.values()}

_SWA_PERIODS = {
    "cohere2": 4, "exaone4": 4, "exaone-moe": 4, "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma-embedding": 6,
    "gpt-oss": 2, "olmo2": 4, "smallthinker": 4,
}  # fmt: skip
"""Every n-th layer sees the whole context, the others a window, where the file does not say it itself."""


@dataclass(frozen=True)
class MemoryLimit:
    """The memory that a model may take here.

    Attributes:
        nbytes: how much.
        reason: what sets the limit, in words that continue "limited by".
    """

    nbytes: int
    reason: str


@dataclass(frozen=True)
class MemoryPlan:
    """What a model needs with a given context, and whether that fits. All in bytes.

    Attributes:
        weights: the tensors.
        kv_cache: cached keys and values, and recurrent state.
        compute: buffers of the computation, with the logits.
        overhead: the engine itself, its stack and the vocabulary.
        n_ctx: the context that was planned, in tokens.
        max_n_ctx: the largest context that fits, at most the model's own; 0 where none does.
        limit: what it was held against.
        verdict: ``fits``, ``fits_smaller`` (with a context of at most ``max_n_ctx``) or ``too_large``.
    """

    weights: int
    kv_cache: int
    compute: int
    overhead: int
    n_ctx: int
    max_n_ctx: int
    limit: MemoryLimit
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the total and the verdict in words."""
        return {**asdict(self), "total": self.total, "text": self.text}

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.compute + self.overhead

    @property
    def text(self) -> str:
        """The verdict in a sentence, with its numbers."""
        needs, has = megabytes(self.total), megabytes(self.limit.nbytes)
        if self.verdict == "fits":
            return f"Fits: needs {needs} of {has} with a context of {self.n_ctx} tokens."
        if self.verdict == "fits_smaller":
            return (
                f"Fits with a context of at most {self.max_n_ctx} tokens; with {self.n_ctx} it needs {needs}, "
                f"and {self.limit.reason} leaves {has}."
            )
        return f"Won't fit: needs {needs}, and {self.limit.reason} leaves {has}."

    def require(self) -> None:
        """Raise :class:`~sippet.errors.ModelTooLarge` unless the planned context fits."""
        if self.verdict == "fits":
            return
        hint = (
            f"Set RuntimeConfig.context.n_ctx to {self.max_n_ctx} or less."
            if self.verdict == "fits_smaller"
            else "Choose a smaller model, or one with a smaller quantisation."
        )
        raise ModelTooLarge(
            self.text,
            hint=hint,
            details={"needs": self.total, "has": self.limit.nbytes, "n_ctx": self.n_ctx, "max_n_ctx": self.max_n_ctx},
        )


def memory_limit(
    *, device_memory: int | None = None, wasm: bool = True, wasm_memory: int | None = None, taken: int = 0
) -> MemoryLimit:
    """What a model may take here.

    Args:
        device_memory: bytes of memory of the machine, where known; browsers round it down and cap it.
        wasm: whether the engine runs in WebAssembly.
        wasm_memory: bytes that a WebAssembly memory can grow to here, where that was found out.
        taken: bytes that other models take. Each has a WebAssembly memory of its own, and all share the machine's.
    """
    limits = []
    if wasm and wasm_memory is not None and wasm_memory < WASM_MAX:
        limits.append(MemoryLimit(wasm_memory, "the memory that this browser gives WebAssembly"))
    elif wasm:
        limits.append(MemoryLimit(WASM_MAX, "WebAssembly"))
    others = f" beside models that take {megabytes(taken)}" if taken else ""
    if device_memory and wasm:
        # Half: the system, the browser and the page need the rest, and phones end a tab that takes more.
        reason = f"a device with {megabytes(device_memory)} of memory{others}"
        limits.append(MemoryLimit(max(device_memory // 2 - taken, 0), reason))
    elif device_memory:
        limits.append(MemoryLimit(max(device_memory - taken, 0), f"the memory of this machine{others}"))
    return min(limits, key=lambda limit: limit.nbytes, default=MemoryLimit(1 << 62, "this machine"))


def plan_memory(
    headers: Sequence[GgufHeader], context: ContextConfig | None = None, *, limit: MemoryLimit, extra: int = 0
) -> MemoryPlan:
    """Plan the memory of a model.

    Args:
        headers: of all its files, in order.
        context: the settings it will run with; those left open are the engine's defaults.
        limit: what there is.
        extra: bytes that are taken already, by a projector or by another model.
    """
    context = context or ContextConfig()
    first = headers[0]
    trained = first.context_length or DEFAULT_N_CTX
    n_ctx = context.n_ctx or min(trained, DEFAULT_N_CTX)
    weights = sum(tensor.nbytes for header in headers for tensor in header.tensors)
    overhead = RUNTIME_BYTES + _vocabulary(first) + extra

    def at(size: int) -> MemoryPlan:
        cells = _Cells.of(first, context, size)
        return MemoryPlan(
            weights,
            _kv_cache(first, context, cells),
            _compute(first, context, cells),
            overhead,
            size,
            0,
            limit,
            "too_large",
        )

    plan = at(n_ctx)
    largest = _largest(lambda size: at(size).total <= limit.nbytes, max(trained, n_ctx))
    verdict: Verdict = (
        "fits" if largest >= n_ctx else "fits_smaller" if largest >= min(MIN_N_CTX, n_ctx) else "too_large"
    )
    return replace(plan, verdict=verdict, max_n_ctx=0 if verdict == "too_large" else largest)


def _largest(fits: Callable[[int], bool], top: int) -> int:
    """The largest context up to ``top`` that fits, in steps of whole cells."""
    if fits(top):
        return top
    low, high = 0, math.ceil(top / _CELLS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * _CELLS) else (low, middle)
    return low * _CELLS


@dataclass(frozen=True)
class _Cells:
    """Cells of the caches: of layers that see everything, and of those with a window."""

    full: int
    window: int
    streams: int
    n_ubatch: int

    @classmethod
    def of(cls, header: GgufHeader, context: ContextConfig, n_ctx: int) -> _Cells:
        full = _pad(n_ctx, _CELLS)
        # As llama.cpp: never more than a batch, and no batch larger than the context.
        n_ubatch = min(context.n_ubatch or DEFAULT_N_UBATCH, full)
        streams = 1 if context.kv_unified else context.n_parallel
        window = _number(header, "attention.sliding_window") or 0
        if not window or context.swa_full:
            return cls(full, full, streams, n_ubatch)
        sequences = context.n_parallel if context.kv_unified else 1
        own = _pad(min(full // streams, window * sequences + n_ubatch), _CELLS)
        return cls(full, own * streams, streams, n_ubatch)


def _kv_cache(header: GgufHeader, context: ContextConfig, cells: _Cells) -> int:
    kind_k, kind_v = (context.cache_type_k or "f16", context.cache_type_v or "f16")
    total = 0
    for layer in range(_cached_layers(header)):
        width_k, width_v = _kv_widths(header, layer)
        count = cells.window if _is_windowed(header, layer) else cells.full
        total += count * (_row_bytes(width_k, kind_k) + _row_bytes(width_v, kind_v))
    return total + _recurrent_state(header) * context.n_parallel


def _compute(header: GgufHeader, context: ContextConfig, cells: _Cells) -> int:
    """The largest moment of the graph, for one micro-batch.

    Fitted to the CPU backend: with fused attention the feed-forward is the largest (its gate, its up and their product
    beside five activations), without it the attention scores of one layer are.
    """
    embd = _number(header, "embedding_length") or 0
    ff = max((_per_layer(header, "feed_forward_length", layer) for layer in range(_layers(header))), default=0)
    experts = _number(header, "expert_used_count") or 0
    ff = max(ff, experts * (_number(header, "expert_feed_forward_length") or 0))
    masks = cells.full + (cells.window if _number(header, "attention.sliding_window") else 0)
    masks //= cells.streams
    if context.flash_attention == "disabled":
        heads = max((_per_layer(header, "attention.head_count", layer) for layer in range(_layers(header))), default=0)
        width_k, width_v = _kv_widths(header, 0)
        floats = 5 * embd + 2 * (width_k + width_v) + masks + heads * cells.full // cells.streams
        floats = max(floats, 3 * ff + 5 * embd + masks)
        per_token = 4 * floats
    else:
        per_token = 4 * (3 * ff + 5 * embd) + 2 * masks
    logits = 4 * (header.vocabulary or 0) * max(1, context.n_parallel)
    return max(cells.n_ubatch * per_token, logits) + logits


def _vocabulary(header: GgufHeader) -> int:
    merges = header.metadata.get("tokenizer.ggml.merges")
    count = len(merges) if isinstance(merges, (tuple, ArrayRef)) else 0
    return BYTES_PER_TOKEN * (header.vocabulary or 0) + BYTES_PER_MERGE * count


def _kv_widths(header: GgufHeader, layer: int) -> tuple[int, int]:
    """Elements of one key and one value of a layer, over all its heads."""
    latent = _number(header, "attention.kv_lora_rank")
    if latent and _number(header, "attention.key_length_mla"):
        return latent + (_number(header, "rope.dimension_count") or 0), 0  # the value is a part of the key (MLA)
    heads = _per_layer(header, "attention.head_count", layer)
    embd = _number(header, "embedding_length") or 0
    kv_heads = _per_layer(header, "attention.head_count_kv", layer, default=heads)
    per_head = embd // heads if heads else 0
    windowed = "_swa" if _is_windowed(header, layer) else ""
    key = _number(header, f"attention.key_length{windowed}") or _number(header, "attention.key_length") or per_head
    value = (
        _number(header, f"attention.value_length{windowed}") or _number(header, "attention.value_length") or per_head
    )
    return kv_heads * key, kv_heads * value


def _recurrent_state(header: GgufHeader) -> int:
    """Bytes of state of one sequence, in the layers that have no keys and values (Mamba and its kin)."""
    inner = _number(header, "ssm.inner_size") or 0
    if not inner:
        return 0
    state = _number(header, "ssm.state_size") or 0
    groups = _number(header, "ssm.group_count") or 0
    kernel = _number(header, "ssm.conv_kernel") or 1
    per_layer = (kernel - 1) * (inner + 2 * groups * state) + state * inner
    attention = header.hyper("attention.head_count_kv")
    layers = sum(1 for heads in attention if not heads) if isinstance(attention, tuple) else _layers(header)
    return 4 * per_layer * layers


def _is_windowed(header: GgufHeader, layer: int) -> bool:
    if not _number(header, "attention.sliding_window"):
        return False
    pattern = header.hyper("attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return layer < len(pattern) and bool(pattern[layer])
    period = pattern if isinstance(pattern, int) and pattern > 0 else _SWA_PERIODS.get(header.architecture, 0)
    if not period:
        return False  # a window that llama.cpp does not use for this architecture
    return layer % period != 0 if header.architecture == "smallthinker" else layer % period < period - 1


def _cached_layers(header: GgufHeader) -> int:
    """Layers with a cache of their own; the last ones of some models share an earlier one's."""
    if header.architecture == "gemma3n":
        return min(20, _layers(header))
    return max(0, _layers(header) - (_number(header, "attention.shared_kv_layers") or 0))


def _layers(header: GgufHeader) -> int:
    return _number(header, "block_count") or 0


def _per_layer(header: GgufHeader, key: str, layer: int, default: int = 0) -> int:
    """A hyperparameter that is one number for all layers, or an array with one for each."""
    value = header.hyper(key)
    if isinstance(value, tuple):
        value = value[layer] if layer < len(value) else None
    return value if isinstance(value, int) and value >= 0 else default


def _number(header: GgufHeader, key: str) -> int | None:
    value = header.hyper(key)
    return value if isinstance(value, int) and not isinstance(value, ArrayRef) and value >= 0 else None


def _row_bytes(width: int, kind: str) -> int:
    block = _TYPE_BY_NAME[kind]
    return math.ceil(width / block.block_elements) * block.block_bytes


def _pad(value: int, to: int) -> int:
    return -(-value // to) * to


def megabytes(nbytes: int) -> str:
    """A size for people: ``98 MB``, ``1.4 GB`` (powers of ten, as stores and browsers show them)."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 999_500_000 else f"{max(1, round(nbytes / 1e6))} MB"
