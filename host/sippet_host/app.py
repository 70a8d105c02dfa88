"""The aiohttp application: routes, middlewares, lifecycle."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from . import offline
from .assets import AssetStore
from .catalogue import Catalogue
from .errors import BadRequest, HostError, HttpError, InternalError, MethodNotAllowed, NotFound, RequestTooLarge
from .files import not_modified, send_file
from .hashcache import HashCache
from .headers import SecurityHeaders
from .hostcheck import HostCheck
from .manifests import ManifestCache
from .mime import content_type
from .models import manifest
from .offers import Offers
from .page import Page, script_safe_json
from .settings import Settings
from .version import __version__

log = logging.getLogger("sippet_host")

MAX_BODY = 1024 * 1024
FAVICON = "favicon.svg"
MODEL_HASHES = "model-hashes.json"
MODEL_MANIFESTS = "manifests"


class Host:
    """What the handlers share: the settings and what is derived from them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.assets = AssetStore(settings.static_dir, settings.cache_dir)
        self.page = Page(settings)
        self.headers = SecurityHeaders(settings)
        self.host_check = HostCheck(settings.host, settings.allowed_hosts)
        hashes = HashCache(settings.cache_dir / MODEL_HASHES)
        self.models = Catalogue(settings.models, settings.models_dir, hashes, settings.registry)
        self.offers = Offers(settings)
        self.manifests = ManifestCache(settings.cache_dir / MODEL_MANIFESTS)

    async def index(self, request: web.Request) -> web.StreamResponse:
        tree = await asyncio.to_thread(self.assets.refresh)
        models = await asyncio.to_thread(self.models.refresh)
        html = self.page.render(f"/assets/{tree.version}/", self.offers.listed(models))
        return web.Response(text=html, content_type="text/html", headers={"Cache-Control": "no-cache"})

    async def versioned_asset(self, request: web.Request) -> web.StreamResponse:
        return await self.assets.respond(request, request.match_info["path"], request.match_info["version"])

    async def unversioned_asset(self, request: web.Request) -> web.StreamResponse:
        return await self.assets.respond(request, request.match_info["path"], None)

    async def service_worker(self, request: web.Request) -> web.StreamResponse:
        """At the top, because a service worker serves what lies below its own address only."""
        tree = await asyncio.to_thread(self.assets.refresh)
        asset = tree.assets.get(offline.SCRIPT)
        if asset is None:
            raise NotFound("This server's page has no service worker.")
        code = await asyncio.to_thread(asset.path.read_text, "utf-8")
        return web.Response(
            text=offline.worker_script(code, tree.version, tree.assets),
            content_type="text/javascript",
            charset="utf-8",
            headers={"Cache-Control": "no-cache"},
        )

    async def favicon(self, request: web.Request) -> web.StreamResponse:
        return await self.assets.respond(request, FAVICON, None)

    async def model_list(self, request: web.Request) -> web.StreamResponse:
        models = await asyncio.to_thread(self.models.refresh)
        return web.json_response(manifest(models), headers={"Cache-Control": "no-cache"})

    async def model_registry(self, request: web.Request) -> web.StreamResponse:
        models = await asyncio.to_thread(self.models.refresh)
        return web.json_response(self.offers.registry(models), headers={"Cache-Control": "no-cache"})

    async def model_manifest(self, request: web.Request) -> web.StreamResponse:
        entry = self.models.entry(request.match_info["id"])
        if entry is None:
            raise NotFound("This server has no such model.", hint="/models/manifest.json lists what there is.")
        body = await self.manifests.get(entry)
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        headers = {"Cache-Control": "no-cache", "ETag": tag}
        if not_modified(request, tag, None):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def model_file(self, request: web.Request) -> web.StreamResponse:
        file = self.models.find(request.match_info["id"], request.match_info["name"])
        if file is None:
            raise NotFound("This server has no such model file.", hint="/models/manifest.json lists what there is.")
        return await send_file(
            request,
            file.path,
            content_type=content_type(file.name),
            etag=file.etag,
            headers={"Cache-Control": "no-cache"},
        )

    async def health(self, request: web.Request) -> web.StreamResponse:
        body = {"status": "ok", "version": __version__, "models": len(self.models)}
        return web.json_response(body, headers={"Cache-Control": "no-store"})


HOST: web.AppKey[Host] = web.AppKey("sippet_host", Host)


def create_app(settings: Settings) -> web.Application:
    """An application that serves the page, the assets and the models.

    Run it with `sippet_host.server`, which also gives the security headers to the answers that aiohttp makes before
    an application is asked (malformed requests).

    Raises:
        HostError: the settings can't be served.
    """
    host = Host(settings)
    app = web.Application(middlewares=[_errors, _guard], client_max_size=MAX_BODY)
    app[HOST] = host
    app.add_routes(
        [
            web.get("/", host.index),
            web.get("/favicon.ico", host.favicon),
            web.get("/service_worker.js", host.service_worker),
            web.get("/healthz", host.health),
            web.get("/assets/{version:[^/]+}/{path:.+}", host.versioned_asset),
            web.get("/static/{path:.+}", host.unversioned_asset),
            web.get("/models/manifest.json", host.model_list),
            web.get("/models/registry.json", host.model_registry),
            web.get("/models/{id:[^/]+}/manifest.json", host.model_manifest),
            web.get("/models/{id:[^/]+}/{name:[^/]+}", host.model_file),
        ]
    )
    app.on_response_prepare.append(_secure)
    app.cleanup_ctx.append(_background)
    return app


async def _background(app: web.Application) -> Any:
    app[HOST].assets.start()
    yield
    app[HOST].manifests.stop()
    await asyncio.to_thread(app[HOST].assets.stop)


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    request.config_dict[HOST].headers.apply(response.headers, response.content_type)


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What holds for every request, before anything is looked up."""
    request.config_dict[HOST].host_check.check(request)
    length = request.content_length
    if length is not None and length > MAX_BODY:
        raise RequestTooLarge(f"The body is longer than {MAX_BODY} bytes.")
    return await handler(request)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every failure into a coded answer."""
    try:
        return await handler(request)
    except HttpError as error:
        return error_response(request, error)
    except web.HTTPException as error:
        return error_response(request, http_error(error), error.status)
    except (ConnectionError, asyncio.CancelledError):
        raise  # nobody is left to answer
    except HostError as error:  # says by itself what is wrong with the installation
        log.error("%s %s: %s", request.method, request.rel_url.raw_path[:200], error)
        return error_response(request, error)
    except Exception:
        log.exception("%s %s failed", request.method, request.rel_url.raw_path[:200])
        return error_response(request, InternalError("The server failed."))


def error_response(request: web.BaseRequest, error: HostError, status: int | None = None) -> web.Response:
    """An error as JSON, ``{"error": {"code", "message"}}``, or as a line of text for a page that a person opens.

    Args:
        status: the HTTP status, where it isn't the error's own; 500 for errors that have none.
    """
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, HttpError):
        headers |= error.headers
        status = status or error.status
    status = status or InternalError.status
    if request.headers.get("Sec-Fetch-Dest") == "document":
        return web.Response(status=status, text=f"{error.code}: {error}\n", headers=headers)
    body = {"error": {"code": error.code, "message": str(error)}}
    return web.Response(status=status, text=script_safe_json(body), content_type="application/json", headers=headers)


def http_error(exception: web.HTTPException) -> HttpError:
    """aiohttp's own errors, and its router's, as ours."""
    if exception.status == HTTPStatus.NOT_FOUND:
        return NotFound("There is nothing under this URL.")
    if exception.status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = exception.headers.get("Allow", "GET")
        return MethodNotAllowed(
            "This URL can't be used that way.", hint=f"Use {allowed.replace(',', ', ')}.", headers={"Allow": allowed}
        )
    if exception.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return RequestTooLarge("The body is too long.")
    if exception.status < 500:
        return BadRequest(f"{exception.reason}.")
    return InternalError("The server failed.")
