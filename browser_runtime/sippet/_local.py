"""Loading a model that runs here: fetch, check, load, with progress."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import platform
from .capabilities import ENGINES, refuse_unsupported_runtime
from .config import RuntimeConfig
from .endpoints import LocalModel
from .engines.base import Engine
from .engines.sippet_wasm import SippetEngine
from .engines.wasm import EngineChoice, WasmPlan, plan
from .engines.wllama import WllamaEngine
from .errors import AssetError, EngineCrashed, InvalidOption, UnsupportedOption
from .events import Status
from .models.gguf import GgufHeader, check_model, check_shards, read_header
from .models.pairing import check_adapter, check_projector, pooling_of
from .platform.base import EngineAssets

if TYPE_CHECKING:
    from .client import ClientOptions

REPORT_EVERY = 0.1  # seconds between two reports of a download
DEFAULT_CONTEXT = 4096  # tokens; a larger context is the caller's choice, for its memory
RATE_OVER = 3.0  # seconds that the rate is averaged over


async def load(model: LocalModel, options: ClientOptions, progress: Callable[[Status], None]) -> Engine:
    """Fetch and load ``model``.

    Args:
        model: what to load.
        options: where and how the engine runs.
        progress: called with every step.
    """
    place = platform.current()
    progress(Status("checking", "Checking what this place can do."))
    environment = await place.environment()
    runtime = RuntimeConfig.of(model.runtime)
    how = plan(
        environment,
        execution_mode=options.execution_mode,
        wasm_threading=options.wasm_threading,
        backend=model.backend,
        n_threads=runtime.context.n_threads,
        engine=options.engine,
    )
    how = _honouring(how, environment, runtime, options.engine)
    if not how.gpu:
        _refuse_gpu_options(runtime)
    place.trust(options.trusted_origins)
    _check_addresses(place, options)
    sources = [await place.open_source(source, Download(progress)) for source in model.sources]
    header = await check(sources)
    projector, adapters = None, []
    if model.projector is not None:
        projector = await place.open_source(model.projector, Download(progress))
        check_projector(await read_header(projector), header)
    for adapter in model.lora:
        adapters.append(await place.open_source(adapter, Download(progress)))
        check_adapter(await read_header(adapters[-1]), header)
    progress(Status("loading", "Loading the model into memory.", sum(source.size for source in sources)))
    files = _Files(
        [place.engine_file(source) for source in sources],
        place.engine_file(projector) if projector else None,
        [place.engine_file(adapter) for adapter in adapters],
    )
    return await _start(place, options, environment, how, files, fitted(runtime, header))


@dataclass(frozen=True)
class _Files:
    """A model's files as an engine host takes them."""

    shards: Sequence[Any]
    projector: Any
    lora: Sequence[Any]


async def _start(
    place: platform.Platform,
    options: ClientOptions,
    environment: platform.Environment,
    how: WasmPlan,
    files: _Files,
    runtime: RuntimeConfig,
) -> Engine:
    """Load the model into the engine of the plan; where our own can't start, into the fallback."""

    async def start(engine: type[SippetEngine] | type[WllamaEngine]) -> Engine:
        assets = place.engine_assets(how.build)
        if options.module_url and options.wasm_url:
            assets = EngineAssets(options.module_url, options.wasm_url, assets.pthread_url)
        port = place.engine_port(how.mode, options.worker_url)
        return await engine.load(port, assets, files.shards, how, runtime, projector=files.projector, lora=files.lora)

    if how.engine == "wllama":
        return await start(WllamaEngine)
    try:
        return await start(SippetEngine)
    except (AssetError, EngineCrashed) as error:
        if options.engine != "auto" or options.module_url:
            raise
        how = how.on_wllama(environment, f"ours could not start. {error.message}")
        return await start(WllamaEngine)


def _honouring(
    how: WasmPlan, environment: platform.Environment, runtime: RuntimeConfig, choice: EngineChoice
) -> WasmPlan:
    """The plan, or where only the fallback honours the configuration and the choice is free, the plan on that."""
    try:
        refuse_unsupported_runtime(runtime, how.engine, ENGINES[how.engine])
    except UnsupportedOption as refused:
        if how.engine == "wllama" or choice != "auto":
            raise
        how = how.on_wllama(environment, f"ours has no {refused.option}.")
        refuse_unsupported_runtime(runtime, how.engine, ENGINES[how.engine])
    return how


async def check(sources: Sequence[platform.Source]) -> GgufHeader:
    """Refuse what is not a sound model before any engine sees it. Returns the first file's header."""
    headers = [await read_header(source) for source in sources]
    check_shards(headers)
    check_model(headers[0])
    return headers[0]


def fitted(runtime: RuntimeConfig, header: GgufHeader) -> RuntimeConfig:
    """The configuration with what the model file decides: context size, and whether and how it embeds."""
    context = runtime.context
    changes: dict[str, Any] = {}
    if context.n_ctx is None:
        changes["n_ctx"] = min(header.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    embeds = pooling_of(header) is not None if context.embeddings is None else context.embeddings
    changes["embeddings"] = embeds
    if embeds:
        # A text that is pooled must be computed in one go.
        whole = context.n_ctx or changes["n_ctx"]
        changes["n_ubatch"] = context.n_ubatch or whole
        changes["n_batch"] = context.n_batch or whole
        if context.pooling is None and pooling_of(header) is None:
            changes["pooling"] = "mean"
    return dataclasses.replace(runtime, context=dataclasses.replace(context, **changes))


def _refuse_gpu_options(runtime: RuntimeConfig) -> None:
    for group, name in (("placement", "n_gpu_layers"), ("multimodal", "projector_on_gpu")):
        if getattr(getattr(runtime, group), name):
            raise UnsupportedOption(
                name, f"RuntimeConfig.{group} does not support {name} here: the model runs on the CPU.",
                hint='Leave it out, or add the model with backend="webgpu".',
            )  # fmt: skip


def _check_addresses(place: platform.Platform, options: ClientOptions) -> None:
    for name in ("module_url", "wasm_url", "worker_url"):
        url = getattr(options, name)
        if url is not None and not place.is_trusted(url):
            raise InvalidOption(name, f"{name} is not of a trusted origin.", hint="Name its origin in trusted_origins.")


class Download:
    """Turns byte counts into statuses, a few a second."""

    def __init__(self, progress: Callable[[Status], None]) -> None:
        self._progress = progress
        self._marks: list[tuple[float, int]] = []
        self._reported = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        self._marks = [mark for mark in self._marks if now - mark[0] < RATE_OVER]
        self._marks.append((now, done))
        if now - self._reported < REPORT_EVERY and done != total:
            return
        self._reported = now
        rate = self._rate(now, done)
        eta = (total - done) / rate if rate and total else None
        self._progress(Status("downloading", "Downloading the model.", done, total, rate, eta))

    def _rate(self, now: float, done: int) -> float | None:
        start, before = self._marks[0]
        return (done - before) / (now - start) if now > start else None
