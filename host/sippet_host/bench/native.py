"""Native llama.cpp, the yardstick: the same source as the WebAssembly builds, compiled for this processor."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sippet.config import ContextConfig, RuntimeConfig
from sippet.engines.native import MODULE, NativeEngine, require_module
from sippet.errors import SippError

from .cases import Prompt
from .subjects import Job, Session, Subject, Timings, peak_memory_of
from .weights import Weights

if TYPE_CHECKING:
    from .browser import Browsers

_BATCH = 512
"""llama.cpp's own micro-batch: the engine is to show its best here. Sippet takes smaller ones, to cancel sooner."""


class NativeSubject(Subject):
    """The ``xllamacpp`` wheel on the CPU, in a process of its own."""

    engine = "native"

    def __init__(self) -> None:
        try:
            self.variant = f"{MODULE} {importlib.metadata.version(MODULE)}"
        except importlib.metadata.PackageNotFoundError:
            self.variant = MODULE

    @property
    def name(self) -> str:
        return self.engine

    def missing(self, weights: Weights) -> str | None:
        try:
            require_module()
        except SippError as error:
            return str(error)
        return None

    async def open(self, job: Job, browsers: Browsers | None) -> Session:
        session = _NativeSession(job)
        _forget(job.weights.path)
        session.cold_ms = await session.load()
        if job.warm:
            await session.close()
            session.warm_ms = await session.load()
        return session


class _NativeSession(Session):
    def __init__(self, job: Job) -> None:
        self._job = job

    async def load(self) -> float:
        """Starts the process with the model; the milliseconds that it took."""
        context = ContextConfig(n_ctx=self._job.context, n_threads=self._job.threads, n_batch=_BATCH, n_ubatch=_BATCH)
        started = time.perf_counter()
        self._engine = await NativeEngine.load([self._job.weights.path], RuntimeConfig(context=context), backend="cpu")
        return (time.perf_counter() - started) * 1e3

    async def complete(self, prompt: Prompt, tokens: int) -> Timings:
        timings: dict[str, float] = {}
        async for chunk in self._engine.stream("completion", completion_request(prompt.tokens, tokens)):
            timings = chunk.get("timings", timings)
        return Timings.of(timings, len(prompt), tokens)

    def peak_memory(self) -> float | None:
        return peak_memory_of(self._engine.pid)

    async def close(self) -> None:
        await self._engine.close()


def completion_request(prompt: Sequence[int] | str, tokens: int) -> dict[str, object]:
    """A completion as llama.cpp's server takes it: greedy, past any end of text, nothing taken from earlier ones."""
    return {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
        "stream": True,
    }


def _forget(path: Path) -> None:
    """Asks the system to drop the file from its cache, so that a cold load reads the disk. Linux does."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
