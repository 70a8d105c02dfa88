"""How a local model is run: :class:`RuntimeConfig` and its groups.

Names are llama.cpp's. A field that a backend does not honour is refused by name when the model is added; nothing is
ignored and nothing is clamped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ._fields import MOST, build, check, option
from .errors import InvalidOption
from .options import SamplingOptions

LEAST_N_CTX = 8
CacheType = Literal["f32", "f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"]


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """The context: its size, batches, threads and numeric types."""

    n_ctx: int | None = option(
        "Context size, shared by all slots; by default what the model was trained on, at most 4096.",
        low=LEAST_N_CTX,
        high=MOST,
        unit="tokens",
    )
    n_batch: int | None = option("Most tokens in one logical batch of prefill.", low=1, high=MOST, unit="tokens")
    n_ubatch: int | None = option(
        "Most tokens computed in one go: a cancel waits at most this long.", low=1, high=MOST, unit="tokens"
    )
    n_parallel: int = option("Slots: how many requests are computed together.", default=1, low=1, high=64)
    n_threads: int | None = option("CPU threads; by default what the place allows.", low=1, high=256)
    n_threads_batch: int | None = option(
        "CPU threads of prefill, where they shall differ from n_threads.", low=1, high=256
    )
    flash_attention: Literal["auto", "enabled", "disabled"] = option("Fused attention.", default="auto")
    kv_unified: bool | None = option("One KV buffer shared by all slots.")
    cache_type_k: CacheType | None = option("Numeric type of cached keys.")
    cache_type_v: CacheType | None = option("Numeric type of cached values; quantised ones need flash attention.")
    swa_full: bool | None = option("Keep the full cache of sliding-window layers.")
    rope_scaling: Literal["none", "linear", "yarn"] | None = option("RoPE scaling, to stretch the context.")
    rope_freq_base: float | None = option("RoPE base frequency.", low=0)
    rope_freq_scale: float | None = option("RoPE frequency factor.", low=0)
    yarn_orig_ctx: int | None = option("YaRN: the context size of training.", low=0, high=MOST, unit="tokens")
    yarn_ext_factor: float | None = option("YaRN: extrapolation mix.")
    yarn_attn_factor: float | None = option("YaRN: attention scale.")
    yarn_beta_fast: float | None = option("YaRN: low correction dimension.")
    yarn_beta_slow: float | None = option("YaRN: high correction dimension.")
    embeddings: bool | None = option("Load for embedding instead of text; by default what the model file was made for.")
    pooling: Literal["mean", "cls", "last"] | None = option(
        "How token vectors become one vector; by default what the model file says, else mean."
    )
    chat_template: str | None = option("A Jinja template that replaces the model's own.")

    warmup: bool = option("Run the model once while it loads, so that the first request is not slower.", default=False)

    def __post_init__(self) -> None:
        check(self)


class SamplingConfig(SamplingOptions):
    """The model's defaults; a request's own options win."""


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """How requests wait and share the engine."""

    max_queued_requests: int = option(
        "Requests that may wait beyond those being computed; one more is refused.", default=64, low=0
    )
    max_running_requests: int | None = option(
        "Requests that are computed together, where fewer than there are slots.", low=1
    )
    continuous_batching: bool = option("A new request joins those that are being computed.", default=True)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What is kept of earlier requests."""

    prompt_cache: bool = option("Compute only what differs from the slot's last prompt.", default=True)
    context_shift: bool = option(
        "Forget the oldest tokens when the context is full, instead of ending with `length`.", default=False
    )
    n_keep: int | None = option(
        "Tokens at the start that a context shift keeps; -1 keeps the prompt.", low=-1, high=MOST
    )
    n_cache_reuse: int | None = option(
        "Also reuse equal pieces of at least this many tokens that have moved.", low=0, high=MOST, unit="tokens"
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """Where the weights are."""

    n_gpu_layers: int | None = option("Layers on the GPU; by default all where there is one.", low=0, high=MOST)
    main_gpu: int | None = option("The GPU to use, where there are several.", low=0, high=MOST, backends=("native",))
    split_mode: Literal["none", "layer", "row"] | None = option(
        "How several GPUs share the model.", backends=("native",)
    )
    tensor_split: Sequence[float] | None = option("Each GPU's share.", low=0, backends=("native",))

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class MultimodalConfig:
    """Images."""

    image_min_tokens: int | None = option(
        "Fewest tokens for an image, where its size varies.", low=1, high=MOST, unit="tokens"
    )
    image_max_tokens: int | None = option(
        "Most tokens for an image, where its size varies.", low=1, high=MOST, unit="tokens"
    )
    projector_on_gpu: bool | None = option("Run the projector on the GPU too.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ResidencyConfig:
    """How long the model stays in memory."""

    unload_after: float | None = option(
        "Free the memory after this long without a request; the next one loads the model again.",
        low=0,
        unit="seconds",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ObservabilityConfig:
    """What is measured besides the timings of every result."""

    runtime_metrics: bool = option(
        "Add `metrics` to `request_completed`: time in the queue, and the median and 99th percentile between tokens.",
        default=False,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """All groups. Each can be given as its dataclass or as a mapping."""

    context: ContextConfig = dataclasses.field(default_factory=ContextConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    scheduler: SchedulerConfig = dataclasses.field(default_factory=SchedulerConfig)
    cache: CacheConfig = dataclasses.field(default_factory=CacheConfig)
    placement: PlacementConfig = dataclasses.field(default_factory=PlacementConfig)
    multimodal: MultimodalConfig = dataclasses.field(default_factory=MultimodalConfig)
    residency: ResidencyConfig = dataclasses.field(default_factory=ResidencyConfig)
    observability: ObservabilityConfig = dataclasses.field(default_factory=ObservabilityConfig)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            assert callable(item.default_factory)
            cls = item.default_factory
            object.__setattr__(self, item.name, _group(item.name, getattr(self, item.name), cls))

    @classmethod
    def of(cls, value: RuntimeConfig | Mapping[str, Any] | None) -> RuntimeConfig:
        """A config from what a caller may give: itself, a mapping of groups, or nothing."""
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            return build(cls, value, "RuntimeConfig")
        raise InvalidOption("runtime", f"runtime must be a RuntimeConfig or a mapping, not {type(value).__name__}.")


def _group(name: str, value: Any, cls: Any) -> Any:
    if isinstance(value, cls):
        return value
    if isinstance(value, Mapping):
        return build(cls, value, f"RuntimeConfig.{name}")
    raise InvalidOption(
        name, f"RuntimeConfig.{name} must be a {cls.__name__} or a mapping, not {type(value).__name__}."
    )
