"""Which engine serves an endpoint: the one place that goes by the descriptor's kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import platform
from .config import RuntimeConfig
from .endpoints import Descriptor, LocalModel
from .engines.base import Engine
from .errors import ModelNotFound
from .events import Status
from .models.naming import is_name

if TYPE_CHECKING:
    from ._room import Room
    from .client import ClientOptions
    from .models.store import ModelStore


async def open_engine(
    descriptor: Descriptor,
    options: ClientOptions,
    progress: Callable[[Status], None],
    models: Callable[[], ModelStore],
    room: Room,
) -> Engine:
    """Make the engine of an endpoint.

    Args:
        descriptor: what to load or to reach.
        options: the client's.
        progress: called with every step of loading.
        models: gives the installed models.
        room: the memory for it.

    Raises:
        ModelError, PlatformError, EngineError: it can't be loaded.
    """
    if isinstance(descriptor, LocalModel):
        native = platform.current().local_backend == "native"
        kept = native or options.browser_cache
        if options.browser_cache or (native and _is_remote(descriptor)):  # no HTTP client for a file
            descriptor = await _kept(descriptor, models())
        if is_name(descriptor.source) or _is_manifest(descriptor.source) or (kept and _is_remote(descriptor)):
            descriptor = await _installed(descriptor, models(), progress, room)
        if native:
            from . import _local_native

            return await _local_native.load(descriptor, options, progress, room)
        from . import _local

        return await _local.load(descriptor, options, progress, room)
    from .engines.remote import RemoteEngine

    return RemoteEngine(descriptor)


def _is_url(source: Any) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def _is_manifest(source: Any) -> bool:
    """Its files are installed, because only an installation holds them against the manifest's hashes."""
    return _is_url(source) and urlsplit(source).path.endswith(".json")


def _is_remote(model: LocalModel) -> bool:
    return all(map(_is_url, model.sources))


async def _kept(model: LocalModel, store: ModelStore) -> LocalModel:
    """The descriptor of what was installed from the model's addresses, where it was; else with its full addresses."""
    from .platform.http import default_client

    http = default_client()
    urls = [http.resolve(source) if isinstance(source, str) else None for source in model.sources]
    if is_name(model.source) or None in urls:
        return model
    projector = http.resolve(model.projector) if isinstance(model.projector, str) else model.projector
    for installed in await store.list():
        manifest = installed.manifest
        if [file.url for file in manifest.files[: len(urls)]] == urls:  # a first shard stands for all
            same = manifest.projector is not None and manifest.projector.url == projector
            return dataclasses.replace(model, source=installed.id, projector=None if same else model.projector)
    return dataclasses.replace(model, source=urls if len(urls) > 1 else urls[0])


async def _installed(
    model: LocalModel, store: ModelStore, progress: Callable[[Status], None], room: Room
) -> LocalModel:
    """The descriptor with the files of an installed model; a registered one, or a URL's, is installed first."""
    id, source = model.source, model.source
    if _is_remote(model) or not await _is_installed(id, store):
        if model.backend != "webgpu":  # before a long download, not after it
            from .models.fitting import limit_of

            context = RuntimeConfig.of(model.runtime).context
            limit = limit_of(await platform.current().environment(), room.taken())
            (await store.estimate(source, projector=model.projector, context=context, limit=limit)).memory.require()
        id = (await store.add(source, projector=model.projector, on_progress=_but_the_end(progress))).id
    sources, projector = await store.open(id)
    return dataclasses.replace(model, source=list(sources), projector=model.projector or projector)


async def _is_installed(name: str, store: ModelStore) -> bool:
    """Whether it is, or else is registered.

    Raises:
        ModelNotFound: neither.
    """
    try:
        await store.get(name)
    except ModelNotFound as error:
        if name not in (known := await store.registry()):
            raise ModelNotFound(
                f"No model {name!r} is installed or registered.",
                hint="Give a URL, a file, an id of client.models.list(), or a name of client.models.registry(): "
                f"{', '.join(known)}.",
                details={"source": name},
            ) from error
        return False
    return True


def _but_the_end(progress: Callable[[Status], None]) -> Callable[[Status], None]:
    """Reports of an installation, whose end is not yet that of loading."""
    return lambda status: None if status.state in ("ready", "error") else progress(status)
