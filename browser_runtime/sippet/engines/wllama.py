"""wllama's WebAssembly build of llama.cpp, driven through its message protocol."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from .. import _json
from ..config import RuntimeConfig
from ..errors import (
    ContextOverflow,
    EngineError,
    InvalidModel,
    ModelTooLarge,
    SippError,
    UnsupportedModel,
    UnsupportedOperation,
    UnsupportedOption,
)
from ..models.pairing import POOLING
from . import _glue
from ._host import HostError
from ._hosted import STREAMED, HostedEngine, ModelFiles
from ._overflow import is_overflow
from ._refused import not_loaded, refused
from .base import CallKind, EngineInfo, StreamKind
from .wasm import WasmPlan

MICRO_BATCH = 64
"""Tokens of prefill between two looks at the messages: a cancel waits for this many. Measured: 7 % slower than 512."""

ALL_LAYERS = 999
"""More layers than any model has."""

_OPERATIONS = {
    "tokenize": "tokenizer of its own to call",
    "detokenize": "tokenizer of its own to call",
    "template": "way to apply a chat template alone",
}

_MORE_AT = _glue.field_offset("gres_res", "has_more")
_LENGTH_AT = _glue.field_offset("gres_res", "data_json")


class WllamaEngine(HostedEngine):
    """One model in one engine host."""

    host_name = "wllama"

    @classmethod
    def _open_options(cls, plan: WasmPlan) -> Mapping[str, Any]:
        return {"memory64": plan.build == "wllama", "gpu": plan.gpu}

    async def _load(self, files: ModelFiles, plan: WasmPlan, config: RuntimeConfig, threads: int) -> EngineInfo:
        values = _load_values([file.name for file in files.shards], plan, config)
        values |= {"mmproj_path": f"/models/{files.projector.name}"} if files.projector else {}
        values |= _lora_values([file.name for file in files.lora]) if files.lora else {}
        try:
            reply = await self._call("load", "load_req", values)
        except HostError as error:
            raise _load_error([*error.log, error.message], config) from error
        result = _glue.decode(reply["data"])
        if not result["success"]:
            raise _load_error(reply["log"], config)
        return _info({**result, "log": reply["log"]}, plan, config)

    async def stream(
        self, kind: StreamKind, body: Mapping[str, Any], files: tuple[bytes, ...] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        if kind == "chat":
            messages, files = _take_images(body["messages"], str(self.info.media_marker))
            body = {**body, "messages": messages}
        values = {"is_chat": kind == "chat", "data_json": json.dumps({**body, **STREAMED}), "files": list(files)}
        answers = self._answers(await self._start("completion", "cmpl_req", values))
        try:
            async for chunk in answers:
                yield chunk
        finally:
            await answers.aclose()

    async def _answers(self, request_id: int) -> AsyncGenerator[dict[str, Any], None]:
        """What a request gives, until it has no more; leaving early stops it."""
        poll = _glue.encode("gres_req", {"req_id": request_id})
        message = {"next": poll, "moreAt": _MORE_AT, "emptyAt": _LENGTH_AT}
        try:
            async with aclosing(self._line.stream(message, cancel=lambda: _cancel(request_id))) as replies:
                async for reply in replies:
                    result = _glue.decode(reply["data"])
                    if result["data_json"] in ("", "null"):
                        continue  # a step that brought no text, such as one of prefill
                    content = _json.loads(result["data_json"])
                    if result["is_error"]:
                        raise _request_error(content)
                    for chunk in content if isinstance(content, list) else [content]:
                        yield chunk
        except HostError as error:
            raise _call_error(error) from error

    async def call(self, kind: CallKind, body: Mapping[str, Any]) -> dict[str, Any]:
        if kind == "embedding":
            # Several inputs in one action would be lost beyond the first slots, so each goes alone.
            replies = [await self._ask("embedding", "embd_req", {**body, "input": text}) for text in body["input"]]
            rows = [{**reply["data"][0], "index": index} for index, reply in enumerate(replies)]
            tokens = sum(reply["usage"]["prompt_tokens"] for reply in replies)
            return {"data": rows, "usage": {"prompt_tokens": tokens}}
        if kind == "rerank":
            query, documents = body["query"], body["documents"]
            replies = [
                await self._ask("rerank", "rrnk_req", {"query": query, "document": document}) for document in documents
            ]
            rows = [{"index": index, "relevance_score": reply["score"]} for index, reply in enumerate(replies)]
            tokens = sum(reply["tokens_evaluated"] for reply in replies)
            return {"results": rows, "usage": {"prompt_tokens": tokens}}
        raise UnsupportedOperation(
            f"wllama's engine has no {_OPERATIONS[kind]}.",
            hint="Sippet's own engine has it; so have native and llama-server endpoints.",
            details={"engine": self.info.engine, "operation": kind},
        )

    async def _ask(self, action: str, message: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One request with one answer."""
        values: dict[str, Any] = {"data_json": json.dumps(body)}
        if action == "embedding":
            values["files"] = []
        chunks = [chunk async for chunk in self._answers(await self._start(action, message, values))]
        return dict(chunks[-1])

    async def _start(self, action: str, message: str, values: Mapping[str, Any]) -> int:
        """Begin a request. One whose caller goes away meanwhile is stopped, and only then is its slot free: this build
        loses a request that comes to it while every slot is taken."""
        call = asyncio.ensure_future(self._call(action, message, values))
        try:
            reply = await asyncio.shield(call)
        except HostError as error:
            raise _call_error(error) from error
        except asyncio.CancelledError:
            call.add_done_callback(self._abandon)
            await asyncio.wait([call])
            raise
        return int(_glue.decode(reply["data"])["req_id"])

    def _abandon(self, call: asyncio.Future[dict[str, Any]]) -> None:
        if not call.cancelled() and call.exception() is None:
            request_id = _glue.decode(call.result()["data"])["req_id"]
            self._line.send({**_cancel(request_id), "op": "cancel"})

    async def _call(self, action: str, message: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return await self._line.request({"op": "call", "name": action, "data": _glue.encode(message, values)})


def _cancel(request_id: int) -> dict[str, Any]:
    return {"frame": _glue.encode("cncl_req", {"req_id": request_id})}


def _call_error(error: HostError) -> SippError:
    """The failure of a request to a loaded model."""
    if error.crashed:
        return error.to_crash()
    return refused(_reason(error.log))


def _take_images(messages: Sequence[Mapping[str, Any]], marker: str) -> tuple[list[dict[str, Any]], tuple[bytes, ...]]:
    """The messages with a marker for each image, and the images: this build does not read ``data:`` URLs itself."""
    files: list[bytes] = []

    def part(item: Mapping[str, Any]) -> Mapping[str, Any]:
        if item.get("type") != "image_url":
            return item
        files.append(base64.b64decode(item["image_url"]["url"].partition(",")[2]))
        return {"type": "text", "text": marker}

    taken = [
        {**message, "content": [part(item) for item in message["content"]]}
        if isinstance(message.get("content"), list)
        else dict(message)
        for message in messages
    ]
    return taken, tuple(files)


def _load_values(names: list[str], plan: WasmPlan, config: RuntimeConfig) -> dict[str, Any]:
    context, cache, multimodal = config.context, config.cache, config.multimodal
    layers = ALL_LAYERS if config.placement.n_gpu_layers is None else config.placement.n_gpu_layers
    micro_batch = context.n_ubatch or context.n_batch or MICRO_BATCH
    if context.pooling == "last":
        raise UnsupportedOption(
            "pooling", "wllama's engine knows the pooling mean and cls, not last.", hint="Sippet's own engine has it."
        )
    values: dict[str, Any] = {
        "model_paths": [f"/models/{name}" for name in names],
        "n_ctx_auto": False,
        "use_mmap": False,
        "use_mlock": False,
        "n_gpu_layers": layers if plan.gpu else 0,
        "n_ctx": context.n_ctx,
        "n_threads": plan.threads,
        "n_batch": context.n_batch or micro_batch,
        "n_ubatch": micro_batch,
        "n_parallel": context.n_parallel,
        "mmproj_offload": multimodal.projector_on_gpu,
        "image_min_tokens": multimodal.image_min_tokens,
        "image_max_tokens": multimodal.image_max_tokens,
        "kv_unified": context.kv_unified,
        "flash_attn": context.flash_attention != "disabled",
        "cache_type_k": context.cache_type_k,
        "cache_type_v": context.cache_type_v,
        "swa_full": context.swa_full,
        "rope_freq_base": context.rope_freq_base,
        "rope_freq_scale": context.rope_freq_scale,
        "yarn_orig_ctx": context.yarn_orig_ctx,
        "yarn_ext_factor": context.yarn_ext_factor,
        "yarn_attn_factor": context.yarn_attn_factor,
        "yarn_beta_fast": context.yarn_beta_fast,
        "yarn_beta_slow": context.yarn_beta_slow,
        "embeddings": bool(context.embeddings),
        "pooling_type": context.pooling and f"LLAMA_POOLING_TYPE_{context.pooling.upper()}",
        "rope_scaling_type": context.rope_scaling and f"LLAMA_ROPE_SCALING_TYPE_{context.rope_scaling.upper()}",
        "chat_template": context.chat_template,
        "jinja": True,
        "warmup": context.warmup,
        "ctx_shift": cache.context_shift,
        "n_keep": cache.n_keep,
        "n_cache_reuse": cache.n_cache_reuse,
        "log_level": 2,
    }
    return values


def _lora_values(names: list[str]) -> dict[str, Any]:
    """Adapters are loaded, and off until a request turns them on."""
    return {
        "lora_paths": [f"/models/{name}" for name in names],
        "lora_scales": [1.0] * len(names),
        "lora_init_without_apply": True,
    }


def _info(reply: Mapping[str, Any], plan: WasmPlan, config: RuntimeConfig) -> EngineInfo:
    metadata = dict(zip(reply["metadata_key"], reply["metadata_val"], strict=False))
    pooling = metadata.get(f"{metadata.get('general.architecture')}.pooling_type", "")
    # llama.cpp goes over to the CPU without a word; where the weights lie is said in the log alone.
    on_gpu = any("WebGPU" in line and "model buffer size" in line for line in reply["log"])
    degraded = plan.degraded
    if plan.gpu and not on_gpu:
        degraded += ("The model runs on the CPU: the engine could not use the WebGPU adapter. Use backend='cpu'.",)
    return EngineInfo(
        engine=plan.engine,
        has_vision=bool(reply["has_image_input"]),
        embeds=bool(config.context.embeddings),
        pooling=config.context.pooling or POOLING.get(int(pooling) if pooling.isdigit() else 0),
        media_marker=reply["media_marker"] or "<__media__>",
        backend="wasm",
        accelerator="webgpu" if on_gpu else "cpu",
        threads=plan.threads,
        n_ctx=reply["n_ctx"],
        n_parallel=config.context.n_parallel,
        n_vocab=reply["n_vocab"],
        n_embd=reply["n_embd"],
        has_chat_template=bool(config.context.chat_template or metadata.get("tokenizer.chat_template")),
        metadata=metadata,
        degraded=degraded,
    )


def _memory_is_out(texts: Sequence[str]) -> bool:
    return any(
        sign in text.lower() for text in texts for sign in ("out of memory", "bad_alloc", "failed to allocate", "oom")
    )


def _load_error(log: list[str], config: RuntimeConfig) -> SippError:
    reason = _reason(log)
    details = {"log": log}
    if _memory_is_out(log):
        return ModelTooLarge(
            f"The model does not fit into this browser's memory: {reason}",
            hint="Take a smaller model or quantisation, or a smaller RuntimeConfig.context.n_ctx.",
            details=details,
        )
    if any("unknown model architecture" in line or "unsupported" in line for line in log):
        return UnsupportedModel(
            f"The engine can't run this model: {reason}", hint="Take another model.", details=details
        )
    failure = InvalidModel(
        f"The model file can't be loaded: {reason}",
        hint="The file may be damaged: download it again, or take another one.",
        details={"reason": "engine", **details},
    )
    return not_loaded(failure, config.context.chat_template)


def _request_error(content: Mapping[str, Any]) -> SippError:
    error = content.get("error", content)
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error" or "context size" in message or is_overflow(message):
        return ContextOverflow(message, details={k: error[k] for k in ("n_prompt_tokens", "n_ctx") if k in error})
    if error.get("type") == "invalid_request_error":
        return refused(message)
    return EngineError(f"The engine failed: {message}")


def _reason(log: Sequence[str]) -> str:
    """The last lines of the log that are errors, without the log's own marks."""
    errors = [line.split("@@", 2)[-1].strip() for line in log if "@@ERROR" in line]
    return "; ".join(errors[-3:]) or (log[-1].split("@@", 2)[-1].strip() if log else "no reason was given")
