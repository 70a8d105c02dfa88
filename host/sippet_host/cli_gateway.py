"""``sippet gateway``: an OpenAI-compatible server in front of named models."""

from __future__ import annotations

import asyncio
import signal
import ssl
from pathlib import Path

import click
from aiohttp import web

from .errors import ConfigurationError, PortInUse
from .gateway import GatewayServer, failure, without_banner
from .gateway_config import GatewayConfig, read_config
from .hostcheck import bracketed, is_loopback
from .runner import Look, Runner

GATEWAY_PORT = 8766


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "-p", "--port", default=GATEWAY_PORT, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on."
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate (PEM) to serve https with.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Key (PEM) of the certificate.")
def gateway(config: Path, host: str, port: int, tls_cert: Path | None, tls_key: Path | None) -> None:
    """Serves models to programs: an OpenAI-compatible /v1 in front of named targets.

    CONFIG is a TOML file. A table [targets.NAME] names a model that runs here (model = "file.gguf"), a server (endpoint
    = "http://…/v1") or a provider; [keys.NAME] names, by env, the variable that holds a key for callers. Credentials
    stay here. POST /v1/tokens makes short-lived tokens of a key, for browser tabs.
    """
    found = read_config(config)
    if not found.keys and not is_loopback(host):
        raise ConfigurationError(
            f"Everybody who reaches {host} could use the models.", hint="Add [keys.NAME] to the configuration."
        )
    asyncio.run(_serve(found, host, port, _tls(tls_cert, tls_key)))


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if (cert is None) != (key is None):
        raise ConfigurationError("A certificate needs its key.", hint="Give both --tls-cert and --tls-key.")
    if cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        raise ConfigurationError(f"The certificate can't be read: {error}.") from error
    return context


async def _serve(config: GatewayConfig, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows: Ctrl-C arrives as KeyboardInterrupt
            break
    app = GatewayServer(config, host).application()
    # handler_cancellation: a client that goes away ends its request, whatever it waits for
    look = Look(without_banner, lambda request, error, status: failure(error, status))
    runner = Runner(app, look, handler_cancellation=True, access_log=None, shutdown_timeout=5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:
            raise PortInUse(f"Port {port} of {host} can't be used: {error}.", hint="Give another --port.") from error
        bound = runner.addresses[0][1]
        click.echo(f"Gateway: {'https' if tls else 'http'}://{bracketed(host)}:{bound}/v1")
        await stop.wait()
    finally:
        await runner.cleanup()
    click.echo("Stopped.", err=True)
