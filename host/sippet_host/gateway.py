"""An OpenAI-compatible ``/v1`` in front of named targets: native models here, servers and providers elsewhere.

Credentials of the targets stay here. Who asks shows a key, or a short-lived token made of one. A client that goes away
ends its request's computation, here or upstream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping, Set
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from sippet._fields import describe
from sippet._json import loads
from sippet.client import SippClient
from sippet.errors import (
    ContextOverflow,
    EndpointNotFound,
    InvalidOption,
    ModelNotFound,
    QueueFull,
    RateLimited,
    RemoteError,
    SippError,
    UnsupportedOperation,
    UsageError,
)
from sippet.options import TextOptions
from sippet.results import Usage
from sippet.runs import TextRun

from .app import http_error
from .errors import Forbidden, HttpError, InternalError, Unauthorized
from .gateway_config import GatewayConfig
from .gateway_shapes import Chat, Completion, Shape, usage_of
from .gateway_tokens import MAX_SECONDS, Caller, Keyring
from .hostcheck import HostCheck

MAX_BODY = 32 * 1024 * 1024
"""Bytes of a request; images in conversations are large."""

log = logging.getLogger("sippet_host")

_OPTIONS = {item.name for item in fields(TextOptions)} - {
    "emit_tokens", "json_schema", "context_key", "media", "endpoint_options", "provider_options",
}  # fmt: skip
_OWN = {"model", "messages", "prompt", "stream", "stream_options", "max_completion_tokens", "top_logprobs", "n",
        "logprobs", "response_format", "json_schema", "user"}  # fmt: skip
_EMBED = {"model", "input", "encoding_format", "user"}
_TYPES: Mapping[str, type] = {"stream": bool, "stream_options": dict, "response_format": dict, "top_logprobs": int,
                              "user": str}  # fmt: skip
"""Of the fields that no option of the client is made of."""


class GatewayServer:
    """The targets of a gateway and the requests under way."""

    def __init__(self, config: GatewayConfig, host: str) -> None:
        """
        Args:
            config: what is served and to whom.
            host: the address that it listens on.
        """
        self._config = config
        self._keys = Keyring(config.keys)
        self._host_check = HostCheck(host)
        self._client = SippClient()
        self._running: Counter[str] = Counter()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()

    def application(self) -> web.Application:
        """The aiohttp application. Run it with ``handler_cancellation=True``."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.post("/v1/tokens", self._issue),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._complete),
                web.post("/v1/embeddings", self._embed),
            ]
        )
        app.cleanup_ctx.append(self._lifetime)
        app.on_response_prepare.append(_anonymous)
        return app

    async def _lifetime(self, app: web.Application) -> AsyncIterator[None]:
        async with self._client:
            for name, descriptor in self._config.targets.items():
                await self._client.add(name, descriptor)
            yield

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin", "")
        cors = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if origin in self._config.origins else {}
        try:
            if request.method == "OPTIONS" and cors:
                allow = {"Access-Control-Allow-Headers": "authorization, content-type", "Access-Control-Max-Age": "600"}
                return web.Response(status=204, headers=cors | allow)
            if self._keys.is_open:
                self._host_check.check(request)  # the only defence against pages where nobody needs a key
            request["caller"] = self._caller(request)
            request["cors"] = cors
            response = await handler(request)
        except SippError as error:
            response = failure(error, _status(error))
        except web.HTTPException as error:
            response = failure(http_error(error), error.status)
        except ConnectionError:
            response = web.Response(status=499)  # the client went away: nobody reads this
        except Exception:
            log.exception("%s %s failed", request.method, request.path[:200])
            response = failure(InternalError("The gateway failed."), InternalError.status)
        if not response.prepared:
            response.headers.update(cors)
        return response

    def _caller(self, request: web.Request) -> Caller:
        if self._keys.is_open or request.path == "/healthz":
            return Caller("", None, 1 << 16, may_issue=False)
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        found = self._keys.caller(secret.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Unauthorized("The key is missing, unknown or has ended.", headers={"WWW-Authenticate": "Bearer"})
        return found

    async def _health(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok", "targets": len(self._config.targets)})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        """Counters in Prometheus' text format, of the targets that the asker may use."""
        may_use = request["caller"].may_use
        lines = []
        for metric, label, counter in (
            ("sippet_requests_total", "outcome", self._requests),
            ("sippet_tokens_total", "kind", self._tokens),
        ):
            lines.append(f"# TYPE {metric} counter")
            lines += [
                f'{metric}{{target="{_label(target)}",{label}="{value}"}} {count}'
                for (target, value), count in sorted(counter.items())
                if may_use(target)
            ]
        lines += ["# TYPE sippet_running gauge", f"sippet_running {self._running.total()}"]
        return web.Response(text="\n".join(lines) + "\n")

    async def _models(self, request: web.Request) -> web.StreamResponse:
        allowed = [name for name in self._config.targets if request["caller"].may_use(name)]
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "sippet"} for name in allowed]
        return web.json_response({"object": "list", "data": rows})

    async def _issue(self, request: web.Request) -> web.StreamResponse:
        """A token for a tab: ``{"targets": [...], "seconds": 600}``."""
        caller: Caller = request["caller"]
        if not caller.may_issue:
            raise Forbidden("Only a key makes tokens.")
        body = await _body(request)
        seconds, wanted = body.get("seconds", 600), body.get("targets")
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 < seconds <= MAX_SECONDS:
            raise InvalidOption("seconds", f"seconds must be a whole number from 1 to {MAX_SECONDS}.")
        if wanted is not None and not (isinstance(wanted, list) and all(isinstance(name, str) for name in wanted)):
            raise InvalidOption("targets", "targets must be a list of names.")
        if not all(map(caller.may_use, wanted or ())):
            raise Forbidden("The key has no right to these targets.")
        token = self._keys.issue(caller, None if wanted is None else frozenset(wanted), seconds)
        return web.json_response({"token": token, "expires_at": int(time.time()) + seconds})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        target = self._target(request, body)
        options = self._options(body, target)

        def start() -> TextRun:
            return self._client.chat(body.get("messages"), endpoint=target, **options)  # type: ignore[arg-type]

        return await self._generate(request, body, target, start, Chat())

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        target = self._target(request, body)
        options = self._options(body, target)

        def start() -> TextRun:
            return self._client.query(body.get("prompt"), endpoint=target, **options)  # type: ignore[arg-type]

        return await self._generate(request, body, target, start, Completion())

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        target = self._target(request, body)
        _only(body, _EMBED)
        if body.get("encoding_format") not in (None, "float"):
            raise InvalidOption("encoding_format", "encoding_format must be float.")
        with self._counted(request["caller"], target) as count:
            result = await self._client.embed(body.get("input"), endpoint=target)  # type: ignore[arg-type]
            count(result.usage)
        rows = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(result.embeddings)
        ]
        usage = {"prompt_tokens": result.usage.prompt_tokens, "total_tokens": result.usage.prompt_tokens}
        return web.json_response({"object": "list", "model": target, "data": rows, "usage": usage})

    def _target(self, request: web.Request, body: Mapping[str, Any]) -> str:
        name = body.get("model")
        if not isinstance(name, str) or name not in self._config.targets or not request["caller"].may_use(name):
            raise EndpointNotFound(f"There is no target {str(name)[:100]!r}.", hint="GET /v1/models lists them.")
        return name

    def _options(self, body: Mapping[str, Any], target: str) -> dict[str, Any]:
        """The request's fields as options of the client."""
        _only(body, _OPTIONS | _OWN)
        for name, kind in _TYPES.items():
            if body.get(name) is not None and not isinstance(body[name], kind):
                raise InvalidOption(name, f"{name} must be {describe(kind)}, not {type(body[name]).__name__}.")
        if body.get("n") not in (None, 1):
            raise InvalidOption("n", "n must be 1.")
        found = {name: body[name] for name in _OPTIONS & body.keys() if body[name] is not None}
        found.pop("logprobs", None)
        if body.get("max_completion_tokens") is not None:
            found["max_tokens"] = body["max_completion_tokens"]
        if body.get("logprobs"):
            found["logprobs"] = body.get("top_logprobs") or (1 if body["logprobs"] is True else body["logprobs"])
        schema = _schema(body["response_format"]) if body.get("response_format") else body.get("json_schema")
        if schema is not None:
            found["json_schema"] = schema
        return {**found, "emit_tokens": True}

    async def _generate(
        self, request: web.Request, body: Mapping[str, Any], target: str, start: Any, shape: Shape
    ) -> web.StreamResponse:
        with self._counted(request["caller"], target) as count:
            run: TextRun = start()
            try:
                if not body.get("stream"):
                    result = await run
                    count(result.usage)
                    return web.json_response(shape.whole(target, result))
                return await self._stream(request, body, target, run, shape, count)
            finally:
                run.cancel("the client went away")  # does nothing where it has ended

    async def _stream(
        self, request: web.Request, body: Mapping[str, Any], target: str, run: TextRun, shape: Shape, count: Any
    ) -> web.StreamResponse:
        batches = aiter(run.tokens)
        first = await anext(batches, None)  # an error before the first text still has a status of its own
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", **request["cors"]}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            batch = first
            while batch is not None:
                await _send(response, shape.chunk(target, batch.text, batch.reasoning))
                batch = await anext(batches, None)
            result = await run
            count(result.usage)
            await _send(response, shape.last(target, result))
            if (body.get("stream_options") or {}).get("include_usage"):
                await _send(response, shape.head(target) | {"choices": [], "usage": usage_of(result.usage)})
        except SippError as error:
            await _send(response, {"error": _error(error)})
        except Exception as error:
            if isinstance(error, ConnectionError):
                raise  # the client went away
            log.exception("%s failed under way", request.path)
            await _send(response, {"error": _error(InternalError("The gateway failed."))})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    @contextmanager
    def _counted(self, caller: Caller, target: str) -> Iterator[Any]:
        """Keep account of a request; what is yielded takes its usage.

        Raises:
            RateLimited: the key has as many under way as it may.
        """
        if self._running[caller.name] >= caller.max_concurrent:
            raise RateLimited(f"The key has {caller.max_concurrent} requests under way already.")
        outcome = "failed"

        def count(usage: Usage) -> None:
            nonlocal outcome
            outcome = "completed"
            self._tokens[target, "prompt"] += usage.prompt_tokens
            self._tokens[target, "completion"] += usage.completion_tokens

        self._running[caller.name] += 1
        try:
            yield count
        except (asyncio.CancelledError, ConnectionError):
            outcome = "abandoned"
            raise
        finally:
            self._running[caller.name] -= 1
            self._requests[target, outcome] += 1


def without_banner(headers: MutableMapping[str, str], content_type: str = "") -> None:
    """Leaves out which libraries serve, and in which versions."""
    headers.pop("Server", None)


async def _anonymous(request: web.Request, response: web.StreamResponse) -> None:
    without_banner(response.headers)


async def _body(request: web.Request) -> dict[str, Any]:
    data = await request.read()
    try:
        found = loads(data)
        if b"\\u" in data:
            json.dumps(found, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
    except ValueError as error:
        raise UsageError(f"The body is not JSON that can be read: {error}.") from error
    if not isinstance(found, dict):
        raise UsageError("The body is not a JSON object.")
    return found


def _only(body: Mapping[str, Any], known: Set[str]) -> None:
    for name in body:
        if name not in known:
            raise InvalidOption(name[:100], f"The gateway knows no field {name[:100]!r}.")


def _schema(form: Mapping[str, Any]) -> Any:
    """The JSON schema that ``response_format`` asks for; ``None`` for plain text."""
    match form:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
    raise InvalidOption(
        "response_format",
        "response_format is none that the gateway knows.",
        hint='For example {"type": "json_schema", "json_schema": {"name": "answer", "schema": {...}}}.',
    )


def _label(text: str) -> str:
    """A label's value in Prometheus' text format."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


async def _send(response: web.StreamResponse, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    # Half of a surrogate pair, which no UTF-8 holds, becomes JSON's own escape for it.
    await response.write(b"data: " + text.encode(errors="backslashreplace") + b"\n\n")


def _status(error: SippError) -> int:
    match error:
        case HttpError():
            return error.status
        case EndpointNotFound() | ModelNotFound():
            return 404
        case UnsupportedOperation():
            return 501
        case UsageError() | ContextOverflow():
            return 400
        case QueueFull() | RateLimited():
            return 429
        case RemoteError():
            return 504 if error.details.get("reason") == "timeout" else 502
    return 500


def _error(error: SippError) -> dict[str, Any]:
    """OpenAI's error object, with our codes."""
    facts: dict[str, Any] = {
        name: error.details[name] for name in ("n_prompt_tokens", "n_ctx") if name in error.details
    }
    kind = "exceed_context_size_error" if isinstance(error, ContextOverflow) else error.code
    return {"message": str(error), "type": kind, "code": error.code, "param": error.details.get("option"), **facts}


def failure(error: SippError, status: int) -> web.Response:
    """An error as OpenAI's servers answer it."""
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, HttpError):
        headers |= error.headers
    if isinstance(error.details.get("retry_after"), (int, float)):
        headers["Retry-After"] = str(round(error.details["retry_after"]))
    return web.json_response({"error": _error(error)}, status=status, headers=headers)
