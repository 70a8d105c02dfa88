"""Which engine serves an endpoint: the one place that goes by the descriptor's kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import platform
from .endpoints import Descriptor, LocalModel
from .engines.base import Engine
from .events import Status

if TYPE_CHECKING:
    from .client import ClientOptions


async def open_engine(descriptor: Descriptor, options: ClientOptions, progress: Callable[[Status], None]) -> Engine:
    """Make the engine of an endpoint.

    Args:
        descriptor: what to load or to reach.
        options: the client's.
        progress: called with every step of loading.

    Raises:
        ModelError, PlatformError, EngineError: it can't be loaded.
    """
    if isinstance(descriptor, LocalModel):
        if platform.current().local_backend == "native":
            from . import _local_native

            return await _local_native.load(descriptor, options, progress)
        from . import _local

        return await _local.load(descriptor, options, progress)
    from .engines.remote import RemoteEngine

    return RemoteEngine(descriptor)
