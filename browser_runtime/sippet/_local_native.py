"""Loading a model in CPython: check the file, then load it with native llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import _local, platform
from ._fields import given
from .config import RuntimeConfig
from .endpoints import LocalModel
from .engines.base import Engine
from .engines.native import NativeEngine, require_module
from .errors import UnsupportedOption
from .events import Status
from .models.gguf import read_header
from .models.pairing import check_adapter, check_projector, pooling_of
from .platform.base import Source

if TYPE_CHECKING:
    from .client import ClientOptions


async def load(model: LocalModel, options: ClientOptions, progress: Callable[[Status], None]) -> Engine:
    """Check and load ``model``.

    Args:
        model: what to load.
        options: the client's, none of which has a meaning here.
        progress: called with every step.

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
    header = await _local.check(sources)
    projector, adapters = None, []
    if model.projector is not None:
        projector = await place.open_source(model.projector, _local.Download(progress))
        check_projector(await read_header(projector), header)
    for adapter in model.lora:
        adapters.append(await place.open_source(adapter, _local.Download(progress)))
        check_adapter(await read_header(adapters[-1]), header)
    progress(Status("loading", "Loading the model into memory.", sum(source.size for source in sources)))
    return await NativeEngine.load(
        [_path(source) for source in sources],
        _local.fitted(RuntimeConfig.of(model.runtime), header),
        projector=_path(projector) if projector else None,
        backend=model.backend,
        metadata={key: value for key, value in header.metadata.items() if isinstance(value, str)},
        has_chat_template=header.chat_template is not None,
        pooling=pooling_of(header),
        lora=[_path(adapter) for adapter in adapters],
    )


def _path(source: Source) -> Path:
    path = getattr(source, "path", None)
    assert isinstance(path, Path)  # what CPython's platform opens is on disk
    return path
