"""A server of model files that can misbehave in every way that servers do."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import math
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from aiohttp import web

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def flip(at: int, times: float = math.inf) -> Callable[[str, int, bytes], bytes]:
    """For ``ModelServer.alter``: the byte at ``at`` of a file is damaged, so many times."""
    left = times

    def alter(name: str, offset: int, data: bytes) -> bytes:
        nonlocal left
        if left and offset <= at < offset + len(data):
            left -= 1
            return data[: at - offset] + bytes([data[at - offset] ^ 1]) + data[at - offset + 1 :]
        return data

    return alter


@dataclass
class ModelServer:
    """What is served, how, and what was asked.

    Attributes:
        files: by name.
        etags: whether they have entity tags (their hash); ``dates`` whether they have dates.
        ranges: whether ranges are honoured.
        lengths: whether lengths are told.
        gzipped: whether bodies are compressed, asked for or not.
        if_range: whether ``If-Range`` is honoured.
        content_range: what is written as ``Content-Range``; the true one unless it says otherwise.
        redirect: a base URL that every request is sent on to; ``redirect_once`` sends it on within this server.
        refuse: statuses to answer with first, one after the other.
        strays: answers of something else (a proxy, a portal) that come first, one after the other.
        cut_after: body bytes after which a connection is cut; used up one by one.
        stall_after: likewise, but the connection stays open.
        alter: called with (name, offset, data) before a piece is sent.
        cors: whether pages of other origins may read.
        pace: seconds to sleep between pieces.
        requests: (method, name, range) of each request.
        sent: body bytes sent.
    """

    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    etags: bool = True
    dates: bool = False
    ranges: bool = True
    lengths: bool = True
    gzipped: bool = False
    if_range: bool = True
    content_range: Callable[[int, int, int], str | None] = lambda start, end, size: f"bytes {start}-{end - 1}/{size}"
    redirect: str = ""
    redirect_once: bool = False
    refuse: list[int] = field(default_factory=list)
    strays: list[web.Response] = field(default_factory=list)
    retry_after: str = ""
    cut_after: list[int] = field(default_factory=list)
    stall_after: list[int] = field(default_factory=list)
    alter: Callable[[str, int, bytes], bytes] = lambda name, offset, data: data
    cors: bool = False
    pace: float = 0.0
    piece: int = 64 << 10
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    sent: int = 0
    url: str = ""
    tags: dict[str, tuple[bytes, str]] = field(default_factory=dict, repr=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ModelServer]:
        app = web.Application()
        app.router.add_get("/{name:.+}", self.serve)
        runner = web.AppRunner(app, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        try:
            yield self
        finally:
            await runner.cleanup()

    def tag(self, name: str) -> str:
        data = self.files[name]
        if name not in self.tags or self.tags[name][0] is not data:
            self.tags[name] = (data, f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        return self.tags[name][1]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        name, wanted = request.match_info["name"], request.headers.get("Range", "")
        self.requests.append((request.method, name, wanted))
        if self.redirect_once and "moved/" not in name:
            raise web.HTTPFound(request.path.replace(name, "moved/" + name))
        name = name.removeprefix("moved/")
        if self.redirect:
            raise web.HTTPFound(self.redirect + name)
        if self.refuse:
            status = self.refuse.pop(0)
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return web.Response(status=status, headers=headers)
        if self.strays:
            return self.strays.pop(0)
        if name not in self.files:
            raise web.HTTPNotFound
        data, response = self.files[name], web.StreamResponse()
        start, end = 0, len(data)
        if self.cors:
            response.headers["Access-Control-Allow-Origin"] = "*"
        if self.etags:
            response.headers["ETag"] = self.tag(name)
        if self.dates:
            response.headers["Last-Modified"] = f"Sat, 21 Nov 2026 10:00:{len(data) % 60:02d} GMT"
        match = _RANGE.fullmatch(wanted) if self.ranges else None
        guard = request.headers.get("If-Range")
        current = (response.headers.get("ETag"), response.headers.get("Last-Modified"))
        if match and not (self.if_range and guard and guard not in current):
            start, end = int(match[1]), min(int(match[2] or len(data) - 1) + 1, len(data))
            if start >= len(data):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
            response.set_status(206)
            if (text := self.content_range(start, end, len(data))) is not None:
                response.headers["Content-Range"] = text
        body = memoryview(data)[start:end]
        if self.gzipped:
            body, response.headers["Content-Encoding"] = memoryview(gzip.compress(body, 1)), "gzip"
        if self.lengths:
            response.content_length = len(body)
        else:
            response.enable_chunked_encoding()
        await response.prepare(request)
        await self._send(request, response, name, start, body)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, name: str, start: int, body: memoryview
    ) -> None:
        cut = self.cut_after.pop(0) if self.cut_after else None
        stall = self.stall_after.pop(0) if self.stall_after and cut is None else None
        limit = cut if cut is not None else stall
        for offset in range(0, len(body), self.piece):
            piece = bytes(body[offset : offset + self.piece])
            if limit is not None and offset + len(piece) >= limit:
                piece = piece[: limit - offset]
            if piece:
                await response.write(self.alter(name, start + offset, piece))
                self.sent += len(piece)
            if limit is not None and offset + self.piece >= limit:
                if stall is not None:
                    await asyncio.sleep(60)
                assert request.transport is not None
                request.transport.abort()
                return
            if self.pace:
                await asyncio.sleep(self.pace)
        await response.write_eof()


@contextmanager
def in_a_thread(server: ModelServer) -> Iterator[ModelServer]:
    """Run it beside code that has an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = server.running()
    try:
        asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result()
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
