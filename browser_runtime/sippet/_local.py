"""Loading a model that runs here: fetch, check, load, with progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import platform
from ._contexts import identifier
from .capabilities import ENGINES, refuse_unsupported_runtime
from .config import RuntimeConfig
from .endpoints import LocalModel
from .engines._hosted import HostedEngine, ModelFiles
from .engines.base import Engine
from .engines.sippet_wasm import SippetEngine
from .engines.wasm import EngineChoice, WasmPlan, plan
from .engines.wllama import WllamaEngine
from .errors import AssetError, EngineCrashed, InvalidOption, RemoteError, UnsupportedOption
from .events import Status
from .models.checks import check_model, check_shards
from .models.fitting import fitted, require_memory
from .models.gguf import read_header
from .models.header import GgufHeader
from .models.pairing import check_adapter, check_projector
from .platform.base import EngineAssets

if TYPE_CHECKING:
    from ._room import Room
    from .client import ClientOptions

REPORT_EVERY = 0.1  # seconds between two reports of a download
RATE_OVER = 3.0  # seconds that the rate is averaged over


async def load(model: LocalModel, options: ClientOptions, progress: Callable[[Status], None], room: Room) -> Engine:
    """Fetch and load ``model``.

    Args:
        model: what to load.
        options: where and how the engine runs.
        progress: called with every step.
        room: the memory for it.
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
    if not how.gpu:
        await _require_room(model, runtime, environment, room)
    sources = [await place.open_source(source, Download(progress)) for source in model.sources]
    headers = await check(sources)
    projector, adapters, extra = await open_companions(place, model, headers[0], progress)
    runtime = fitted(runtime, headers[0])
    memory = 0  # on a GPU it takes the GPU's
    if not how.gpu:
        memory = require_memory(headers, runtime.context, environment, extra, room.taken()).total
        room.reserve(memory)
    progress(Status("loading", "Loading the model into memory.", sum(source.size for source in sources)))
    files = ModelFiles(
        [place.engine_file(source) for source in sources],
        place.engine_file(projector) if projector else None,
        [place.engine_file(adapter) for adapter in adapters],
    )
    engine = await _start(place, options, environment, how, files, runtime)
    engine.memory = memory
    if engine.info.engine == "sippet" and not adapters:  # what a slot has computed depends on their scales
        engine.identify = identifier(sources, projector, runtime.context, "sippet")
    return engine


async def _require_room(
    model: LocalModel, runtime: RuntimeConfig, environment: platform.Environment, room: Room
) -> None:
    """Refuse a model at an address by its headers, before the rest is fetched.

    Raises:
        ModelTooLarge: it would not fit.
        ModelError: it is no sound model.
    """
    if not all(isinstance(source, str) for source in model.sources):
        return
    from .models._peek import read_headers  # only here: most models are installed ones
    from .models.sources import find
    from .platform.http import default_client

    projector = model.projector if isinstance(model.projector, str) else None
    http = default_client()
    try:
        found, manifest = await read_headers(await find(list(model.sources), http, projector=projector), http)
    except RemoteError:  # a server that can't be asked for a part may still send the whole
        return
    finally:
        await http.close()
    count = len(manifest.files)
    headers, extra = found[:count], found[count:]
    context = fitted(runtime, headers[0]).context
    room.reserve(require_memory(headers, context, environment, extra, room.taken()).total)


async def open_companions(
    place: platform.Platform, model: LocalModel, header: GgufHeader, progress: Callable[[Status], None]
) -> tuple[platform.Source | None, list[platform.Source], list[GgufHeader]]:
    """The projector and the adapters that go with a model, checked to be of this very model, and their headers."""
    projector, adapters, headers = None, [], []
    if model.projector is not None:
        projector = await place.open_source(model.projector, Download(progress))
        headers.append(await read_header(projector))
        check_projector(headers[0], header)
    for source in model.lora:
        adapters.append(await place.open_source(source, Download(progress)))
        headers.append(await read_header(adapters[-1]))
        check_adapter(headers[-1], header)
    return projector, adapters, headers


async def _start(
    place: platform.Platform,
    options: ClientOptions,
    environment: platform.Environment,
    how: WasmPlan,
    files: ModelFiles,
    runtime: RuntimeConfig,
) -> Engine:
    """Load the model into the engine of the plan; where our own can't start, into the fallback."""

    async def start(engine: type[HostedEngine]) -> Engine:
        assets = place.engine_assets(how.build)
        if options.module_url and options.wasm_url:
            assets = EngineAssets(options.module_url, options.wasm_url, assets.pthread_url)
        port = place.engine_port(how.mode, options.worker_url)
        return await engine.load(port, assets, files, how, runtime)

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


async def check(sources: Sequence[platform.Source]) -> list[GgufHeader]:
    """Refuse what is not a sound model before any engine sees it. Returns the headers of its files."""
    headers = [await read_header(source) for source in sources]
    check_shards(headers)
    check_model(headers[0])
    return headers


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
