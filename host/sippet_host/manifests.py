"""The manifest of each served model: its files with the SHA-256 of every chunk, as `sippet.models.manifest` has it.

Hashing a model reads all of it, which takes a second for every half gigabyte or so. It is done when the manifest is
first asked for, in a thread, once for each version of the files, and remembered in the cache folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from pathlib import Path

from sippet.errors import SippError
from sippet.models.manifest import CHUNK, build_manifest
from sippet.platform._cpython import PathSource

from .errors import NotFound
from .hashcache import Fingerprint, atomic_write
from .models import ModelEntry, ModelFile

_TRIES = 3


class _Stopped(Exception):
    """The server ends; nobody waits for the hashes any more."""


class ManifestCache:
    """Manifests as they go over the wire.

    Args:
        folder: where they are kept. Losing it costs time only; one that can't be written is no error.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready: dict[str, tuple[list[Fingerprint], bytes]] = {}
        self._building: dict[str, asyncio.Task[bytes]] = {}
        self._stopped = threading.Event()

    async def get(self, entry: ModelEntry) -> bytes:
        """The manifest of a model. Who asks while it is worked out waits for the same work.

        Raises:
            NotFound: its files are gone, keep changing, or can't be described.
        """
        key = _key(entry)
        if (task := self._building.get(key)) is None:
            task = self._building[key] = asyncio.create_task(asyncio.to_thread(self._find, key, entry))
            task.add_done_callback(lambda _: self._building.pop(key, None))
        return await asyncio.shield(task)  # the work goes on when one who waits leaves

    def stop(self) -> None:
        """End the work that is under way."""
        self._stopped.set()

    def _find(self, key: str, entry: ModelEntry) -> bytes:
        for _ in range(_TRIES):
            try:
                before = _fingerprints(entry)
                if known := self._known(key, before):
                    return known
                data = self._build(entry)
                after = _fingerprints(entry)
            except (OSError, SippError, _Stopped) as error:
                raise NotFound(
                    f"{entry.id} has no manifest: {error}", hint="Its files can still be fetched without one."
                ) from error
            if before == after:
                self._remember(key, after, data)
                return data
        raise NotFound(f"{entry.id} has no manifest: its files keep changing.", hint="Try again later.")

    def _build(self, entry: ModelEntry) -> bytes:
        def going_on(done: int) -> None:
            if self._stopped.is_set():
                raise _Stopped("the server ends")

        def source(file: ModelFile) -> PathSource:
            found = PathSource(file.path)
            found.name = file.name  # as its URL has it; the path may have been a link
            return found

        manifest = build_manifest(
            [source(file) for file in entry.files],
            projector=source(entry.projector) if entry.projector else None,
            id=entry.id,
            name=entry.name,
            on_bytes=going_on,
        )
        return asyncio.run(manifest).to_json()

    def _known(self, key: str, fingerprints: list[Fingerprint]) -> bytes | None:
        if key not in self._ready:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                kept = json.loads((self._folder / f"{key}.json").read_bytes())
                self._ready[key] = ([Fingerprint(*mark) for mark in kept["files"]], kept["manifest"].encode())
        found = self._ready.get(key)
        return found[1] if found and found[0] == fingerprints else None

    def _remember(self, key: str, fingerprints: list[Fingerprint], data: bytes) -> None:
        if not all(mark.settled() for mark in fingerprints):
            return  # a second change could hide behind the same times
        self._ready[key] = (fingerprints, data)
        marks = [list(vars(mark).values()) for mark in fingerprints]
        kept = {"files": marks, "manifest": data.decode()}
        with contextlib.suppress(OSError):
            atomic_write(self._folder / f"{key}.json", json.dumps(kept).encode())


def _key(entry: ModelEntry) -> str:
    """Of these files under this name; a changed file takes the place of its older version."""
    names = [str(CHUNK), entry.id, entry.name, *(f"{file.name}\n{file.path}" for file in entry.all_files)]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:32]


def _fingerprints(entry: ModelEntry) -> list[Fingerprint]:
    return [Fingerprint.of(file.path.stat()) for file in entry.all_files]
