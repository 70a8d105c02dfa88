"""The line to an engine host (``static/js/engine_host.mjs``): requests with one reply, streams, and crashes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from ..errors import AssetError, EngineCrashed
from ..platform.base import EngineAssets, EnginePort

GRACE = 120.0
"""Seconds that opening the module may take. A blocked script or WASM file makes it hang without an error."""

TICK = 30.0
"""Seconds between two looks at whether the host has said anything."""

SILENCE = 20
"""Looks without a word, while something waits, after which the host is given up: no step of any model that a tab can
hold takes ten minutes, and where one of the engine's threads has died, a step never ends. Looks are counted and not
seconds, for a machine that slept has not been silent."""


class HostError(Exception):
    """The engine host reported a failure; what it means depends on what was asked.

    Attributes:
        code: the engine's own code for it, where it has any.
        log: its last log lines.
        crashed: nothing more will come from this host.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.message = str(fields["message"])
        super().__init__(self.message)
        self.code = str(fields.get("code") or "")
        self.log = [str(line) for line in fields.get("log") or ()]
        self.crashed = fields["kind"] == "crash"

    def to_crash(self) -> EngineCrashed:
        return EngineCrashed(f"The engine ended: {self.message}.", details={"log": self.log})


class HostLine:
    """One engine host, from its start to its end."""

    def __init__(self, port: EnginePort) -> None:
        self._port = port
        self._port.receive = self._receive
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._streams: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._crash: EngineCrashed | None = None
        self._closed = False
        self._silent = 0  # looks since the host's last word
        self._watch: asyncio.TimerHandle | None = None

    async def open(self, engine: str, assets: EngineAssets, **options: Any) -> dict[str, Any]:
        """Load the module. Returns what the host says of it.

        Raises:
            AssetError: its files are missing, blocked or altered.
        """
        message = {
            "op": "open",
            "engine": engine,
            "moduleUrl": assets.module_url,
            "wasmUrl": assets.wasm_url,
            "pthreadUrl": assets.pthread_url,
            **options,
        }
        try:
            async with asyncio.timeout(GRACE):
                reply = await self.request(message)
        except TimeoutError as error:
            raise _blocked(assets, f"it did not start within {GRACE:g} seconds") from error
        except HostError as error:
            raise _blocked(assets, error.message) from error
        opened: dict[str, Any] = reply["opened"]
        return opened

    async def request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and wait for its one reply.

        Raises:
            HostError: the host reported a failure.
            EngineCrashed: the host has ended already.
        """
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[number] = future
        try:
            self._post({**message, "id": number})
            self._look_later()
            reply = await future
        finally:
            del self._replies[number]
        if "error" in reply:
            raise self._failure(reply["error"])
        return reply

    async def stream(
        self, message: Mapping[str, Any], cancel: Callable[[], Mapping[str, Any]]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Send a message and yield all that comes for it. Leaving early sends what ``cancel`` makes.

        Raises:
            HostError: the host reported a failure.
        """
        number = next(self._ids)
        queue = self._streams[number] = asyncio.Queue()
        finished = False
        try:
            self._post({**message, "op": "stream", "id": number})
            self._look_later()
            while not finished:
                reply = await queue.get()
                finished = "error" in reply or bool(reply.get("last"))
                if "error" in reply:
                    raise self._failure(reply["error"])
                yield reply
        finally:
            del self._streams[number]
            if not finished:
                self.send({**cancel(), "op": "cancel", "id": number})

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message that nobody waits for; a host that has ended needs no telling."""
        if self._crash is None:
            self._port.post({"id": next(self._ids), **message})

    def close(self) -> None:
        """End the host and free its memory; whatever waits for it fails."""
        if self._closed:
            return
        self._closed = True
        if self._watch:
            self._watch.cancel()
        self._fail("the engine was closed")
        self._port.close()

    def _post(self, message: Mapping[str, Any]) -> None:
        if self._crash:
            raise self._crash
        self._port.post(message)

    def _look_later(self) -> None:
        if self._watch is None:
            self._silent = 0
            self._watch = asyncio.get_running_loop().call_later(TICK, self._look)

    def _look(self) -> None:
        """Give the host up where it has been silent for too long."""
        self._watch = None
        if not self._replies and not self._streams:
            return
        silent = self._silent + 1
        if silent >= SILENCE:
            self._fail(f"it said nothing for {SILENCE * TICK:g} seconds")
            self._port.close()  # it may be computing still, for nobody
            return
        self._look_later()
        self._silent = silent

    def _receive(self, message: dict[str, Any]) -> None:
        self._silent = 0
        number = message.get("id")
        if number is None:
            self._fail(message["error"]["message"])
        elif number in self._streams:
            self._streams[number].put_nowait(message)
        elif number in self._replies and not self._replies[number].done():
            self._replies[number].set_result(message)

    def _fail(self, reason: str) -> None:
        message = {"error": {"kind": "crash", "message": reason, "log": []}}
        self._failure(message["error"])
        for future in self._replies.values():
            if not future.done():
                future.set_result(message)
        for queue in self._streams.values():
            queue.put_nowait(message)

    def _failure(self, fields: Mapping[str, Any]) -> HostError:
        failure = HostError(fields)
        if failure.crashed and self._crash is None:
            self._crash = failure.to_crash()
        return failure


def _blocked(assets: EngineAssets, why: str) -> AssetError:
    return AssetError(
        f"The engine could not be started: {why}",
        hint="Check that its files are served unchanged, as text/javascript and application/wasm, and that the "
        "policy has script-src 'self' 'wasm-unsafe-eval' and worker-src 'self'.",
        details={"module_url": assets.module_url, "wasm_url": assets.wasm_url},
    )
