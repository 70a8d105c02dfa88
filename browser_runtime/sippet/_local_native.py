"""Loading a model in CPython: check the file, then load it with native llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import _local, platform
from ._contexts import identifier
from ._fields import given
from .config import RuntimeConfig
from .endpoints import LocalModel
from .engines.base import Engine
from .engines.native import NativeEngine, require_module
from .errors import UnsupportedOption
from .events import Status
from .models.fitting import fitted, require_memory
from .models.pairing import pooling_of
from .platform.base import Source

if TYPE_CHECKING:
    from ._room import Room
    from .client import ClientOptions


async def load(model: LocalModel, options: ClientOptions, progress: Callable[[Status], None], room: Room) -> Engine:
    """Check and load ``model``.

    Args:
        model: what to load.
        options: the client's, none of which has a meaning here.
        progress: called with every step.
        room: the memory for it.

    Raises:
        UnsupportedEnvironment: the native engine is not installed.
        UnsupportedOption: an option of the browser was given.
        ModelError: the model is at fault.
    """
    progress(Status("checking", "Checking the model."))
    require_module()
    for name in given(options):
        raise UnsupportedOption(name, f"{name} is an option of the browser.", hint="Leave it out here.")
    place = platform.current()
    sources = [await place.open_source(source, _local.Download(progress)) for source in model.sources]
    headers = await _local.check(sources)
    header = headers[0]
    projector, adapters, extra = await _local.open_companions(place, model, header, progress)
    runtime = fitted(RuntimeConfig.of(model.runtime), header)
    memory = 0  # on a GPU it takes the GPU's
    if model.backend == "cpu" or not runtime.placement.n_gpu_layers:
        memory = require_memory(headers, runtime.context, await place.environment(), extra, room.taken()).total
        room.reserve(memory)
    progress(Status("loading", "Loading the model into memory.", sum(source.size for source in sources)))
    engine = await NativeEngine.load(
        [_path(source) for source in sources],
        runtime,
        projector=_path(projector) if projector else None,
        backend=model.backend,
        metadata={key: value for key, value in header.metadata.items() if isinstance(value, str)},
        has_chat_template=header.chat_template is not None,
        pooling=pooling_of(header),
        lora=[_path(adapter) for adapter in adapters],
    )
    engine.memory = memory
    if not adapters:  # what a slot has computed depends on their scales
        engine.identify = identifier(sources, projector, runtime.context, "native")
    return engine


def _path(source: Source) -> Path:
    path = getattr(source, "path", None)
    assert isinstance(path, Path)  # what CPython's platform opens is on disk
    return path
