"""An endpoint of a client at work: its engine, who waits for it, and when its memory is freed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from ._scheduler import Scheduler, Slot
from .config import RuntimeConfig
from .endpoints import EndpointRef
from .engines.base import Engine, EngineInfo, StreamKind
from .errors import ClientClosed, SippError
from .runs import Run

Opener = Callable[[], Awaitable[Engine]]


class Endpoint:
    """One endpoint. Its engine may come and go (``residency.unload_after``); what is known of it stays."""

    def __init__(
        self,
        ref: EndpointRef,
        engine: Engine,
        opener: Opener,
        runtime: RuntimeConfig,
        *,
        adapters: int = 0,
        on_state: Callable[[str], Any] = lambda _: None,
    ) -> None:
        """
        Args:
            ref: what names it.
            engine: its engine, loaded.
            opener: loads it again.
            runtime: how it runs.
            adapters: how many LoRA adapters it has.
            on_state: told ``unloaded``, ``loading`` and ``ready``.
        """
        self.ref = ref
        self.runtime = runtime
        self.adapters = adapters
        self.runs: set[Run[Any]] = set()
        self.scheduler = Scheduler(
            engine.info.n_parallel, runtime.scheduler.max_queued_requests, runtime.scheduler.max_running_requests
        )
        self.engine: Engine | None = engine
        self._open = opener
        self._on_state = on_state
        self._loading: asyncio.Task[Engine] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unloading: set[asyncio.Task[None]] = set()
        self._closed = False
        self._users = 0
        self._rest()

    @property
    def info(self) -> EngineInfo:
        """What is known of the engine."""
        assert self.ref.info is not None
        return self.ref.info

    @property
    def chat_template(self) -> str:
        """The Jinja template in use, as far as it is known."""
        return self.runtime.context.chat_template or self.info.metadata.get("tokenizer.chat_template", "")

    def check(self, kind: StreamKind, body: Mapping[str, Any]) -> None:
        """Refuse what the engine or its server can't honour.

        Raises:
            UnsupportedOption: by the option's name.
        """
        if self.engine:
            self.engine.check(kind, body)

    @asynccontextmanager
    async def working(self, key: str | None = None) -> AsyncIterator[tuple[Engine, Slot]]:
        """Wait for a slot, and for the engine where it was unloaded."""
        async with self.scheduler.slot(key) as slot, self.used() as engine:
            yield engine, slot

    @asynccontextmanager
    async def used(self) -> AsyncIterator[Engine]:
        """The engine, which stays loaded for so long."""
        self._users += 1
        try:
            yield await self.ready()
        finally:
            self._users -= 1
            self._rest()

    def add_run(self, run: Run[Any]) -> None:
        """Keep account of a run until it has ended."""
        self.runs.add(run)
        run.add_done_callback(self.runs.discard)

    async def drain(self) -> None:
        """Wait for the runs under way."""
        while self.runs:
            await asyncio.gather(*(run._settled() for run in list(self.runs)))

    async def close(self, reason: str | None = None) -> None:
        """Free everything.

        Args:
            reason: cancels the runs under way; without one they are waited for.
        """
        if reason is not None:
            for run in list(self.runs):
                run.cancel(reason)
        await self.drain()
        self._closed = True
        if self._timer:
            self._timer.cancel()
        if self._loading:
            self._loading.cancel()
            with suppress(SippError, asyncio.CancelledError):
                await self._loading
        engine, self.engine = self.engine, None
        if engine:
            await engine.close()
        await asyncio.gather(*self._unloading)

    async def ready(self) -> Engine:
        """The engine, loaded again where it was unloaded."""
        if self.engine:
            return self.engine
        if self._closed:
            raise ClientClosed("The endpoint was removed.", hint="Add it again.")
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._reload())
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())  # heard by whoever waits
        # Whoever waits may be cancelled; the load goes on for the others and for the next one.
        return await asyncio.shield(self._loading)

    async def _reload(self) -> Engine:
        self._on_state("loading")
        try:
            self.engine = await self._open()
            return self.engine
        finally:
            self._loading = None
            self._on_state("ready" if self.engine else "unloaded")
            self._rest()

    def _rest(self) -> None:
        """Nothing to do now: start the clock that frees the memory."""
        after = self.runtime.residency.unload_after
        if after is None or self._closed or self._users:
            return
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(after, self._unload)

    def _unload(self) -> None:
        engine, self.engine = self.engine, None
        if engine is None or self._users or not self.scheduler.idle:
            self.engine = engine
            return
        self.scheduler.clear()
        task = asyncio.ensure_future(engine.close())
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)
        self._on_state("unloaded")
