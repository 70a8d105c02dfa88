"""Conversations that outlive their engine: what a slot has computed, kept in this place's storage.

A saved conversation belongs to one model, loaded in one way: it is found again only where both are the same. What is
missing, damaged or refused by the engine is a miss, and the prompt is computed anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Sequence

from .config import ContextConfig
from .engines.base import Engine
from .errors import SippError, UnsupportedOperation
from .platform.base import Source
from .platform.storage import Storage

FOLDER = "contexts"
SAMPLES = 8
SAMPLE = 64 << 10  # bytes
DIGEST = 32  # bytes of SHA-256 before what is saved

_NO_MATTER = ("n_threads", "n_threads_batch", "n_batch", "n_ubatch", "n_parallel", "warmup")
"""Fields that change how the cache is computed, but not what is in it."""


def identifier(
    sources: Sequence[Source], projector: Source | None, context: ContextConfig, engine: str
) -> Callable[[], Awaitable[str]]:
    """What tells a model, loaded in one way, from all others: the hexadecimal SHA-256 of samples of its files and of
    its configuration, worked out when it is first asked for. The whole files would take longer to read than the prompt
    to compute.

    Args:
        sources: the model's files.
        projector: its image projector.
        context: how it is loaded.
        engine: what computes it.
    """
    files = [*sources, projector] if projector else sources
    known: str | None = None

    async def identify() -> str:
        nonlocal known
        if known is None:
            known = await _identity(files, context, engine)
        return known

    return identify


async def _identity(sources: Sequence[Source], context: ContextConfig, engine: str) -> str:
    fields = {name: value for name, value in dataclasses.asdict(context).items() if name not in _NO_MATTER}
    found = hashlib.sha256(repr((engine, sorted(fields.items()), [source.size for source in sources])).encode())
    for source in sources:
        step = max(source.size // SAMPLES, SAMPLE)
        for offset in range(0, source.size, step):
            found.update(await source.read(offset, SAMPLE))
    return found.hexdigest()


class SavedContexts:
    """The saved conversations of this place."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def save(self, engine: Engine, slot: int, key: str) -> int:
        """Keep what a slot has computed. Returns the bytes that this takes.

        Raises:
            UnsupportedOperation: the engine can't.
            StorageError: there is no room.
        """
        if engine.identify is None:
            raise UnsupportedOperation(
                "This endpoint can't save conversations.",
                hint="Sippet's own engine and the native one can, for models without LoRA adapters.",
            )
        data = await engine.save_slot(slot)
        await self._storage.save(await _name(engine, key), hashlib.sha256(data).digest() + data)
        return DIGEST + len(data)

    async def restore(self, engine: Engine, slot: int, key: str) -> bool:
        """Give a slot what was kept. Returns whether there was something."""
        if engine.identify is None:
            return False
        name = await _name(engine, key)
        kept = await self._storage.load(name)
        if kept is None:
            return False
        digest, data = kept[:DIGEST], kept[DIGEST:]
        try:
            if hashlib.sha256(data).digest() == digest:
                await engine.restore_slot(slot, data)
                return True
        except SippError:
            pass  # it is of another version of the engine, say: not worth an error, for nothing is lost but time
        await self._storage.delete(name)
        return False

    async def forget(self, engine: Engine, key: str) -> None:
        """Delete what was kept of a conversation with this engine's model, if anything."""
        if engine.identify is not None:
            await self._storage.delete(await _name(engine, key))

    async def forget_everywhere(self, key: str) -> None:
        """Delete what was kept of a conversation with any model."""
        for model in await self._storage.entries(FOLDER):
            await self._storage.delete(f"{FOLDER}/{model}/{_file_name(key)}")


async def _name(engine: Engine, key: str) -> str:
    assert engine.identify is not None
    return f"{FOLDER}/{(await engine.identify())[:32]}/{_file_name(key)}"


def _file_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]
