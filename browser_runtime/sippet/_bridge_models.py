"""``client.models`` for a page: one method of the protocol, whose ``op`` says what is to be done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .protocol import rename, to_page, to_python

if TYPE_CHECKING:
    from .models.installation import Installation
    from .models.store import ModelStore


class ModelsBridge:
    """Serves the installed models to one page."""

    def __init__(self, store: Callable[[], ModelStore]) -> None:
        """
        Args:
            store: gives the installed models.
        """
        self._store = store
        self._running: dict[int, Installation] = {}

    async def serve(self, number: int, params: Mapping[str, Any], progress: Callable[[Any], Any]) -> Any:
        """Do what a message asks for.

        Args:
            number: the request's.
            params: ``op``, ``id`` or ``source``, and ``options``.
            progress: posts a status to the page.
        """
        store, options = self._store(), to_python(params.get("options") or {}, {"context": {}})
        match params.get("op"):
            case "add":
                run = store.install(params.get("source"), on_progress=lambda s: progress(to_page(s)), **options)
                self._running[number] = run
                try:
                    return rename((await run).to_dict())
                finally:
                    del self._running[number]
            case "pause" | "resume" as op:
                run_there = self._running.get(params["request"])
                if run_there is not None:
                    getattr(run_there, op)()
                return None
            case "list":
                return [rename(model.to_dict()) for model in await store.list()]
            case "get":
                return rename((await store.get(params["id"])).to_dict())
            case "remove":
                return await store.remove(params["id"])
            case "verify":
                found = await store.verify(params["id"], on_progress=lambda s: progress(to_page(s)), **options)
                return {**to_page(found), "sound": found.sound}
            case "estimate":
                return rename((await store.estimate(params.get("source"), **options)).to_dict())
            case "storage":
                return to_page(await store.storage())
            case "registry":
                entries = await store.registry()
                listed = [rename(entry.to_dict()) for entry in entries.values()]
                return {"models": listed, "defaultModel": next(iter(entries), None)}
            case "removeUnfinished":
                return await store.remove_unfinished()
            case "memoryLimit":
                return to_page(await store.memory_limit())
            case "persist":
                return await store.persist()
        raise UsageError(f"client.models has no {params.get('op')!r}.")
