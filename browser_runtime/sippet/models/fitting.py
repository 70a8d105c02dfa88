"""What a model file decides of its own configuration, and whether it then fits into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..config import LEAST_N_CTX, ContextConfig, RuntimeConfig
from ..errors import InvalidOption
from ..platform.base import Environment
from .header import GgufHeader
from .pairing import pooling_of
from .plan import DEFAULT_N_CTX, MemoryLimit, MemoryPlan, memory_limit, plan_memory


def fitted(runtime: RuntimeConfig, header: GgufHeader) -> RuntimeConfig:
    """The configuration with what the model file decides: context size, and whether and how it embeds.

    Raises:
        InvalidOption: the configuration contradicts it.
    """
    return dataclasses.replace(runtime, context=fitted_context(runtime.context, header))


def fitted_context(context: ContextConfig, header: GgufHeader) -> ContextConfig:
    """The group ``context`` of :func:`fitted`."""
    changes: dict[str, Any] = {}
    if context.n_ctx is None:
        # A larger context is the caller's choice, for its memory.
        changes["n_ctx"] = max(LEAST_N_CTX, min(header.context_length or DEFAULT_N_CTX, DEFAULT_N_CTX))
    embeds = pooling_of(header) is not None if context.embeddings is None else context.embeddings
    changes["embeddings"] = embeds
    if embeds:
        # A text that is pooled must be computed in one go.
        whole = context.n_ctx or changes["n_ctx"]
        changes["n_ubatch"] = context.n_ubatch or whole
        changes["n_batch"] = context.n_batch or whole
        if context.pooling is None and pooling_of(header) is None:
            changes["pooling"] = "mean"
        if context.n_parallel > 1:
            changes["kv_unified"] = _one_buffer(context.kv_unified)
    return dataclasses.replace(context, **changes)


def _one_buffer(kv_unified: bool | None) -> bool:
    """Slots that embed must share one KV buffer. Where each has its own, llama.cpp cuts texts of different lengths that
    are computed together into pieces, and the last piece alone is pooled.
    """
    if kv_unified is False:
        raise InvalidOption(
            "kv_unified", "kv_unified is False, but slots that embed share one buffer.", hint="Leave kv_unified out."
        )
    return True


def limit_of(place: Environment, taken: int = 0) -> MemoryLimit:
    """What one more model may take in a place where others take ``taken`` bytes."""
    wasm = place.name == "browser"
    return memory_limit(device_memory=place.device_memory, wasm=wasm, wasm_memory=place.wasm_memory, taken=taken)


def require_memory(
    headers: Sequence[GgufHeader],
    context: ContextConfig,
    place: Environment,
    extra: Sequence[GgufHeader] = (),
    taken: int = 0,
) -> MemoryPlan:
    """The plan of a model that is about to be loaded.

    Args:
        headers: of its files, in order.
        context: fitted to it.
        place: where it is to run, on the CPU.
        extra: of files that are loaded with it: its projector, its adapters.
        taken: bytes that other models take there.

    Raises:
        ModelTooLarge: it would not fit.
    """
    weights = sum(tensor.nbytes for header in extra for tensor in header.tensors)
    limit = limit_of(place, taken)
    plan = plan_memory(headers, context, limit=limit, extra=weights)
    plan.require()
    return plan
