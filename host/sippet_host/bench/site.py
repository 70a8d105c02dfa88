"""Serves the measured page: an empty document that may import Sippet's modules and those of other engines.

It is not the chat page's host, because other engines need a wider policy than Sippet: workers from ``blob:`` URLs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from .. import paths
from ..assets import AssetStore
from ..csp import build_policy
from ..errors import NotFound
from ..files import send_file
from ..mime import content_type
from .weights import Weights

_PAGE = '<!doctype html><html lang="en"><title>Benchmark</title></html>'
_BLOB = {"script-src": " blob:", "worker-src": " blob:", "connect-src": " blob:"}


class Site:
    """The page's files.

    Args:
        models: what it may load.
        folders: further folders, by their first path segment; of those that exist.
    """

    def __init__(self, models: Iterable[Weights], folders: dict[str, Path]) -> None:
        cache = paths.cache_dir()
        self._models = {model.sha256: model for model in models}
        self._folders = {name: AssetStore(folder, cache) for name, folder in folders.items() if folder.is_dir()}
        self._assets = AssetStore(paths.static_dir(), cache)
        self._headers = {
            "Content-Security-Policy": _policy(),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Embedder-Policy": "require-corp",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        self.assets = f"/assets/{self._assets.tree.version}/"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serves while the block runs; the value is the page's address."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/assets/{version:[^/]+}/{path:.+}", self._asset),
                web.get("/models/{sha256:[^/]+}/{name:[^/]+}", self._model),
                web.get("/{folder:[^/]+}/{path:.+}", self._file),
            ]
        )
        app.on_response_prepare.append(self._secure)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()

    async def _secure(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._headers)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=_PAGE, content_type="text/html")

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        return await _found(self._assets, request, request.match_info["version"])

    async def _file(self, request: web.Request) -> web.StreamResponse:
        folder = self._folders.get(request.match_info["folder"])
        if folder is None:
            raise web.HTTPNotFound
        return await _found(folder, request, None)

    async def _model(self, request: web.Request) -> web.StreamResponse:
        model = self._models.get(request.match_info["sha256"])
        if model is None:
            raise web.HTTPNotFound
        return await send_file(request, model.path, content_type=content_type(model.path.name), follow_symlinks=True)


async def _found(store: AssetStore, request: web.Request, version: str | None) -> web.StreamResponse:
    try:
        return await store.respond(request, request.match_info["path"], version)
    except NotFound as error:
        raise web.HTTPNotFound(text=str(error)) from error


def _policy() -> str:
    """Sippet's own policy for scripts, and what other engines need besides."""
    directives = build_policy(document=False).directives()
    return "; ".join(f"{name} {' '.join(sources)}{_BLOB.get(name, '')}" for name, sources in directives.items())
