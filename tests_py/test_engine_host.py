"""The line to an engine host: replies, streams, and hosts that end or say nothing. The host itself runs in tabs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sippet import AssetError, EngineCrashed
from sippet.engines import _host
from sippet.engines._host import HostError, HostLine
from sippet.platform.base import EngineAssets, EnginePort

ASSETS = EngineAssets("/engine.mjs", "/engine.wasm")


class Port(EnginePort):
    """A host that answers what ``answer`` makes of a message."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], list[dict[str, Any]]] = lambda message: []) -> None:
        self.answer = answer
        self.posted: list[Mapping[str, Any]] = []
        self.closed = 0

    def post(self, message: Mapping[str, Any]) -> None:
        self.posted.append(message)
        loop = asyncio.get_running_loop()
        for reply in self.answer(message):
            loop.call_soon(self.receive, {"id": message["id"], **reply})

    def close(self) -> None:
        self.closed += 1


async def read(line: HostLine) -> list[Any]:
    return [reply async for reply in line.stream({}, cancel=dict)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host is given up after 0.2 seconds without a word."""
    monkeypatch.setattr(_host, "TICK", 0.02)
    monkeypatch.setattr(_host, "SILENCE", 10)


def test_each_request_gets_its_own_reply() -> None:
    async def main() -> list[Any]:
        line = HostLine(Port(lambda message: [{"data": message["name"]}]))
        replies = await asyncio.gather(*(line.request({"name": name}) for name in "abc"))
        line.close()
        return [reply["data"] for reply in replies]

    assert asyncio.run(main()) == ["a", "b", "c"]


def test_a_stream_left_early_is_cancelled_and_one_at_its_end_is_not() -> None:
    async def main() -> list[str]:
        port = Port(lambda message: [{"n": 1}, {"n": 2, "last": True}] if message["op"] == "stream" else [])
        line = HostLine(port)
        assert [reply["n"] for reply in await read(line)] == [1, 2]
        stream = line.stream({}, cancel=lambda: {"why": "enough"})
        await anext(stream)
        await stream.aclose()
        line.close()
        return [str(message["op"]) for message in port.posted]

    assert asyncio.run(main()) == ["stream", "stream", "cancel"]


@pytest.mark.usefixtures("impatient")
def test_a_host_that_goes_silent_fails_whatever_waits_and_is_ended() -> None:
    async def main() -> Port:
        port = Port()
        line = HostLine(port)
        waiting = [asyncio.ensure_future(line.request({"op": "call"})), asyncio.ensure_future(read(line))]
        async with asyncio.timeout(60):
            errors = await asyncio.gather(*waiting, return_exceptions=True)
        for error in errors:
            assert isinstance(error, HostError) and error.crashed
            assert "said nothing" in str(error.to_crash())
        with pytest.raises(EngineCrashed, match="said nothing"):
            await line.request({"op": "call"})
        return port

    assert asyncio.run(main()).closed == 1


@pytest.mark.usefixtures("impatient")
def test_a_host_that_gives_signs_of_life_is_waited_for() -> None:
    async def main() -> Any:
        port = Port()
        line = HostLine(port)
        waiting = asyncio.ensure_future(line.request({"op": "call"}))
        for _ in range(30):  # three times as long as silence would be borne
            await asyncio.sleep(0.02)
            port.receive({"id": 0, "alive": True})
        port.receive({"id": port.posted[0]["id"], "data": 5})
        reply = await waiting
        line.close()
        return reply["data"]

    assert asyncio.run(main()) == 5


@pytest.mark.usefixtures("impatient")
def test_a_host_that_nobody_asks_may_be_silent() -> None:
    async def main() -> int:
        port = Port(lambda message: [{"data": 1}])
        line = HostLine(port)
        await line.request({"op": "call"})
        await asyncio.sleep(0.5)
        reply = await line.request({"op": "call"})
        line.close()
        return int(reply["data"])

    assert asyncio.run(main()) == 1


def test_a_host_that_ends_fails_whatever_waits() -> None:
    async def main() -> None:
        port = Port()
        line = HostLine(port)
        waiting = asyncio.ensure_future(line.request({"op": "call"}))
        await asyncio.sleep(0)
        port.receive({"id": None, "error": {"kind": "crash", "message": "its script failed", "log": ["a line"]}})
        with pytest.raises(HostError, match="its script failed"):
            await waiting
        with pytest.raises(EngineCrashed):
            await line.request({"op": "call"})
        line.send({"op": "cancel"})
        assert len(port.posted) == 1, "a host that has ended is told nothing"
        line.close()

    asyncio.run(main())


def test_a_module_that_is_blocked_is_an_asset_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_host, "GRACE", 0.05)

    async def main() -> None:
        with pytest.raises(AssetError, match="did not start") as caught:
            await HostLine(Port()).open("sippet", ASSETS)
        assert caught.value.details["wasm_url"] == "/engine.wasm"

    asyncio.run(main())


def test_close_fails_whatever_waits_and_can_be_called_twice() -> None:
    async def main() -> int:
        port = Port()
        line = HostLine(port)
        waiting = asyncio.ensure_future(read(line))
        await asyncio.sleep(0)
        line.close()
        line.close()
        with pytest.raises(HostError, match="closed"):
            await waiting
        return port.closed

    assert asyncio.run(main()) == 1
