"""Sippet's own WebAssembly build of llama.cpp (``browser_runtime/engine``): llama-server's JSON, as it is."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from ..config import RuntimeConfig
from ..errors import (
    ContextOverflow,
    EngineError,
    InvalidModel,
    InvalidOption,
    ModelNotFound,
    ModelTooLarge,
    SippError,
    UnsupportedModel,
    UnsupportedOperation,
)
from ..models.pairing import POOLING
from ..platform.base import EngineAssets, EnginePort
from ._host import HostError, HostLine
from .base import CallKind, Engine, EngineInfo, StreamKind
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


class SippetEngine(Engine):
    """One model in one engine host."""

    def __init__(self, line: HostLine) -> None:
        self._line = line

    @classmethod
    async def load(
        cls,
        port: EnginePort,
        assets: EngineAssets,
        files: Sequence[Any],
        plan: WasmPlan,
        config: RuntimeConfig,
        *,
        projector: Any = None,
        lora: Sequence[Any] = (),
    ) -> SippetEngine:
        """Open the module and load a model into it; on any failure the host is ended.

        Args:
            port: a fresh engine host.
            assets: where the module's files are.
            files: the model's files as :meth:`Platform.engine_file` makes them, in order.
            plan: how to run.
            config: the model's configuration.
            projector: the image projector's file.
            lora: the files of LoRA adapters; they are off until a request turns them on.
        """
        engine = cls(HostLine(port))
        started = time.perf_counter()
        extra = [projector] if projector else []
        try:
            opened = await engine._line.open(
                "sippet", assets, threads=plan.threads, suspend=plan.suspend, files=[*files, *extra, *lora]
            )
            values = {"model": files[0].name, **_load_values(config)}
            values |= {"mmproj": projector.name} if projector else {}
            values |= {"lora": [{"path": adapter.name, "scale": 0} for adapter in lora]} if lora else {}
            info = await engine._operation("load", values)
        except BaseException:
            engine._line.close()
            raise
        engine.info = _info(info, opened["threads"], plan, (time.perf_counter() - started) * 1e3)
        return engine

    async def stream(
        self, kind: StreamKind, body: Mapping[str, Any], files: tuple[bytes, ...] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        request = {
            **body,
            "stream": True,
            "stream_options": {"include_usage": True},
            "timings_per_token": True,  # real counts, also for a run that is cancelled
        }
        async with aclosing(self._chunks(kind, request, files)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def call(self, kind: CallKind, body: Mapping[str, Any]) -> dict[str, Any]:
        if kind not in ("embedding", "rerank"):
            return await self._operation(kind, body)
        async with aclosing(self._chunks(kind, body, ())) as chunks:
            return [chunk async for chunk in chunks][-1]

    async def memory_bytes(self) -> int:
        """WebAssembly memory that the engine holds now, in bytes."""
        return int((await self._line.request({"op": "memory"}))["bytes"])

    async def close(self) -> None:
        self._line.close()

    async def _chunks(
        self, kind: str, body: Mapping[str, Any], files: tuple[bytes, ...]
    ) -> AsyncGenerator[dict[str, Any], None]:
        message = {"kind": kind, "data": json.dumps(body), "media": list(files)}
        try:
            async with aclosing(self._line.stream(message, cancel=dict)) as replies:
                async for reply in replies:
                    for chunk in json.loads(reply["data"]):
                        yield chunk
        except HostError as error:
            raise _error(error) from error

    async def _operation(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            reply = await self._line.request({"op": "call", "name": name, "data": json.dumps(body)})
        except HostError as error:
            raise _error(error) from error
        answer: dict[str, Any] = json.loads(reply["data"])
        return answer


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


def _info(info: Mapping[str, Any], threads: int, plan: WasmPlan, load_ms: float) -> EngineInfo:
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
        load_ms=load_ms,
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
    if error.code in _ERRORS:
        cls, hint = _ERRORS[error.code]
        details = {"log": error.log, "reason": "engine"} if issubclass(cls, InvalidModel) else {"log": error.log}
        return cls(f"The engine says: {error.message}.", hint=hint, details=details)
    return InvalidOption("request", f"The engine refused the request: {error.message}.", hint="Change the request.")
