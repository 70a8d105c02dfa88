"""Runs the application: for the command line, inside another program, or in a thread for a test."""

from __future__ import annotations

import asyncio
import errno
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType

from aiohttp import web

from .app import HOST, create_app, error_response
from .errors import ConfigurationError, PortInUse
from .hostcheck import bracketed
from .models import ModelEntry
from .runner import Look, Runner
from .settings import Settings

# Answers under way get twice this long to end before they are cut: Ctrl-C is to feel immediate.
SHUTDOWN_SECONDS = 0.2


@dataclass(frozen=True)
class Running:
    """A server that accepts connections.

    Attributes:
        url: the page, with a trailing slash.
        port: the TCP port, also where the settings left it to the system.
    """

    url: str
    port: int
    app: web.Application

    @property
    def models(self) -> list[ModelEntry]:
        """What is served now."""
        return self.app[HOST].models.refresh()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Serves while the block runs.

    Raises:
        PortInUse: another program listens on the port.
        ConfigurationError: the address or the certificate can't be used.
    """
    app = create_app(settings)
    look = Look(app[HOST].headers.apply, error_response)
    runner = Runner(app, look, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, ssl_context=_tls(settings))
        try:
            await site.start()
        except (OSError, UnicodeError) as error:  # UnicodeError: what can't be a name at all
            raise _bind_error(settings, error) from error
        address, port = runner.addresses[0][:2]
        # A name can stand for two addresses, and the system chooses a port for each of them.
        host = settings.host if settings.port else address
        yield Running(f"{settings.scheme}://{_display_host(host)}:{port}/", port, app)
    finally:
        await runner.cleanup()


class ServerThread:
    """A server in a thread of its own; a context manager whose value is a `Running`.

    >>> with ServerThread(Settings(port=0)) as server:  # doctest: +SKIP
    ...     print(server.url)
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = threading.Event()
        self._running: Running | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="sippet-host", daemon=True)

    def __enter__(self) -> Running:
        self._thread.start()
        self._ready.wait()
        if self._running is None:
            self._thread.join()
            raise self._error or RuntimeError("the server did not start")
        return self._running

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with running(self._settings) as server:
            self._running = server
            self._ready.set()
            await self._stop.wait()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"The certificate can't be used: {error}.",
            hint="Give PEM files that belong together, without a password.",
        ) from error
    return context


def _bind_error(settings: Settings, error: Exception) -> Exception:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return PortInUse(
            f"Port {settings.port} is in use by another program.",
            hint=f"Use another with --port {settings.port + 1} (browsers keep models by port), or stop that program.",
        )
    if number in (errno.EACCES, errno.EPERM):
        return ConfigurationError(f"Port {settings.port} needs privileges.", hint="Use a port above 1023.")
    return ConfigurationError(
        f"{settings.host} is not an address of this machine.",
        hint="Use --host 127.0.0.1 or one of its addresses.",
    )


def _display_host(host: str) -> str:
    """A host for a URL that works in a browser on this machine."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, bracketed(host))
