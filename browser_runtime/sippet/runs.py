"""Requests under way: a :class:`Run` is awaited and can be cancelled; a :class:`TextRun` also streams."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Generic, Self, TypeVar

from ._answer import Answer
from .errors import Cancelled, UsageError
from .results import EmbedResult, RerankResult, TextResult, TokenBatch

Chunks = Callable[[], AsyncGenerator[dict[str, Any], None]]
R = TypeVar("R")


class Run(Generic[R]):
    """One request. It starts at once; ``await run`` gives its result, as often as it is awaited.

    Cancelling the task that awaits a run, or waits for its text, cancels the run.
    """

    def __init__(self, work: Callable[[], Awaitable[R]], *, endpoint: str) -> None:
        """
        Args:
            work: does the request.
            endpoint: the endpoint's id.
        """
        self.endpoint = endpoint
        self._work = work
        self._cancel_reason: str | None = None
        self._task: asyncio.Task[R] = asyncio.ensure_future(self._guarded())
        self._task.add_done_callback(self._finished)

    @property
    def response(self) -> Awaitable[R]:
        """The result, to be awaited: the same as the run itself."""
        return self

    @property
    def done(self) -> bool:
        """Whether the run has ended, one way or another."""
        return self._task.done()

    @property
    def error(self) -> BaseException | None:
        """What made the run fail, once it has ended; ``None`` while it runs and where it ended well."""
        if not self._task.done():
            return None
        if not self._task.cancelled():
            return self._task.exception()
        try:
            self._cancelled()
        except Cancelled as error:
            return error
        return None

    def add_done_callback(self, callback: Callable[[Self], Any]) -> None:
        """Call ``callback`` with the run when it has ended."""
        self._task.add_done_callback(lambda _: callback(self))

    async def _settled(self) -> None:
        """Wait until the run has ended, whichever way. Being cancelled meanwhile leaves the run alone."""
        await asyncio.wait([self._task])

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop the request; nothing happens where it has ended.

        A :class:`TextRun` then ends with the text so far and ``finish_reason="cancelled"``; any other run raises
        :class:`Cancelled`.
        """
        if not self._task.done() and self._cancel_reason is None:
            self._cancel_reason = reason
            self._task.cancel()

    def __await__(self) -> Generator[Any, None, R]:
        return self._result().__await__()

    async def _result(self) -> R:
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled() and self._cancel_reason is not None:
                return self._cancelled()  # the cancel came before the work's first step, or after its last
            self.cancel("the task that awaited it was cancelled")
            await self._settled()
            raise

    async def _guarded(self) -> R:
        try:
            return await self._work()
        except asyncio.CancelledError:
            if self._cancel_reason is None:
                raise
            return self._cancelled()

    def _cancelled(self) -> R:
        raise Cancelled(f"The request was cancelled: {self._cancel_reason or 'its loop ended'}.", hint="")

    def _finished(self, task: asyncio.Task[R]) -> None:
        if not task.cancelled():
            task.exception()  # a run that nobody awaits must not warn about its error


EmbedRun = Run[EmbedResult]
"""What :meth:`SippClient.embed` returns."""

RerankRun = Run[RerankResult]
"""What :meth:`SippClient.rerank` returns."""


class TextRun(Run[TextResult]):
    """One generation. ``await run`` gives its :class:`TextResult`.

    ``async for batch in run.tokens`` streams (ask for it with ``emit_tokens=True``): all batches, concatenated, are the
    result's text. A slow reader loses nothing: what arrived meanwhile comes as one batch.
    """

    def __init__(
        self, chunks: Chunks, *, endpoint: str, emit_tokens: bool = False, parse: Callable[[str], Any] | None = None
    ) -> None:
        """
        Args:
            chunks: opens the engine's stream.
            endpoint: the endpoint's id, for the result.
            emit_tokens: whether :attr:`tokens` may be read.
            parse: makes ``result.parsed`` of the text of a whole answer.
        """
        self._chunks = chunks
        self._parse = parse
        self._answer = Answer()
        self._emit = emit_tokens
        self._news = asyncio.Event()
        self._started = time.perf_counter()
        self._began: float | None = None
        self._final: TextResult | None = None
        super().__init__(self._consume, endpoint=endpoint)

    @property
    def tokens(self) -> AsyncIterator[TokenBatch]:
        """The text as it comes. Each reader gets all of it.

        Raises:
            UsageError: the run was made without ``emit_tokens=True``.
        """
        if not self._emit:
            raise UsageError("This run does not stream.", hint="Pass emit_tokens=True to read run.tokens.")
        return self._batches()

    @property
    def _emits(self) -> bool:
        """Whether the run was made with ``emit_tokens=True``."""
        return self._emit

    @property
    def _outcome(self) -> TextResult:
        """The result of a run that ended without an error."""
        return self._cancelled() if self._task.cancelled() else self._task.result()

    def _computing(self) -> None:
        """Take note that the request waits no longer."""
        self._began = time.perf_counter()

    def _metrics(self) -> dict[str, float | None]:
        """Milliseconds in the queue, and the median and 99th percentile between one arrival of text and the next."""
        times = self._answer.times
        gaps = sorted((b - a) * 1e3 for a, b in itertools.pairwise(times))
        return {
            "queue_ms": None if self._began is None else (self._began - self._started) * 1e3,
            "inter_token_p50_ms": gaps[len(gaps) // 2] if gaps else None,
            "inter_token_p99_ms": gaps[int(len(gaps) * 0.99)] if gaps else None,
        }

    async def _consume(self) -> TextResult:
        stream = self._chunks()
        try:
            async for chunk in stream:
                if self._answer.add(chunk):
                    self._news.set()
        finally:
            await stream.aclose()
        return self._ended()

    def _cancelled(self) -> TextResult:
        self._answer.finish_reason = "cancelled"
        return self._ended()

    def _ended(self) -> TextResult:
        if self._final is None:
            self._final = self._answer.result(self.endpoint, self._started, self._cancel_reason, self._parse)
        return self._final

    def _finished(self, task: asyncio.Task[TextResult]) -> None:
        super()._finished(task)
        self._news.set()

    async def _batches(self) -> AsyncIterator[TokenBatch]:
        index = seen = 0
        while True:
            text, reasoning = self._answer.since(seen)
            seen = len(self._answer.pieces)
            if text or reasoning:
                yield TokenBatch(text, reasoning, index)
                index += 1
            elif self._task.done():
                if not self._task.cancelled() and (error := self._task.exception()):
                    raise error
                return
            else:
                self._news.clear()
                try:
                    await self._news.wait()
                except asyncio.CancelledError:
                    self.cancel("the task that read it was cancelled")
                    await self._settled()
                    raise
