"""CPython: files on disk; no WebAssembly engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidOption, ModelNotFound, UnsupportedEnvironment
from .base import EngineAssets, EnginePort, Environment, Platform, Source, Waiter


class CPythonPlatform(Platform):
    local_backend = "native"

    async def environment(self) -> Environment:
        return Environment(name="cpython", cores=os.cpu_count() or 1, device_memory=_memory())

    async def open_source(self, source: Any, on_bytes: Callable[[int, int | None], None]) -> Source:
        if isinstance(source, Source):
            return source
        if not isinstance(source, (str, Path)):
            raise InvalidOption("source", f"A model's source is a path here, not {type(source).__name__}.")
        return PathSource(Path(source))

    def engine_assets(self, name: str) -> EngineAssets:
        raise _no_wasm()

    def engine_port(self, mode: Literal["worker", "main-thread"], worker_url: str | None) -> EnginePort:
        raise _no_wasm()

    def engine_file(self, source: Source) -> Any:
        raise _no_wasm()

    def waiter(self) -> Waiter:
        from ._loop_thread import LoopThread

        return LoopThread()

    def trust(self, origins: Sequence[str]) -> None:
        raise _no_wasm()

    def is_trusted(self, url: str) -> bool:
        raise _no_wasm()


class PathSource(Source):
    """A file on disk."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ModelNotFound(f"There is no model file {path}.", hint="Check the path.")
        self.path = path
        self.name = path.name
        self.size = path.stat().st_size

    async def read(self, offset: int, length: int) -> bytes:
        return await asyncio.to_thread(self._read, offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None  # Windows has no sysconf


def _no_wasm() -> UnsupportedEnvironment:
    return UnsupportedEnvironment(
        "The WebAssembly engine runs in a browser only.",
        hint="Use a gateway or a provider here, or run the program in a page.",
        details={"feature": "webassembly_engine"},
    )
