"""The environment seam: all that depends on where Sippet runs, behind one abstract class.

:func:`current` gives the platform of this interpreter. Nothing outside this package asks where it is.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")

ExecutionMode = Literal["auto", "worker", "main-thread"]
WasmThreading = Literal["auto", "pthread", "single-thread"]


@dataclass(frozen=True)
class Environment:
    """What this place can do. Outside a browser the browser's features are simply absent.

    Attributes:
        name: ``browser`` or ``cpython``.
        isolated: the page is cross-origin isolated.
        shared_memory: WebAssembly memory can be shared between threads.
        ui_thread: this is a page's own thread, which must never block.
        wasm_memory: bytes that a WebAssembly memory can grow to, found by asking for it; ``None`` outside a browser.
        simd, relaxed_simd, memory64, suspending: features of WebAssembly (``suspending`` is JSPI).
        gpu: a WebGPU adapter with half-precision shaders exists; llama.cpp needs both.
        cores: logical processors.
        device_memory: bytes, rounded down by the browser; ``None`` where it doesn't say.
    """

    name: str
    isolated: bool = False
    shared_memory: bool = False
    ui_thread: bool = False
    wasm_memory: int | None = None
    simd: bool = False
    relaxed_simd: bool = False
    memory64: bool = False
    suspending: bool = False
    gpu: bool = False
    cores: int = 1
    device_memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Source(ABC):
    """A model file that can be read in pieces."""

    name: str
    size: int

    @abstractmethod
    async def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer only at the end of the file."""


@dataclass(frozen=True)
class EngineAssets:
    """Where the engine's files are, as URLs."""

    module_url: str
    wasm_url: str
    pthread_url: str = ""


class EnginePort(ABC):
    """A line to an engine host: dictionaries go in, dictionaries come out. Byte strings cross as they are."""

    receive: Callable[[dict[str, Any]], None]
    """Called with every message; set it before the first :meth:`post`."""

    @abstractmethod
    def post(self, message: Mapping[str, Any]) -> None:
        """Send a message."""

    @abstractmethod
    def close(self) -> None:
        """End the engine at once and free its memory, whatever it is doing."""


class Waiter(ABC):
    """Runs asynchronous work for a caller that can't await."""

    @abstractmethod
    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the work's outcome.

        Raises:
            UsageError: waiting here would never end.
        """

    @abstractmethod
    def close(self) -> None:
        """Take no more work. Safe to call twice."""


class Platform(ABC):
    """What Sippet needs from the place where it runs."""

    local_backend: Literal["wasm", "native"]
    """What computes local models here."""

    @abstractmethod
    async def environment(self) -> Environment:
        """What this place can do."""

    @abstractmethod
    async def open_source(self, source: Any, on_bytes: Callable[[int, int | None], None]) -> Source:
        """Make a model file readable: download a URL, or open what the user picked.

        Args:
            source: a URL, a path or a file object of this platform.
            on_bytes: called with the bytes so far and the total, where a download is needed.

        Raises:
            ModelNotFound: it doesn't exist.
            InvalidOption: this platform can't read that kind of source.
        """

    @abstractmethod
    def engine_assets(self, name: str) -> EngineAssets:
        """Where the engine ``name`` (``wllama``, ``wllama-compat``, ``sippet``) lives.

        Raises:
            UnsupportedEnvironment: this platform runs no WebAssembly engine, or knows no place of its files.
        """

    @abstractmethod
    def engine_port(self, mode: Literal["worker", "main-thread"], worker_url: str | None) -> EnginePort:
        """Start an engine host in a worker of its own, or in this thread."""

    @abstractmethod
    def engine_file(self, source: Source) -> Any:
        """The source as an engine host takes it."""

    @abstractmethod
    def waiter(self) -> Waiter:
        """What waits, for the blocking client.

        Raises:
            UnsupportedEnvironment: this place can't wait without blocking everything.
        """

    @abstractmethod
    def trust(self, origins: Sequence[str]) -> None:
        """Let engine files come from these origins too."""

    @abstractmethod
    def is_trusted(self, url: str) -> bool:
        """Whether engine files may come from there."""
