"""The plug of :class:`LocalLLM`: what an engine must do, and Sippet's own one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..client import SippClient
from ..config import RuntimeConfig
from ..endpoints import LocalModel
from ..errors import ModelNotFound, SippError, UnsupportedEnvironment
from ..events import OnProgress
from ..messages import Messages
from ..models.registry import RegistryEntry
from ..platform import current
from ..results import FinishReason, Usage

_ENDPOINT = "model"


@dataclass(frozen=True)
class Support:
    """Whether an engine can run here, and why not."""

    supported: bool
    reason: str = ""


@dataclass(frozen=True)
class Generation:
    """An answer. ``usage`` holds the engine's own counts; ``parsed`` is the value where a schema was given."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    parsed: Any = None


class SimpleEngine(ABC):
    """An engine that holds one model at a time."""

    @abstractmethod
    async def is_supported(self) -> Support:
        """Whether it can run here. Loads nothing."""

    @abstractmethod
    async def has_model(self, model: RegistryEntry) -> bool:
        """Whether the model can be loaded without a download."""

    @abstractmethod
    async def load(self, model: RegistryEntry, on_status: OnProgress) -> None:
        """Make the model ready. Being cancelled leaves nothing loaded."""

    @abstractmethod
    async def generate(
        self, messages: Messages, options: Mapping[str, Any], on_text: Callable[[str], Any] | None
    ) -> Generation:
        """Answer a conversation. ``on_text`` gets the text as it comes; the answer is the same with and without it."""

    @abstractmethod
    async def unload(self) -> None:
        """Free the memory. Safe to call twice."""


class SippEngine(SimpleEngine):
    """Sippet's own engines: WebAssembly in a tab, native llama.cpp in CPython."""

    def __init__(self, *, runtime: RuntimeConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        """
        Args:
            runtime: how the model runs.
            options: those of :class:`SippClient`.
        """
        self._client_options = options
        self._runtime = RuntimeConfig.of(runtime)
        self._client: SippClient | None = None

    async def is_supported(self) -> Support:
        try:
            place = current()
            if place.local_backend == "native":
                from ..engines.native import require_module

                require_module()
                return Support(True)
            environment = await place.environment()
        except UnsupportedEnvironment as error:
            return Support(False, str(error))
        return Support(True) if environment.simd else Support(False, "This browser's WebAssembly has no SIMD.")

    async def has_model(self, model: RegistryEntry) -> bool:
        try:
            await self._open().models.get(model.id)
        except (ModelNotFound, SippError):  # storage that can't be read holds no model
            return False
        return True

    async def load(self, model: RegistryEntry, on_status: OnProgress) -> None:
        client = self._open()
        if model.id not in await client.models.registry() and not await self.has_model(model):
            source = model.address or model.manifest  # the program's own entry: nobody else knows it by name
            await client.models.add(source, id=model.id, on_progress=on_status)
        await client.add(_ENDPOINT, LocalModel(model.id, runtime=self._runtime, on_progress=on_status))

    async def generate(
        self, messages: Messages, options: Mapping[str, Any], on_text: Callable[[str], Any] | None
    ) -> Generation:
        run = self._open().chat(messages, endpoint=_ENDPOINT, emit_tokens=on_text is not None, **options)
        try:
            if on_text is not None:
                async for batch in run.tokens:
                    on_text(batch.text)
            result = await run
        finally:
            run.cancel("nobody waits for it")  # does nothing where it is complete
        return Generation(result.text, result.finish_reason, result.usage, result.parsed)

    async def unload(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _open(self) -> SippClient:
        if self._client is None:
            self._client = SippClient(**self._client_options)
        return self._client
