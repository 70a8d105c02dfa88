"""Endpoints elsewhere: gateways and providers, over HTTP.

A request is sent again only where the server can't have begun on it: no connection, 429, 502, 503, 504 and 529 before
the first byte of an answer. A tab can't tell "no connection" from one that broke later: it sends nothing again there.
Redirects are never followed.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import json
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .. import _json
from ..endpoints import Gateway, Provider
from ..errors import (
    AuthenticationFailed,
    ContextOverflow,
    InvalidOption,
    ModelNotFound,
    RateLimited,
    RemoteError,
    RemoteUnavailable,
    SippError,
    UnsupportedOperation,
)
from ..platform.http import HttpClient, HttpResponse, default_client, unavailable
from ._dialect import Call, Decoder, Dialect, StreamFailed
from ._overflow import is_overflow
from ._secrets import Credentials
from ._shapes import CHUNK, fits, misunderstood, understood
from ._sse import EventTooLarge, SseParser
from .anthropic import AnthropicDialect
from .base import CallKind, Engine, EngineInfo, StreamKind
from .openai import OpenAiDialect

ADDRESSES = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}

MAX_ANSWER = 64 << 20
"""Bytes of an answer that comes in one piece; vectors of many texts are large."""
MAX_ERROR = 64 << 10
MAX_RETRY_AFTER = 60.0
"""Seconds. A server that asks for more is not waited for: the error carries ``retry_after``."""
BACK_OFF, MAX_BACK_OFF = 0.5, 8.0

_RETRIED = {429, 502, 503, 504, 529}
_WORDED = {400, 413, 422, 500}
"""The statuses that servers without a code of their own give for a prompt that is too long."""
_OVERFLOWS = {"exceed_context_size_error", "context_length_exceeded"}


class RemoteEngine(Engine):
    """One target of one server. Nothing is asked of it before the first request."""

    def __init__(self, descriptor: Gateway | Provider, client: HttpClient | None = None) -> None:
        """
        Args:
            descriptor: what to reach.
            client: the HTTP client; this place's own by default.

        Raises:
            AuthenticationFailed: a key is needed, and none was given.
            InvalidOption: credentials would go over plain http.
        """
        self.info = EngineInfo("remote", "remote", n_parallel=descriptor.max_concurrent_requests)
        self._options = descriptor
        self._url, self._dialect = _target(descriptor)
        self._credentials = Credentials(descriptor, self._url)
        self._client = client or default_client()

    def check(self, kind: StreamKind, body: Mapping[str, Any]) -> None:
        self._dialect.check(kind, body)

    async def stream(
        self, kind: StreamKind, body: Mapping[str, Any], files: tuple[bytes, ...] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        self.check(kind, body)
        async with AsyncExitStack() as stack:
            response, secret, deadline = await self._send(stack, self._dialect.request(kind, body), "text/event-stream")
            if response.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
                answer = await self._whole(response, deadline)
                for chunk in _understood(lambda: self._dialect.whole(kind, answer)):
                    yield chunk
                return
            chunks = self._chunks(response, self._dialect.decoder(), deadline, secret)
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk

    async def call(self, kind: CallKind, body: Mapping[str, Any]) -> dict[str, Any]:
        async with AsyncExitStack() as stack:
            response, _, deadline = await self._send(stack, self._dialect.call(kind, body), "application/json")
            return self._dialect.answer(kind, await self._whole(response, deadline))

    async def close(self) -> None:
        await self._client.close()

    async def _chunks(
        self, response: HttpResponse, decoder: Decoder, deadline: float, secret: str | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream as chunks.

        Raises:
            RemoteUnavailable: it was cut, or fell silent.
            SippError: the server reported an error.
        """
        parser = SseParser()
        try:
            async with aclosing(_timed(response, deadline, self._options.idle_timeout)) as pieces:
                async for piece in pieces:
                    for event in parser.feed(piece):
                        for chunk in _understood(functools.partial(decoder.feed, event)):
                            yield chunk
                        if decoder.done:
                            return
        except EventTooLarge as error:
            raise RemoteError("The server sent an event that is too large.", details={"reason": "too_large"}) from error
        except StreamFailed as error:
            raise self._reported(error.error, None, secret) from None
        except RemoteUnavailable:
            if not decoder.finished:
                raise
        if not decoder.finished:
            raise unavailable("cut", response.url, "{url} ended its answer in the middle.")

    async def _whole(self, response: HttpResponse, deadline: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                found = _json.loads(await response.read(MAX_ANSWER))
        except TimeoutError as error:
            raise self._silent(response.url) from error
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise misunderstood("The server's answer is not a JSON object.")
        return found

    async def _send(self, stack: AsyncExitStack, call: Call, accept: str) -> tuple[HttpResponse, str | None, float]:
        """Send a request, again where that is safe.

        Returns:
            the answer, open until ``stack`` is left; the secret that was sent; until when the answer must have begun.
        """
        body = json.dumps(call.body).encode()
        url = _join(self._url, call.path)
        for attempt in range(self._options.retries + 1):
            secret = await self._credentials.get()
            delay: float | None = None
            deadline = time.monotonic() + self._options.timeout
            async with AsyncExitStack() as trial:
                try:
                    response = await self._open(trial, url, body, self._headers(secret, accept))
                    if response.ok:
                        stack.push_async_exit(trial.pop_all())
                        return response, secret, deadline
                    failure = await self._refused(response, secret)
                    if response.status in _RETRIED:
                        delay = _retry_after(response)
                        delay = _back_off(attempt) if delay is None else delay
                except RemoteUnavailable as error:
                    failure = error
                    if error.details.get("reason") == "connect":
                        delay = _back_off(attempt)
            if delay is None or delay > MAX_RETRY_AFTER or attempt == self._options.retries:
                raise failure
            await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    async def _open(self, stack: AsyncExitStack, url: str, body: bytes, headers: Mapping[str, str]) -> HttpResponse:
        options = self._options
        request = self._client.request(
            "POST",
            url,
            headers=headers,
            body=body,
            timeout=max(options.timeout, options.idle_timeout),
            connect_timeout=options.connect_timeout,
            redirect="error",
        )
        try:
            async with asyncio.timeout(options.timeout):
                return await stack.enter_async_context(request)
        except TimeoutError as error:
            raise self._silent(url) from error

    def _silent(self, url: str) -> RemoteUnavailable:
        return unavailable("timeout", url, f"{{url}} did not answer within {self._options.timeout:g} seconds.")

    def _headers(self, secret: str | None, accept: str) -> dict[str, str]:
        own = {"Content-Type": "application/json", "Accept": accept}
        if self._credentials.header is not None and secret is not None:
            return {**own, **self._options.headers, self._credentials.header: secret}
        return {**own, **self._options.headers, **self._dialect.headers(secret)}

    async def _refused(self, response: HttpResponse, secret: str | None) -> SippError:
        """The error that an answer with a status beyond 2xx stands for."""
        try:
            async with asyncio.timeout(self._options.idle_timeout):
                text = (await response.read(MAX_ERROR)).decode("utf-8", "replace")
        except (TimeoutError, RemoteError):
            text = ""
        try:
            found = _json.loads(text)
            error = found.get("error", found) if isinstance(found, dict) else found
        except ValueError:
            error = text
        retry_after = _retry_after(response)
        facts = {} if retry_after is None else {"retry_after": retry_after}
        return self._reported(error, response.status, secret, facts)

    def _reported(
        self, error: Any, status: int | None, secret: str | None, facts: Mapping[str, Any] | None = None
    ) -> SippError:
        """An error that the server put in words, as one of ours.

        Args:
            error: the server's error object, or its text.
            status: the HTTP status; ``None`` for an error in the middle of a stream.
            secret: what must not appear.
            facts: more details.
        """
        fields = error if isinstance(error, Mapping) else {"message": error}
        said = self._credentials.hide(str(fields.get("message") or ""), secret)[:500].strip()
        kind, code = self._credentials.hide(str(fields.get("type") or ""), secret)[:100], fields.get("code")
        status = status or (code if isinstance(code, int) and 400 <= code < 600 else None) or _STATUS.get(kind)
        details = {"status": status, **({"type": kind} if kind else {}), **(facts or {})}
        text = f": {said}" if said else "."
        if {kind, str(code)} & _OVERFLOWS or (status in _WORDED and is_overflow(said)):
            details |= {name: fields[name] for name in ("n_prompt_tokens", "n_ctx") if name in fields}
            return ContextOverflow(f"The prompt is too long for the server's model{text}", details=details)
        if code == "model_not_found":
            return ModelNotFound(f"The server has no such model{text}", hint="Check its name.", details=details)
        match status:
            case 401 | 403:
                return AuthenticationFailed(
                    f"The server refused the credentials{text}", hint="Check the key and its rights.", details=details
                )
            case 429:
                return RateLimited(f"The server asks to slow down{text}", hint="Try again later.", details=details)
            case 501:
                return UnsupportedOperation(f"The server can't do that{text}", details=details)
            case 404 | 405:
                return RemoteError(
                    f"The server has no such address or target (status {status}){text}",
                    hint="Check base_url (it usually ends with /v1) and the name of the model.",
                    details=details,
                )
            case 400 | 422 if isinstance(fields.get("param"), str):
                option = self._credentials.hide(fields["param"], secret)[:100]
                return InvalidOption(option, f"The server refused {option}{text}", **details)
            case None | 500 | 502 | 503 | 504 | 529:
                return RemoteUnavailable(
                    f"The server failed{f' (status {status})' if status else ''}{text}",
                    hint="Try again later.",
                    details={"reason": "server", **details},
                )
        return RemoteError(f"The server refused the request (status {status}){text}", details=details)


_STATUS = {
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "invalid_request_error": 400,
    "overloaded_error": 529,
    "api_error": 500,
}
"""The status that an error's type stands for, where it comes in the middle of a stream."""


def _target(descriptor: Gateway | Provider) -> tuple[str, Dialect]:
    """The API's address, and how it is spoken to."""
    if isinstance(descriptor, Gateway):
        return descriptor.base_url, OpenAiDialect(descriptor.target, descriptor.server, "endpoint_options")
    url = descriptor.base_url or ADDRESSES[descriptor.provider]
    if descriptor.provider == "anthropic":
        return url, AnthropicDialect(descriptor.model)
    own = descriptor.provider == "openai"
    return url, OpenAiDialect(descriptor.model, "openai", "provider_options", own=own)


def _understood(read: Callable[[], Iterable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The chunks that ``read`` finds.

    Raises:
        RemoteError: what it reads has not the shape of the API.
    """
    with understood():
        chunks = list(read())
        if all(fits(chunk, CHUNK) for chunk in chunks):
            return chunks
    raise misunderstood()


def _join(base: str, path: str) -> str:
    """The address of an operation; ``../`` leaves the last part of the base's path, where it is a version."""
    if not path.startswith("../"):
        return base + path
    parts = urlsplit(base)
    return urlunsplit(parts._replace(path=parts.path.removesuffix("/v1"))) + path[2:]


async def _timed(response: HttpResponse, deadline: float, idle: float) -> AsyncGenerator[bytes, None]:
    """The body's pieces: the first until the deadline, each further one within ``idle`` seconds.

    Raises:
        RemoteUnavailable: none came in time.
    """
    pieces: AsyncIterator[bytes] = response.iter_bytes()
    begun = False
    while True:
        try:
            async with asyncio.timeout(idle if begun else max(deadline - time.monotonic(), 0.0)):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            what = f"sent nothing for {idle:g} seconds" if begun else "did not begin its answer in time"
            raise unavailable("timeout", response.url, f"{{url}} {what}.") from error
        begun = begun or bool(piece.strip())
        yield piece


def _retry_after(response: HttpResponse) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, 10.2.3, and the finer ``retry-after-ms``)."""
    fine, coarse = response.headers.get("retry-after-ms"), response.headers.get("retry-after")
    for text, unit in ((fine, 1e-3), (coarse, 1.0)):
        try:
            if text is not None and 0 <= (seconds := float(text) * unit) < math.inf:
                return seconds
        except ValueError:
            continue
    try:
        date = email.utils.parsedate_to_datetime(coarse) if coarse else None
    except ValueError:
        date = None
    return None if date is None else max(date.timestamp() - time.time(), 0.0)


def _back_off(attempt: int) -> float:
    """Twice as long each time, with some chance in it, so that many clients don't come back together."""
    return float(min(BACK_OFF * 2**attempt, MAX_BACK_OFF) * random.uniform(0.5, 1.0))
