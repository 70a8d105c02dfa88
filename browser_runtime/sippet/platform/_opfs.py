"""Storage in the origin's private file system (OPFS), with Web Locks and a BroadcastChannel between tabs.

Writing goes through sync access handles, which exist in workers only: fast, in place, and what was flushed survives a
crash of the tab. They are in the storage worker, together with the memory and the downloads that they are filled from.
Reading goes through ``File`` slices, which need no exclusive handle.

Spec: https://fs.spec.whatwg.org/
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import js  # type: ignore[import-not-found]
from pyodide.ffi import JsException, create_proxy, to_js  # type: ignore[import-not-found]

from ..errors import StorageError, UnsupportedEnvironment
from ._fetch import DownloadClient, DownloadResponse, FetchClient, broken
from ._storage_port import StoragePort, WorkerFailure
from .base import Source
from .http import HttpClient, HttpResponse
from .notes import Kind, Note
from .storage import Arrival, Body, Notes, Storage, StorageEstimate, StoredFile, check_name, failed, full

ROOT = "sippet"
_READ_AT_ONCE = 8 << 20  # bytes; waiting for each part of a file takes longer than reading it
_BUSY_TRIES, _BUSY_WAIT = 20, 0.1
_PERSIST_PATIENCE = 2.0  # seconds; Firefox asks the user, and a headless one never answers


class WorkerBody(Body):
    """Bytes that come in the storage worker.

    Attributes:
        number: there.
        response: the answer that they are the body of; ``None`` for a file's.
    """

    def __init__(self, port: StoragePort, number: int, response: DownloadResponse | None = None) -> None:
        self.number, self.response, self._port = number, response, port

    def close(self) -> None:
        self._port.tell("end", body=self.number)


class OpfsSource(Source):
    """A file of the private file system. ``handle`` can be posted to a worker, which opens it there.

    Attributes:
        handle: a ``FileSystemFileHandle``.
        blob: a ``File``: a snapshot that can be sliced.
    """

    def __init__(self, handle: Any, blob: Any) -> None:
        self.handle, self.blob = handle, blob
        self.name, self.size = str(handle.name), int(blob.size)

    async def read(self, offset: int, length: int) -> bytes:
        buffer = await self.blob.slice(offset, offset + length).arrayBuffer()
        return bytes(buffer.to_bytes())


class OpfsFile(StoredFile):
    """A ``FileSystemSyncAccessHandle`` in the storage worker, where it is ``number``."""

    def __init__(self, port: StoragePort, number: int) -> None:
        self.number, self._port, self._open = number, port, True
        port.hold()

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        await self._do("write", len(data), at=offset, data=bytes(data))

    async def append(self, data: bytes) -> None:
        await self._do("append", len(data), data=data)

    async def receive(
        self, body: Body, start: int, end: int | None, *, chunk_size: int, notes: Notes, keep: Collection[int] = ()
    ) -> AsyncGenerator[Arrival]:
        if not isinstance(body, WorkerBody) or not isinstance(notes.journal, OpfsFile):
            arrivals = super().receive(body, start, end, chunk_size=chunk_size, notes=notes, keep=keep)
            async with aclosing(arrivals):
                async for arrival in arrivals:
                    yield arrival
            return
        patience = body.response.patience if body.response else None
        told = self._port.follow(
            "receive",
            file=self.number,
            body=body.number,
            start=start,
            chunkSize=chunk_size,
            keep=list(keep),
            journal=notes.journal.number,
            index=notes.file,
            hashParts=notes.hashed,
            **_given(end=end, patience=patience, every=notes.every),
        )
        try:
            async with aclosing(told):
                async for news in told:
                    hashes: dict[int, str] = {}
                    for note in Note.unpack_all(bytes(news["notes"])):
                        if note.chunk not in keep:
                            notes.learn(note)
                        if note.kind == Kind.WHOLE:
                            hashes[note.chunk] = note.sha256
                    yield Arrival(news["position"], hashes)
        except WorkerFailure as error:
            if error.kind == "network" and body.response:
                raise broken(body.response.url, patience, error) from error
            raise _as_ours(error) from error

    async def sha256(self, offset: int, length: int) -> str:
        return bytes(await self._do("digest", at=offset, length=length) or b"").hex()

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(await self._do("read", at=offset, length=length))

    async def flush(self) -> None:
        await self._do("flush")

    async def resize(self, size: int) -> None:
        await self._do("resize", size, size=size)

    async def close(self) -> None:
        if self._open:
            self._open = False
            try:
                await self._do("close")
            finally:
                self._port.release()

    async def _do(self, op: str, needed: int | None = None, /, **fields: Any) -> Any:
        try:
            return await self._port.ask(op, file=self.number, **fields)
        except WorkerFailure as error:
            raise _as_ours(error, needed) from error


class OpfsStorage(Storage):
    """The private file system of this page's origin, below one folder.

    Args:
        root: the folder's name.
    """

    def __init__(self, root: str = ROOT) -> None:
        self._root = root
        self._top: Any = None
        self._channels: dict[str, Any] = {}
        self._port = StoragePort()

    @asynccontextmanager
    async def downloading(self, http: HttpClient) -> AsyncIterator[HttpClient]:
        with self._port.held():
            yield DownloadClient(self._port) if type(http) is FetchClient else http

    def body(self, response: HttpResponse) -> Body:
        if isinstance(response, DownloadResponse):
            return WorkerBody(self._port, response.number, response)
        return super().body(response)

    def copy_of(self, source: Source, offset: int) -> Body:
        blob = getattr(source, "blob", None)
        if blob is None:
            return super().copy_of(source, offset)
        body = WorkerBody(self._port, self._port.number())
        self._port.tell("pick", body=body.number, blob=blob, start=offset)
        return body

    async def open(self, name: str) -> StoredFile:
        handle, number = await self._file(name, create=True), self._port.number()
        with self._port.held():
            for attempt in range(_BUSY_TRIES):
                try:
                    await self._port.ask("open", file=number, handle=handle)
                    return OpfsFile(self._port, number)
                except WorkerFailure as error:
                    if error.name == "TypeError":
                        raise UnsupportedEnvironment(
                            "This browser can't write files in place.",
                            hint="Update the browser; a model can still be used without being stored.",
                            details={"feature": "opfs_sync_access"},
                        ) from error
                    if error.name != "NoModificationAllowedError":
                        raise _as_ours(error) from error
                    if attempt == _BUSY_TRIES - 1:
                        hint = "Close the other tabs that use this model."
                        raise failed(f"{name} is in use.", "busy", hint) from error
                await asyncio.sleep(_BUSY_WAIT)  # a handle of a tab that just died is freed a moment later
        raise AssertionError

    async def source(self, name: str) -> Source | None:
        handle = await self._file(name)
        return None if handle is None else OpfsSource(handle, await handle.getFile())

    async def hashes(self, name: str, parts: Sequence[tuple[int, int]]) -> AsyncGenerator[str]:
        blob = None
        with suppress(StorageError, JsException):
            handle = await self._file(name)
            blob = None if handle is None else await handle.getFile()

        async def digest(offset: int, length: int) -> str:
            if blob is not None:
                with suppress(JsException):
                    data = await blob.slice(offset, offset + length).arrayBuffer()
                    sha256 = await js.crypto.subtle.digest("SHA-256", data)
                    return bytes(sha256.to_bytes()).hex() if data.byteLength == length else ""
            return ""

        count = max(1, _READ_AT_ONCE // max((length for _, length in parts), default=1))
        for first in range(0, len(parts), count):
            for found in await asyncio.gather(*[digest(*part) for part in parts[first : first + count]]):
                yield found

    async def save(self, name: str, data: bytes) -> None:
        handle = await self._file(name, create=True)
        try:
            writable = await handle.createWritable()  # writes beside the file, and replaces it when it is closed
            await writable.write(to_js(data))
            await writable.close()
        except JsException as error:
            raise _as_ours(error, len(data)) from error

    async def load(self, name: str) -> bytes | None:
        handle = await self._file(name)
        if handle is None:
            return None
        try:
            buffer = await (await handle.getFile()).arrayBuffer()
        except JsException as error:
            if error.name == "NotFoundError":
                return None
            raise _as_ours(error) from error
        return bytes(buffer.to_bytes())

    async def delete(self, name: str) -> None:
        *folders, last = check_name(name)
        folder = await self._folder(folders)
        if folder is None:
            return
        for attempt in range(_BUSY_TRIES):
            try:
                await folder.removeEntry(last, _object(recursive=True))
                return
            except JsException as error:
                if error.name == "NotFoundError":
                    return
                if error.name != "NoModificationAllowedError" or attempt == _BUSY_TRIES - 1:
                    hint = "Close the other tabs that use this model."
                    raise failed(f"{name} can't be removed: it is in use.", "busy", hint) from error
            await asyncio.sleep(_BUSY_WAIT)

    async def entries(self, folder: str) -> Mapping[str, int]:
        handle = await self._folder(check_name(folder))
        found: dict[str, int] = {}
        if handle is not None:
            entries = handle.values()
            while not (step := await entries.next()).done:
                entry = step.value
                found[str(entry.name)] = -1 if entry.kind == "directory" else int((await entry.getFile()).size)
        return dict(sorted(found.items()))

    async def estimate(self) -> StorageEstimate:
        manager = _manager()
        estimate = await manager.estimate()
        return StorageEstimate(int(estimate.usage or 0), int(estimate.quota) or None, bool(await manager.persisted()))

    async def persist(self) -> bool:
        manager = _manager()
        if await manager.persisted():
            return True
        # Only pages may ask; in a worker the method is missing in some browsers.
        if not hasattr(manager, "persist"):
            return False
        try:
            async with asyncio.timeout(_PERSIST_PATIENCE):
                return bool(await manager.persist())
        except (TimeoutError, JsException):
            return False

    @asynccontextmanager
    async def lock(self, name: str, *, wait: bool = True) -> AsyncIterator[bool]:
        locks = getattr(js.navigator, "locks", None)
        if locks is None:
            yield True  # such a browser has no OPFS handles for two either: the second open is refused
            return
        granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        controller = js.AbortController.new()

        async def hold(lock: Any) -> None:
            if not granted.done():
                granted.set_result(bool(lock))  # JavaScript's null is no None, but false
            if lock:
                await release

        callback = create_proxy(hold)
        options = _object(signal=controller.signal) if wait else _object(ifAvailable=True)
        request = asyncio.ensure_future(locks.request(f"{self._root}/{name}", options, callback))

        def ended(request: asyncio.Future[Any]) -> None:
            callback.destroy()
            error = None if request.cancelled() else request.exception()
            if error is not None and not granted.done():  # refused: nobody will ever call back
                granted.set_exception(_as_ours(error) if isinstance(error, JsException) else error)

        request.add_done_callback(ended)
        try:
            yield await granted
        finally:
            release.set_result(None)
            if granted.cancelled():
                controller.abort()

    def broadcast(self, topic: str, message: Mapping[str, Any]) -> None:
        if topic not in self._channels:
            self._channels[topic] = js.BroadcastChannel.new(f"{self._root}/{topic}")
        self._channels[topic].postMessage(_object(**message))

    def listen(self, topic: str, callback: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        channel = js.BroadcastChannel.new(f"{self._root}/{topic}")
        proxy = create_proxy(lambda event: callback(event.data.to_py()))
        channel.onmessage = proxy

        def end() -> None:
            channel.onmessage = None
            channel.close()
            proxy.destroy()

        return end

    async def _folder(self, parts: list[str], *, create: bool = False) -> Any:
        """A folder's handle, or ``None`` where it doesn't exist."""
        if self._top is None:
            manager = _manager()
            try:
                self._top = await (await manager.getDirectory()).getDirectoryHandle(self._root, _object(create=True))
            except JsException as error:
                raise StorageError(
                    "This browser refuses to store files for this page.",
                    hint="Leave the private window, or allow the site to store data; a model can still be used "
                    "without being stored.",
                    details={"reason": "denied"},
                ) from error
        handle = self._top
        for part in parts:
            try:
                handle = await handle.getDirectoryHandle(part, _object(create=create))
            except JsException as error:
                if error.name in ("NotFoundError", "TypeMismatchError") and not create:
                    return None
                raise _as_ours(error) from error
        return handle

    async def _file(self, name: str, *, create: bool = False) -> Any:
        *folders, last = check_name(name)
        folder = await self._folder(folders, create=create)
        if folder is None:
            return None
        try:
            return await folder.getFileHandle(last, _object(create=create))
        except JsException as error:
            if error.name in ("NotFoundError", "TypeMismatchError") and not create:
                return None
            raise _as_ours(error) from error


def _manager() -> Any:
    manager = getattr(js.navigator, "storage", None)
    if manager is None or not hasattr(manager, "getDirectory"):
        raise UnsupportedEnvironment(
            "This browser has no private file system.",
            hint="Serve the page over HTTPS or from localhost, in a newer browser; a model can still be used without "
            "being stored.",
            details={"feature": "opfs"},
        )
    return manager


def _as_ours(error: JsException | WorkerFailure, needed: int | None = None) -> StorageError:
    # Firefox has a name of its own for a full disk.
    if error.name in ("QuotaExceededError", "NS_ERROR_FILE_NO_DEVICE_SPACE", "NS_ERROR_DOM_QUOTA_EXCEEDED_ERR"):
        return full(needed)
    if "NO_DEVICE_SPACE" in str(error.message):
        return full(needed)
    if error.name in ("NotAllowedError", "SecurityError"):
        return failed("This browser refuses to store files for this page.", "denied", "Allow the site to store data.")
    return failed(f"Storage failed: {error.name}: {error.message}.")


def _given(**fields: Any) -> dict[str, Any]:
    """Those that are not ``None``, which JavaScript would take for a null."""
    return {name: value for name, value in fields.items() if value is not None}


def _object(**fields: Any) -> Any:
    return to_js(fields, dict_converter=js.Object.fromEntries)
