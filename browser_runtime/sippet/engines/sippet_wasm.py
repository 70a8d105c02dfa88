"""Sippet's own WebAssembly build of llama.cpp (``browser_runtime/engine``): llama-server's JSON, as it is."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from .. import _json
from ..config import RuntimeConfig
from ..errors import (
    ContextOverflow,
    EngineError,
    InvalidModel,
    ModelNotFound,
    ModelTooLarge,
    SippError,
    UnsupportedModel,
    UnsupportedOperation,
)
from ..models.pairing import POOLING
from ._host import HostError
from ._hosted import STREAMED, HostedEngine, ModelFiles
from ._overflow import is_overflow
from ._refused import not_loaded, refused
from .base import CallKind, EngineInfo, StreamKind
from .wasm import WasmPlan

_FLASH = {"auto": "auto", "enabled": "on", "disabled": "off"}

_SAME_NAME = (
    "n_ctx", "n_parallel", "kv_unified", "cache_type_k", "cache_type_v", "swa_full", "rope_freq_base",
    "rope_freq_scale", "pooling", "chat_template",
)  # fmt: skip

_ERRORS: Mapping[str, tuple[type[SippError], str]] = {
    "not_supported": (UnsupportedOperation, "Use a model that can, loaded for it."),
    "model_not_found": (ModelNotFound, "Check the model's files."),
    "model_invalid": (InvalidModel, "The file may be damaged: download it again, or take another one."),
    "model_unsupported": (UnsupportedModel, "Take another model, or a newer Sippet."),
    "out_of_memory": (ModelTooLarge, "Take a smaller model or quantisation, or a smaller RuntimeConfig.context.n_ctx."),
    "context_exceeded": (ContextOverflow, ContextOverflow.default_hint),
    "decode_failed": (EngineError, "Send the request again."),
}


class SippetEngine(HostedEngine):
    """One model in one engine host."""

    host_name = "sippet"

    async def _load(self, files: ModelFiles, plan: WasmPlan, config: RuntimeConfig, threads: int) -> EngineInfo:
        values = {"model": files.shards[0].name, **_load_values(config)}
        values |= {"mmproj": files.projector.name} if files.projector else {}
        values |= {"lora": [{"path": adapter.name, "scale": 0} for adapter in files.lora]} if files.lora else {}
        try:
            return _info(await self._operation("load", values), threads, plan)
        except InvalidModel as error:
            raise not_loaded(error, config.context.chat_template) from error

    async def stream(
        self, kind: StreamKind, body: Mapping[str, Any], files: tuple[bytes, ...] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._chunks(kind, {**body, **STREAMED}, files)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def call(self, kind: CallKind, body: Mapping[str, Any]) -> dict[str, Any]:
        if kind not in ("embedding", "rerank"):
            return await self._operation(kind, body)
        async with aclosing(self._chunks(kind, body, ())) as chunks:
            return [chunk async for chunk in chunks][-1]

    async def save_slot(self, slot: int) -> bytes:
        return bytes((await self._ask("slotSave", {"slot": slot}))["data"])

    async def restore_slot(self, slot: int, data: bytes) -> None:
        await self._ask("slotRestore", {"slot": slot}, bytes=data)

    async def _chunks(
        self, kind: str, body: Mapping[str, Any], files: tuple[bytes, ...]
    ) -> AsyncGenerator[dict[str, Any], None]:
        message = {"kind": kind, "data": json.dumps(body), "media": list(files)}
        try:
            async with aclosing(self._line.stream(message, cancel=dict)) as replies:
                async for reply in replies:
                    for chunk in _json.loads(reply["data"]):
                        yield chunk
        except HostError as error:
            raise _error(error) from error

    async def _operation(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = _json.loads((await self._ask(name, body))["data"])
        return answer

    async def _ask(self, name: str, body: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        try:
            return await self._line.request({"op": "call", "name": name, "data": json.dumps(body), **more})
        except HostError as error:
            raise _error(error) from error


def _load_values(config: RuntimeConfig) -> dict[str, Any]:
    context, multimodal = config.context, config.multimodal
    values = {name: getattr(context, name) for name in _SAME_NAME}
    values |= {
        "n_batch": context.n_ubatch or context.n_batch,  # this engine computes a batch in one go
        "flash_attn": _FLASH[context.flash_attention],
        "embedding": context.embeddings or None,
        "warmup": context.warmup or None,
        "context_shift": config.cache.context_shift or None,
        "image_min_tokens": multimodal.image_min_tokens,
        "image_max_tokens": multimodal.image_max_tokens,
    }
    return {name: value for name, value in values.items() if value is not None}


def _info(info: Mapping[str, Any], threads: int, plan: WasmPlan) -> EngineInfo:
    degraded = plan.degraded
    if threads < plan.threads:
        degraded += (f"{threads} of {plan.threads} threads: the others' workers did not start. Reload the page.",)
    return EngineInfo(
        engine="sippet",
        backend="wasm",
        accelerator="cpu",
        threads=threads,
        n_ctx=info["n_ctx"],
        n_parallel=info["n_parallel"],
        n_vocab=info["n_vocab"],
        n_embd=info["n_embd"],
        has_chat_template=info["has_chat_template"],
        has_vision=info["vision"],
        embeds=info["embedding"],
        pooling=POOLING.get(info["pooling"]),
        metadata=info["metadata"],
        degraded=degraded,
    )


def _error(error: HostError) -> SippError:
    if error.crashed:
        return error.to_crash()
    code = "context_exceeded" if is_overflow(error.message) else error.code
    if code in _ERRORS:
        cls, hint = _ERRORS[code]
        details = {"log": error.log, "reason": "engine"} if issubclass(cls, InvalidModel) else {"log": error.log}
        return cls(f"The engine says: {error.message}.", hint=hint, details=details)
    return refused(error.message)
