"""The engine seam: what every engine can do, in llama-server's JSON.

An engine holds one loaded model, or stands for one remote target. It speaks one language, whichever way it computes:
OpenAI-shaped request bodies with llama.cpp's extensions go in, OpenAI-shaped chunks come out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .._fields import Backend
from ..errors import UnsupportedOperation

StreamKind = Literal["completion", "chat"]
CallKind = Literal["embedding", "rerank", "tokenize", "detokenize", "template"]


@dataclass(frozen=True)
class EngineInfo:
    """Facts about what was loaded. ``None`` where the engine can't know (a remote one, say).

    Attributes:
        backend: the kind of engine.
        accelerator: ``cpu``, ``webgpu``, or what else computes.
        threads: compute threads.
        n_ctx: tokens of context, all slots together.
        n_parallel: slots: requests that are computed together.
        n_vocab, n_embd: tokens in the vocabulary, numbers in a token's vector.
        load_ms: how long loading took.
        has_chat_template: it can chat.
        has_vision: it reads images.
        embeds: it was loaded so that it can embed.
        pooling: how it makes one vector of a text's.
        media_marker: what stands for an image in a raw prompt; ``None`` where raw prompts take no images.
        engine: the engine's name in ``capabilities.ENGINES``; empty means the backend's name.
        metadata: the model file's own facts, as text.
    """

    backend: Backend
    accelerator: str
    threads: int | None = None
    n_ctx: int | None = None
    n_parallel: int = 1
    n_vocab: int | None = None
    n_embd: int | None = None
    load_ms: float | None = None
    has_chat_template: bool | None = None
    has_vision: bool | None = None
    embeds: bool | None = None
    pooling: str | None = None
    media_marker: str | None = None
    engine: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()
    """Sentences: what runs in a lesser way than was asked, why, and what to do."""


class Engine(ABC):
    """One loaded model."""

    info: EngineInfo
    memory: int = 0
    """Bytes of this machine that the loaded model was planned to take."""
    identify: Callable[[], Awaitable[str]] | None = None
    """Tells the loaded model from all others. Where it is ``None``, slots can't be saved and restored."""

    def check(self, kind: StreamKind, body: Mapping[str, Any]) -> None:  # noqa: B027 (most engines take it all)
        """Refuse, before anything is computed or sent, what this engine or its server can't honour.

        Raises:
            UnsupportedOption: by the option's name.
        """

    @abstractmethod
    def stream(
        self, kind: StreamKind, body: Mapping[str, Any], files: tuple[bytes, ...] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Generate: yields llama-server's stream chunks (OpenAI-shaped), the last with ``usage`` or ``timings``.

        Closing the generator, or cancelling the task that reads it, stops the computation.

        Args:
            kind: ``completion`` takes ``prompt``, ``chat`` takes ``messages``.
            body: the request, as llama-server's ``/v1/completions`` or ``/v1/chat/completions`` reads it.
            files: images that the messages refer to, in order.
        """

    async def call(self, kind: CallKind, body: Mapping[str, Any]) -> dict[str, Any]:
        """An operation with one answer, in llama-server's JSON."""
        raise UnsupportedOperation(
            f"This endpoint has no {kind} operation.", hint="Add an endpoint whose model supports it."
        )

    async def save_slot(self, slot: int) -> bytes:
        """What an idle slot has computed, for :meth:`restore_slot`."""
        raise NotImplementedError

    async def restore_slot(self, slot: int, data: bytes) -> None:
        """Give an idle slot what :meth:`save_slot` gave.

        Raises:
            SippError: it is of another model or another version of the engine.
        """
        raise NotImplementedError

    @abstractmethod
    async def close(self) -> None:
        """Free the model and everything that served it. Safe to call twice."""
