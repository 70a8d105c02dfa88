"""A request under way: :class:`TextRun`, which streams, is awaited, and can be cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from typing import Any

from .errors import SippError, UsageError
from .results import FinishReason, TextResult, Timings, TokenBatch, Usage

Chunks = Callable[[], AsyncGenerator[dict[str, Any], None]]


class TextRun:
    """One generation. It starts at once; ``await run`` gives its :class:`TextResult`.

    ``async for batch in run.tokens`` streams (ask for it with ``emit_tokens=True``): all batches, concatenated, are the
    result's text. A slow reader loses nothing: what arrived meanwhile comes as one batch.
    """

    def __init__(self, chunks: Chunks, *, endpoint: str, emit_tokens: bool = False) -> None:
        """
        Args:
            chunks: opens the engine's stream.
            endpoint: the endpoint's id, for the result.
            emit_tokens: whether :attr:`tokens` may be read.
        """
        self.endpoint = endpoint
        self._answer = _Answer()
        self._emit = emit_tokens
        self._cancel_reason: str | None = None
        self._news = asyncio.Event()
        self._started = time.perf_counter()
        self._task = asyncio.ensure_future(self._consume(chunks))
        self._task.add_done_callback(self._finished)

    @property
    def response(self) -> Awaitable[TextResult]:
        """The result, to be awaited: the same as the run itself."""
        return self

    @property
    def done(self) -> bool:
        """Whether the run has ended, one way or another."""
        return self._task.done()

    @property
    def error(self) -> BaseException | None:
        """What made the run fail, once it has ended; ``None`` while it runs and where it ended well."""
        if not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    def add_done_callback(self, callback: Callable[[TextRun], Any]) -> None:
        """Call ``callback`` with the run when it has ended."""
        self._task.add_done_callback(lambda _: callback(self))

    @property
    def tokens(self) -> AsyncIterator[TokenBatch]:
        """The text as it comes."""
        if not self._emit:
            raise UsageError("This run does not stream.", hint="Pass emit_tokens=True to read run.tokens.")
        return self._batches()

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop the engine. The run then ends with what it has so far and ``finish_reason="cancelled"``."""
        if not self._task.done() and self._cancel_reason is None:
            self._cancel_reason = reason
            self._task.cancel()

    def __await__(self) -> Generator[Any, None, TextResult]:
        return self._result().__await__()

    async def _result(self) -> TextResult:
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled() and self._cancel_reason is not None:
                return self._cancelled()  # it was cancelled before its first step
            self.cancel("the task that awaited it was cancelled")
            raise

    async def _consume(self, chunks: Chunks) -> TextResult:
        stream = chunks()
        try:
            async for chunk in stream:
                if self._answer.add(chunk, self._started):
                    self._news.set()
        except asyncio.CancelledError:
            if self._cancel_reason is None:
                raise
            return self._cancelled()
        finally:
            await stream.aclose()
        return self._answer.result(self.endpoint, self._started)

    def _cancelled(self) -> TextResult:
        self._answer.finish_reason = "cancelled"
        return self._answer.result(self.endpoint, self._started, self._cancel_reason)

    def _finished(self, task: asyncio.Task[TextResult]) -> None:
        self._news.set()
        if not task.cancelled():
            task.exception()  # a run that nobody awaits must not warn about its error

    async def _batches(self) -> AsyncIterator[TokenBatch]:
        index = 0
        while True:
            text, reasoning = self._answer.take()
            if text or reasoning:
                yield TokenBatch(text, reasoning, index)
                index += 1
            elif self._task.done():
                if not self._task.cancelled() and (error := self._task.exception()):
                    raise error
                return
            else:
                self._news.clear()
                await self._news.wait()


class _Answer:
    """What has come of an answer so far."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.fresh: list[tuple[str, str]] = []
        self.tool_calls: dict[int, dict[str, Any]] = {}
        self.finish_reason: FinishReason | None = None
        self.usage: Mapping[str, Any] = {}
        self.timings: Mapping[str, Any] = {}
        self.first_token: float | None = None

    def add(self, chunk: Mapping[str, Any], started: float) -> bool:
        """Take in one chunk. Returns whether it brought text."""
        self.usage = chunk.get("usage") or self.usage
        self.timings = chunk.get("timings") or self.timings
        brought = False
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or choice
            text = delta.get("content") or delta.get("text") or ""
            reasoning = delta.get("reasoning_content") or ""
            if text or reasoning:
                if self.first_token is None:
                    self.first_token = time.perf_counter() - started
                self.text.append(text)
                self.reasoning.append(reasoning)
                self.fresh.append((text, reasoning))
                brought = True
            for call in delta.get("tool_calls") or ():
                self._add_tool_call(call)
            if choice.get("finish_reason"):
                self.finish_reason = _finish_reason(choice["finish_reason"])
        return brought

    def _add_tool_call(self, part: Mapping[str, Any]) -> None:
        call = self.tool_calls.setdefault(
            part.get("index", 0), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def take(self) -> tuple[str, str]:
        """The text and reasoning that nobody has read yet."""
        fresh, self.fresh = self.fresh, []
        return "".join(t for t, _ in fresh), "".join(r for _, r in fresh)

    def result(self, endpoint: str, started: float, cancel_reason: str | None = None) -> TextResult:
        if self.finish_reason is None:
            raise SippError("The engine ended the answer without saying why.", hint="Send the request again.")
        return TextResult(
            text="".join(self.text),
            reasoning="".join(self.reasoning),
            finish_reason=self.finish_reason,
            usage=self._usage(),
            timings=self._timings((time.perf_counter() - started) * 1e3),
            endpoint=endpoint,
            tool_calls=[self.tool_calls[i] for i in sorted(self.tool_calls)],
            cancel_reason=cancel_reason,
        )

    def _usage(self) -> Usage:
        usage, timings = self.usage, self.timings
        details = usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens", timings.get("cache_n", 0)) or 0
        computed = timings.get("prompt_n", 0) or 0
        return Usage(
            prompt_tokens=usage.get("prompt_tokens", computed + cached),
            cached_tokens=cached,
            completion_tokens=usage.get("completion_tokens", timings.get("predicted_n", 0)),
        )

    def _timings(self, total_ms: float) -> Timings:
        timings = self.timings
        return Timings(
            prefill_ms=timings.get("prompt_ms"),
            time_to_first_token_ms=None if self.first_token is None else self.first_token * 1e3,
            decode_ms=timings.get("predicted_ms"),
            total_ms=total_ms,
            prefill_tokens_per_second=timings.get("prompt_per_second"),
            tokens_per_second=timings.get("predicted_per_second"),
        )


def _finish_reason(value: str) -> FinishReason:
    if value in ("stop", "length", "tool_calls", "error"):
        return value  # type: ignore[return-value]
    return "length" if value == "max_tokens" else "stop"
