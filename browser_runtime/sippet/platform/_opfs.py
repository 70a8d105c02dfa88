"""Storage in the origin's private file system (OPFS), with Web Locks and a BroadcastChannel between tabs.

Writing goes through sync access handles, which exist in workers only: fast, in place, and what was flushed survives a
crash of the tab. Reading goes through ``File`` slices, which need no exclusive handle.

Spec: https://fs.spec.whatwg.org/
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import js  # type: ignore[import-not-found]
from pyodide.ffi import JsException, create_proxy, to_js  # type: ignore[import-not-found]

from ..errors import StorageError, UnsupportedEnvironment
from .base import Source
from .storage import Block, Storage, StorageEstimate, StoredFile, check_name, failed, full

ROOT = "sippet"
_BUSY_TRIES, _BUSY_WAIT = 20, 0.1
_PERSIST_PATIENCE = 2.0  # seconds; Firefox asks the user, and a headless one never answers
_PIECE = 1 << 20


class JsBlock(Block):
    """A block in JavaScript's memory."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.filled = capacity, 0
        self._data = js.Uint8Array.new(capacity)

    @property
    def view(self) -> Any:
        """What it holds, as a ``Uint8Array`` without a copy."""
        return self._data.subarray(0, self.filled)

    def fill(self, piece: Any, start: int = 0) -> int:
        if isinstance(piece, (bytes, bytearray, memoryview)):
            piece = to_js(bytes(piece))
        count = min(piece.byteLength - start, self.capacity - self.filled)
        whole = start == 0 and count == piece.byteLength
        self._data.set(piece if whole else piece.subarray(start, start + count), self.filled)
        self.filled += count
        return int(count)

    async def sha256(self, start: int = 0) -> str:
        view = self._data.subarray(start, self.filled)
        subtle = getattr(js.crypto, "subtle", None)
        if subtle is not None:
            return bytes((await subtle.digest("SHA-256", view)).to_bytes()).hex()
        whole = hashlib.sha256()  # a page over plain HTTP on another host has no crypto.subtle
        for at in range(start, self.filled, _PIECE):
            whole.update(self._data.subarray(at, min(at + _PIECE, self.filled)).to_bytes())
        return whole.hexdigest()

    def to_bytes(self) -> bytes:
        return bytes(self.view.to_bytes())


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
    """A ``FileSystemSyncAccessHandle``."""

    def __init__(self, access: Any) -> None:
        self._access = access

    async def write(self, offset: int, data: Block | bytes, start: int = 0) -> None:
        view = data.view if isinstance(data, JsBlock) else to_js(data.to_bytes() if isinstance(data, Block) else data)
        if start:
            view = view.subarray(start)
        try:
            written = self._access.write(view, _object(at=offset))
        except JsException as error:
            raise _as_ours(error, view.byteLength) from error
        # A full disk is also told by a short count: 0 in Firefox, 2**32 - 8 in Chromium.
        if written != view.byteLength:
            raise full(int(view.byteLength))

    async def read(self, offset: int, length: int) -> bytes:
        view = js.Uint8Array.new(length)
        try:
            count = self._access.read(view, _object(at=offset))
        except JsException as error:
            raise _as_ours(error) from error
        return bytes(view.subarray(0, count).to_bytes())

    async def flush(self) -> None:
        try:
            self._access.flush()
        except JsException as error:
            raise _as_ours(error) from error

    async def resize(self, size: int) -> None:
        try:
            self._access.truncate(size)
        except JsException as error:
            raise _as_ours(error, size) from error

    async def close(self) -> None:
        if self._access is not None:
            access, self._access = self._access, None
            access.close()


class OpfsStorage(Storage):
    """The private file system of this page's origin, below one folder.

    Args:
        root: the folder's name.
    """

    def __init__(self, root: str = ROOT) -> None:
        self._root = root
        self._top: Any = None
        self._channels: dict[str, Any] = {}

    def block(self, capacity: int) -> Block:
        return JsBlock(capacity)

    async def open(self, name: str) -> StoredFile:
        handle = await self._file(name, create=True)
        if not hasattr(handle, "createSyncAccessHandle"):
            raise UnsupportedEnvironment(
                "Models can't be stored from here.",
                hint="Use execution_mode='worker' (the default), in a browser whose workers have sync access handles.",
                details={"feature": "opfs_sync_access"},
            )
        for attempt in range(_BUSY_TRIES):
            try:
                return OpfsFile(await handle.createSyncAccessHandle())
            except JsException as error:
                if error.name != "NoModificationAllowedError":
                    raise _as_ours(error) from error
                if attempt == _BUSY_TRIES - 1:
                    raise failed(f"{name} is in use.", "busy", "Close the other tabs that use this model.") from error
            await asyncio.sleep(_BUSY_WAIT)  # a handle of a tab that just died is freed a moment later
        raise AssertionError

    async def source(self, name: str) -> Source | None:
        handle = await self._file(name)
        return None if handle is None else OpfsSource(handle, await handle.getFile())

    async def read_block(self, name: str, offset: int, block: Block) -> None:
        handle = await self._file(name)
        if handle is None:
            raise failed(f"{name} is missing.")
        blob = await handle.getFile()
        try:
            buffer = await blob.slice(offset, offset + block.capacity).arrayBuffer()
        except JsException as error:
            raise _as_ours(error) from error
        block.fill(js.Uint8Array.new(buffer))

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
        try:
            yield await granted
        finally:
            if granted.done() and not granted.cancelled():
                release.set_result(None)
            else:
                controller.abort()
            request.add_done_callback(lambda done: (done.cancelled() or done.exception(), callback.destroy()))

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


def _as_ours(error: JsException, needed: int | None = None) -> StorageError:
    # Firefox has a name of its own for a full disk.
    if error.name in ("QuotaExceededError", "NS_ERROR_FILE_NO_DEVICE_SPACE", "NS_ERROR_DOM_QUOTA_EXCEEDED_ERR"):
        return full(needed)
    if "NO_DEVICE_SPACE" in str(error.message):
        return full(needed)
    if error.name in ("NotAllowedError", "SecurityError"):
        return failed("This browser refuses to store files for this page.", "denied", "Allow the site to store data.")
    return failed(f"Storage failed: {error.name}: {error.message}.")


def _object(**fields: Any) -> Any:
    return to_js(fields, dict_converter=js.Object.fromEntries)
