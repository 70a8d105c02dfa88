"""What the engines of a tab have in common: one model in one engine host."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..config import RuntimeConfig
from ..platform.base import EngineAssets, EnginePort
from ._host import HostLine
from .base import Engine, EngineInfo
from .wasm import WasmPlan

STREAMED: Mapping[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "timings_per_token": True,  # real counts, also for a run that is cancelled
}
"""Fields of every request that streams."""


@dataclass(frozen=True)
class ModelFiles:
    """A model's files as :meth:`Platform.engine_file` makes them.

    Attributes:
        shards: the model, in order.
        projector: its image projector.
        lora: its LoRA adapters, which are off until a request turns them on.
    """

    shards: Sequence[Any]
    projector: Any = None
    lora: Sequence[Any] = ()

    @property
    def all(self) -> list[Any]:
        """Every file that the engine may open."""
        return [*self.shards, *([self.projector] if self.projector else []), *self.lora]


class HostedEngine(Engine):
    """One model in one engine host."""

    host_name: ClassVar[str]
    """The name under which ``engine_host.mjs`` knows the engine."""

    def __init__(self, line: HostLine) -> None:
        self._line = line

    @classmethod
    async def load(
        cls, port: EnginePort, assets: EngineAssets, files: ModelFiles, plan: WasmPlan, config: RuntimeConfig
    ) -> Self:
        """Open the module and load a model into it; on any failure the host is ended.

        Args:
            port: a fresh engine host.
            assets: where the module's files are.
            files: the model's files.
            plan: how to run.
            config: the model's configuration.

        Raises:
            AssetError: the module can't be started.
            EngineCrashed: it ended, or went silent.
            ModelError: the model is at fault.
        """
        engine = cls(HostLine(port))
        started = time.perf_counter()
        try:
            options = {"threads": plan.threads, "suspend": plan.suspend, "files": files.all}
            opened = await engine._line.open(cls.host_name, assets, **options, **cls._open_options(plan))
            info = await engine._load(files, plan, config, opened["threads"])
        except BaseException:
            engine._line.close()
            raise
        engine.info = dataclasses.replace(info, load_ms=(time.perf_counter() - started) * 1e3)
        return engine

    @classmethod
    def _open_options(cls, plan: WasmPlan) -> Mapping[str, Any]:
        """What the module wants to know besides threads and files."""
        return {}

    @abstractmethod
    async def _load(self, files: ModelFiles, plan: WasmPlan, config: RuntimeConfig, threads: int) -> EngineInfo:
        """Load the model into the open module, and tell what is known of it.

        Args:
            files: the model's files.
            plan: how to run.
            config: the model's configuration.
            threads: the threads that started.
        """

    async def memory_bytes(self) -> int:
        """WebAssembly memory that the engine holds now, in bytes."""
        return int((await self._line.request({"op": "memory"}))["bytes"])

    async def close(self) -> None:
        self._line.close()
