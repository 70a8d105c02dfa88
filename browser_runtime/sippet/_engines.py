"""Which engine serves an endpoint: the one place that goes by the descriptor's kind."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import platform
from .endpoints import Descriptor, LocalModel
from .engines.base import Engine
from .errors import ModelNotFound
from .events import Status

if TYPE_CHECKING:
    from .client import ClientOptions
    from .models.store import ModelStore

_NAME = re.compile(r"(?!.*\.gguf$)[A-Za-z0-9][A-Za-z0-9._-]*")
"""What may be the id of a model: neither a URL nor a path."""


async def open_engine(
    descriptor: Descriptor,
    options: ClientOptions,
    progress: Callable[[Status], None],
    models: Callable[[], ModelStore],
) -> Engine:
    """Make the engine of an endpoint.

    Args:
        descriptor: what to load or to reach.
        options: the client's.
        progress: called with every step of loading.
        models: gives the installed models.

    Raises:
        ModelError, PlatformError, EngineError: it can't be loaded.
    """
    if isinstance(descriptor, LocalModel):
        native = platform.current().local_backend == "native"
        if _is_name(descriptor.source) or (native and _is_url(descriptor.source)):
            descriptor = await _installed(descriptor, models(), progress)
        if native:
            from . import _local_native

            return await _local_native.load(descriptor, options, progress)
        from . import _local

        return await _local.load(descriptor, options, progress)
    from .engines.remote import RemoteEngine

    return RemoteEngine(descriptor)


def _is_name(source: Any) -> bool:
    return isinstance(source, str) and _NAME.fullmatch(source) is not None


def _is_url(source: Any) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


async def _installed(model: LocalModel, store: ModelStore, progress: Callable[[Status], None]) -> LocalModel:
    """The descriptor with the files of an installed model; a registered one, or a URL's, is installed first."""
    from .models.registry import MODELS

    source: str = model.source
    try:
        sources, projector = await store.open(source)
    except ModelNotFound as error:
        if source not in MODELS and not _is_url(source):
            raise ModelNotFound(
                f"No model {source!r} is installed or registered.",
                hint="Give a URL, a file, an id of client.models.list(), or a name of sippet.models.registry.MODELS.",
                details={"source": source},
            ) from error
        added = await store.add(source, projector=model.projector, on_progress=_but_the_end(progress))
        sources, projector = await store.open(added.id)
    return dataclasses.replace(model, source=list(sources), projector=model.projector or projector)


def _but_the_end(progress: Callable[[Status], None]) -> Callable[[Status], None]:
    """Reports of an installation, whose end is not yet that of loading."""
    return lambda status: None if status.state in ("ready", "error") else progress(status)
