"""An engine in memory that plays a script: for what belongs to the client alone, such as who waits for whom. Whatever
touches a model is tested with real engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sippet import LocalModel
from sippet.engines.base import CallKind, Engine, EngineInfo, StreamKind


def delta(text: str = "", finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk of a chat, as llama-server sends it."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **fields}


def answer(*pieces: str, finish: str = "stop") -> list[dict[str, Any]]:
    """The chunks of a whole answer."""
    usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "prompt_tokens_details": {"cached_tokens": 3}}
    return [*(delta(piece) for piece in pieces), delta(finish=finish), {"choices": [], "usage": usage}]


Script = Callable[[Mapping[str, Any]], Sequence[Any]]


class ScriptedEngine(Engine):
    """Plays ``script(body)``: a chunk is sent, an awaitable is awaited, an exception is raised.

    It refuses, as a real engine does, more requests together than it has slots, or two in one slot.
    """

    def __init__(self, script: Script, info: EngineInfo | None = None) -> None:
        self.info = info or EngineInfo("wasm", "cpu", engine="wllama", has_chat_template=True, has_vision=False)
        self.script = script
        self.bodies: list[Mapping[str, Any]] = []
        self.running: list[int] = []
        self.most_together = 0
        self.closed = 0

    async def stream(
        self, kind: StreamKind, body: Mapping[str, Any], files: tuple[bytes, ...] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        assert not self.closed
        slot = body["id_slot"]
        assert slot not in self.running and len(self.running) < self.info.n_parallel
        self.bodies.append(body)
        self.running.append(slot)
        self.most_together = max(self.most_together, len(self.running))
        try:
            for step in self.script(body):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Awaitable):
                    await step
                else:
                    await asyncio.sleep(0)
                    yield step
        finally:
            self.running.remove(slot)

    async def call(self, kind: CallKind, body: Mapping[str, Any]) -> dict[str, Any]:
        self.bodies.append({"kind": kind, **body})
        (reply,) = self.script(body)
        return dict(reply)

    async def close(self) -> None:
        assert not self.running
        self.closed += 1


@contextmanager
def engines(*ready: Engine | Exception | Callable[[], Awaitable[Engine]]) -> Any:
    """``client.add`` gets these engines, one after the other."""
    queue = list(ready)

    async def open_engine(descriptor: Any, options: Any, progress: Any, models: Any, taken: int) -> Engine:
        await asyncio.sleep(0)
        item = queue.pop(0)
        if isinstance(item, Exception):
            raise item
        return item if isinstance(item, Engine) else await item()

    with patch("sippet.client.open_engine", open_engine):
        yield queue


MODEL = LocalModel("model.gguf")
HELLO = [{"role": "user", "content": "Hello"}]
