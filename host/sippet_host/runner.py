"""aiohttp's runner, where the answers that aiohttp makes by itself look like the application's.

Those are the answers to what no application is asked: malformed requests, headers that are too long.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler
from yarl import URL

from .app import http_error
from .errors import BadRequest, HostError, InternalError, RequestTooLarge


@dataclass(frozen=True)
class Look:
    """How an application's answers look.

    Attributes:
        dress: changes the headers of an answer with that content type.
        refuse: makes the answer of an error, with that status.
    """

    dress: Callable[[MutableMapping[str, str], str], None]
    refuse: Callable[[web.BaseRequest, HostError, int], web.Response]


class _Protocol(RequestHandler):
    __slots__ = ("_look",)

    def __init__(self, *arguments: Any, look: Look, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._look = look

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client went away, which is its right: no traceback in the log
        error: HostError
        if status >= 500:
            super().handle_error(request, status, exc, message)  # logs the cause
            error = InternalError("The server failed.")
        elif isinstance(exc, LineTooLong):
            error, status = RequestTooLarge("The URL or a header is too long."), 431
        else:
            error = _nonsense()  # a client's is no reason for a traceback in the log
        if request.writer.output_size:
            raise ConnectionError("a part of an answer was sent already")
        response = self._look.refuse(request, error, status)
        response.force_close()
        return response


def _nonsense() -> BadRequest:
    return BadRequest("The request is not valid HTTP.", hint="Send a request as RFC 9112 has it.")


class _Server(web.Server):
    def __init__(self, *arguments: Any, look: Look, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._look = look

    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, look=self._look, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application.

    Args:
        app: it dresses its own answers itself.
        look: of the others.
        options: of aiohttp's ``AppRunner``.
    """

    __slots__ = ("_look",)

    def __init__(self, app: web.Application, look: Look, **options: Any) -> None:
        super().__init__(app, **options)
        self._look = look

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        look = self._look

        class Request(web.Request):
            async def _prepare_hook(self, response: web.StreamResponse) -> None:
                await super()._prepare_hook(response)
                if self._match_info is None:
                    look.dress(response.headers, response.content_type)

        class Malformed(Request):
            pass

        def make(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
            try:
                return partial(self.app._make_request, _cls=Request)(message, *rest)
            except ValueError:  # the host in its URL can be none: aiohttp would drop the connection, with a traceback
                unnamed = message._replace(url=URL("/"))
                return partial(self.app._make_request, _cls=Malformed)(unnamed, *rest)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if isinstance(request, Malformed):
                return look.refuse(request, _nonsense(), BadRequest.status)
            try:
                return await plain.request_handler(request)
            except web.HTTPException as error:  # raised outside the middlewares, such as 417
                return look.refuse(request, http_error(error), error.status)

        return _Server(
            handle,
            request_factory=make,
            loop=plain._loop,
            look=look,
            **plain._kwargs,
        )
