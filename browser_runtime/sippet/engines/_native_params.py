"""From Sippet's names to llama.cpp's parameters: what the native engine honours, and what it refuses."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._fields import given
from ..config import RuntimeConfig, SamplingConfig
from ..errors import UnsupportedOption

BATCH = 64
"""Tokens of prefill between two looks at cancels and at other requests' turns. Larger ones are hardly faster on a
CPU."""
GPU_BATCH = 512
""":data:`BATCH` where a GPU computes, which small ones leave idle."""
MAX_DEVICES = 128
"""llama.cpp wants a share for each that could be."""

Value = Any
Assign = Callable[[Any], Mapping[str, Value]]


def _same(name: str) -> Assign:
    return lambda value: {name: value}


def _enum(name: str, kind: str, prefix: str, members: Mapping[str, str] | None = None) -> Assign:
    def assign(value: str) -> Mapping[str, Value]:
        member = (members or {}).get(value, value.upper())
        return {name: {"enum": [kind, prefix + member]}}

    return assign


def _threads(value: int) -> Mapping[str, Value]:
    return {"cpuparams.n_threads": value, "cpuparams_batch.n_threads": value}


_POOLING = _enum("pooling_type", "llama_pooling_type", "LLAMA_POOLING_TYPE_")

HONOURED: Mapping[str, Mapping[str, Assign | None]] = {
    "context": {
        "n_ctx": _same("n_ctx"),
        "n_batch": _same("n_batch"),
        "n_ubatch": _same("n_ubatch"),
        "n_parallel": _same("n_parallel"),
        "n_threads": _threads,
        "flash_attention": _enum("flash_attn_type", "llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_"),
        "kv_unified": _same("kv_unified"),
        "cache_type_k": _enum("cache_type_k", "ggml_type", "GGML_TYPE_"),
        "cache_type_v": _enum("cache_type_v", "ggml_type", "GGML_TYPE_"),
        "swa_full": _same("swa_full"),
        "rope_scaling": _enum("rope_scaling_type", "llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_"),
        "rope_freq_base": _same("rope_freq_base"),
        "rope_freq_scale": _same("rope_freq_scale"),
        "yarn_orig_ctx": _same("yarn_orig_ctx"),
        "yarn_ext_factor": _same("yarn_ext_factor"),
        "yarn_attn_factor": _same("yarn_attn_factor"),
        "yarn_beta_fast": _same("yarn_beta_fast"),
        "yarn_beta_slow": _same("yarn_beta_slow"),
        "embeddings": _same("embedding"),
        "pooling": _POOLING,
        "chat_template": _same("chat_template"),
        "n_threads_batch": _same("cpuparams_batch.n_threads"),
        "warmup": _same("warmup"),
    },
    "scheduler": {
        "max_queued_requests": None,
        "max_running_requests": None,
        "continuous_batching": _same("cont_batching"),
    },
    "cache": {
        "prompt_cache": None,
        "context_shift": _same("ctx_shift"),
        "n_keep": _same("n_keep"),
        "n_cache_reuse": _same("n_cache_reuse"),
    },
    "placement": {
        "n_gpu_layers": _same("n_gpu_layers"),
        "main_gpu": _same("main_gpu"),
        "split_mode": _enum("split_mode", "llama_split_mode", "LLAMA_SPLIT_MODE_"),
        "tensor_split": lambda value: {"tensor_split": [*value, *[0.0] * (MAX_DEVICES - len(value))]},
    },
    "multimodal": {
        "image_min_tokens": _same("image_min_tokens"),
        "image_max_tokens": _same("image_max_tokens"),
        "projector_on_gpu": _same("mmproj_use_gpu"),
    },
    "sampling": dict.fromkeys((item.name for item in dataclasses.fields(SamplingConfig)), None),  # in each request
    "residency": {"unload_after": None},
    "observability": {"runtime_metrics": None},
}
"""Group → field → what it sets; ``None`` is honoured above the engine."""


GPU_ONLY = (
    ("placement", "n_gpu_layers"),
    ("placement", "main_gpu"),
    ("placement", "split_mode"),
    ("placement", "tensor_split"),
    ("multimodal", "projector_on_gpu"),
)
"""Fields that mean something only where a GPU is."""


def gpu_options(config: RuntimeConfig) -> list[str]:
    """The fields in use that need a GPU."""
    return [name for group, name in GPU_ONLY if getattr(getattr(config, group), name)]


def native_params(
    config: RuntimeConfig, files: Sequence[Path], projector: Path | None, *, gpu: bool, ranks: bool = False
) -> dict[str, Any]:
    """Parameters for the worker: dotted names of llama.cpp's, constants as ``{"enum": [type, member]}``.

    Args:
        config: with a context size.
        files: the model's shards.
        projector: its image projector.
        gpu: let layers go to a GPU that the wheel knows of.
        ranks: the model is a reranker.

    Raises:
        UnsupportedOption: a field that was given has no meaning here.
    """
    batch = config.context.n_ubatch or config.context.n_batch or BATCH
    if config.context.embeddings and config.context.n_ubatch is None:
        batch = config.context.n_batch or config.context.n_ctx or BATCH  # a text to embed is computed in one go
    found: dict[str, Any] = {
        "model.path": str(files[0]),
        "offline": True,
        "warmup": False,
        "fit_params": False,  # a context smaller than was asked for would be a surprise
        "cache_ram_mib": 0,  # a cache beside the slots', of 8 GiB unless told otherwise
        "verbosity": 1,  # errors: the reasons of a failed load
        "n_gpu_layers": -1 if gpu else 0,
        "n_batch": config.context.n_batch or batch,
        "n_ubatch": batch,
        "n_parallel": config.context.n_parallel,
        **_threads(default_threads()),
    }
    if projector is not None:
        found["mmproj.path"] = str(projector)
        found["mmproj_use_gpu"] = gpu
    if ranks:  # the server reranks only where it was told so, whatever the model's file says
        found |= _POOLING("rank")
    for group in dataclasses.fields(config):
        honoured = HONOURED.get(group.name, {})
        for name, value in given(getattr(config, group.name)).items():
            if name not in honoured:
                raise UnsupportedOption(
                    name,
                    f"The native engine does not support {group.name}.{name}.",
                    hint="Leave it out.",
                )
            assign = honoured[name]
            if assign is not None:
                found |= assign(value)
    return found


def default_threads() -> int:
    """As many as the processors that this process may use; half of many, for they come in pairs."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows can't tell
        cores = os.cpu_count() or 1
    return cores if cores <= 4 else cores // 2
