"""``client.models`` for a page: one method of the protocol, whose ``op`` says what is to be done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import InvalidOption, UsageError
from .protocol import camel, rename, to_page, to_python

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
        op = str(params.get("op"))
        _check_options(op, options)
        if op in ("get", "remove", "verify") and not isinstance(params.get("id"), str):
            raise InvalidOption("id", "A model's id must be a text.", hint="client.models.list() tells the ids.")
        match op:
            case "add":
                run = store.install(params.get("source"), on_progress=lambda s: progress(to_page(s)), **options)
                self._running[number] = run
                try:
                    return rename((await run).to_dict())
                finally:
                    del self._running[number]
            case "pause" | "resume":
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
        raise UsageError(f"client.models has no {op!r}.")


_OPTIONS = {"add": ("id", "name", "projector", "evict"), "verify": ("repair",), "estimate": ("projector", "context")}


def _check_options(op: str, options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in _OPTIONS.get(op, ()):
            known = ", ".join(map(camel, _OPTIONS.get(op, ()))) or "none"
            raise InvalidOption(name, f"models.{op}() has no option {camel(name)!r}.", hint=f"Known options: {known}.")
