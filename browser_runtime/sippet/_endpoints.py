"""The endpoints of one client: made ready, found, replaced, taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal
from weakref import WeakValueDictionary

from ._endpoint import Endpoint
from ._fields import show
from ._room import Room
from .config import RuntimeConfig
from .endpoints import Descriptor, EndpointRef, LocalModel
from .engines.base import Engine, EngineInfo
from .errors import AmbiguousEndpoint, EndpointNotFound, InvalidOption

Open = Callable[[str, Descriptor, Room], Awaitable[Engine]]


class Endpoints:
    """Those that are ready, in the order in which they were added, and those that are coming or going.

    Args:
        open_engine: makes the engine of an endpoint, and makes it again where it was unloaded.
        on_state: called with an endpoint's id and what it is now.
    """

    def __init__(self, open_engine: Open, on_state: Callable[[str, str], None]) -> None:
        self._open_engine, self._on_state = open_engine, on_state
        self._ready: dict[str, Endpoint] = {}
        self._opening: set[asyncio.Task[Endpoint]] = set()
        self._reserved: dict[str, int] = {}  # bytes that models need which are not in memory yet
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by id, while one is added
        self._retiring: dict[asyncio.Task[None], Endpoint] = {}

    @property
    def refs(self) -> list[EndpointRef]:
        """What names them."""
        return [endpoint.ref for endpoint in self._ready.values()]

    @property
    def state(self) -> Literal["ready", "loading"]:
        """``loading`` while one is added, else ``ready``."""
        return "loading" if self._opening else "ready"

    def __getitem__(self, id: str) -> Endpoint:
        return self._ready[id]

    def find(
        self, endpoint: str | EndpointRef | None, serves: Callable[[EngineInfo], bool] = lambda info: True
    ) -> Endpoint:
        """The endpoint of that name; the only one that can serve where none is given.

        Args:
            endpoint: which one.
            serves: whether an endpoint can serve.

        Raises:
            EndpointNotFound, AmbiguousEndpoint: there is none, or more than one.
        """
        if endpoint is None:
            if not self._ready:
                raise EndpointNotFound("The client has no endpoint yet.", hint="Add one with client.add(...).")
            # Where none can, the only one there is says why.
            able = {name: found for name, found in self._ready.items() if serves(found.info)} or self._ready
            if len(able) == 1:
                return next(iter(able.values()))
            raise AmbiguousEndpoint(f"{len(able)} endpoints could serve: {', '.join(able)}.")
        name = endpoint.id if isinstance(endpoint, EndpointRef) else endpoint
        if not isinstance(name, str):
            raise InvalidOption("endpoint", f"endpoint must be an endpoint's id, not {show(name)}.")
        if name not in self._ready:
            known = ", ".join(self._ready) or "none"
            raise EndpointNotFound(f"There is no endpoint {name!r}.", hint=f"Known endpoints: {known}.")
        return self._ready[name]

    async def add(self, id: str, descriptor: Descriptor) -> Endpoint:
        """Make one ready. One that has the id already is replaced when its runs have ended. Of several that are added
        with one id at the same time the last one stays.

        Raises:
            SippError: it can't be made ready; one of that id stays as it was.
        """
        task = asyncio.ensure_future(self._open_in_turn(id, descriptor))
        self._opening.add(task)
        self._on_state(id, self.state)
        try:
            endpoint = await task
        finally:
            self._opening.discard(task)
            self._on_state(id, self.state)
        old, self._ready[id] = self._ready.get(id), endpoint
        if old:
            await asyncio.shield(self._retire(old))
        return endpoint

    async def remove(self, endpoint: Endpoint) -> None:
        """Take one away. Its runs are cancelled."""
        del self._ready[endpoint.ref.id]
        await asyncio.shield(self._retire(endpoint, "the endpoint was removed"))

    async def close(self, reason: str) -> None:
        """Take all away, and those that are being added or removed too."""
        for task in self._opening:
            task.cancel()
        if self._opening:
            await asyncio.wait(self._opening)
        endpoints, self._ready = [*self._ready.values(), *self._retiring.values()], {}
        await asyncio.gather(*(endpoint.close(reason) for endpoint in endpoints))

    async def _open_in_turn(self, id: str, descriptor: Descriptor) -> Endpoint:
        turn = self._turns.setdefault(id, asyncio.Lock())
        async with turn:
            return await self._open(id, descriptor)

    async def _open(self, id: str, descriptor: Descriptor) -> Endpoint:
        async def load() -> Engine:
            room = Room(lambda: self._memory_beside(id), lambda nbytes: self._reserved.update({id: nbytes}))
            try:
                return await self._open_engine(id, descriptor, room)
            finally:
                self._reserved.pop(id, None)

        engine = await load()
        ref = EndpointRef(descriptor.kind, id, engine.info)
        runtime = (
            RuntimeConfig.of(descriptor.runtime)
            if isinstance(descriptor, LocalModel)
            else RuntimeConfig.of({"scheduler": {"max_queued_requests": descriptor.max_queued_requests}})
        )
        adapters = len(descriptor.lora) if isinstance(descriptor, LocalModel) else 0
        return Endpoint(ref, engine, load, runtime, adapters=adapters, on_state=lambda state: self._on_state(id, state))

    def _memory_beside(self, id: str) -> int:
        """Bytes that the models of the other endpoints take or are going to."""
        loaded = {name: endpoint.engine.memory for name, endpoint in self._ready.items() if endpoint.engine}
        return sum(nbytes for name, nbytes in {**loaded, **self._reserved}.items() if name != id)

    def _retire(self, endpoint: Endpoint, reason: str | None = None) -> asyncio.Task[None]:
        """Free an endpoint that no request can name any more."""
        task = asyncio.ensure_future(endpoint.close(reason))
        self._retiring[task] = endpoint
        task.add_done_callback(self._retiring.pop)
        return task
