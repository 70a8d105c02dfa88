"""The command line: ``sippet``."""

from __future__ import annotations

import asyncio
import signal
import sys
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click
from sippet.errors import SippError, StorageError, UsageError
from sippet.models.registry import RegistryEntry

from . import cli_bench, cli_chat, cli_gateway, models_cli, paths
from .app import MODEL_HASHES
from .errors import NoSuchModel
from .fetch import find_model
from .hashcache import HashCache
from .hostcheck import is_loopback
from .models import ModelEntry, unique_ids
from .packaged import default_model
from .progress import format_bytes
from .registered import find_registered, read_registry
from .server import Running, running
from .settings import COEP_VALUES, DEFAULT_PORT, Settings
from .version import __version__


class _DefaultCommand(click.Group):
    """A group that runs ``serve`` when the first argument is no command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {*self.list_commands(ctx), *ctx.help_option_names, "--version"}
        if not args or args[0] not in known:
            args = ["serve", *args]
        return super().parse_args(ctx, args)


class _ModelName(click.ParamType[str]):
    """A known name, a path or a URL; in an environment variable ``;`` separates several (URLs have colons)."""

    name = "name|path|url"

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [item for item in (part.strip() for part in rv.split(";")) if item]


@click.group(cls=_DefaultCommand, context_settings={"auto_envvar_prefix": "SIPPET", "max_content_width": 100})
@click.version_option(__version__, prog_name="sippet")
def cli() -> None:
    """Runs language models inside browser tabs. Without a command: serve."""


@cli.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", type=_ModelName())
@click.option(
    "--model",
    "more_models",
    envvar="SIPPET_SERVE_MODEL",
    multiple=True,
    type=_ModelName(),
    help="A model to serve, like MODEL.",
)
@click.option(
    "--models-dir",
    type=click.Path(path_type=Path),
    help="A folder: every .gguf file in it is served.",
)
@click.option(
    "--registry",
    type=click.Path(path_type=Path),
    help="A JSON file of models that MODEL may name, besides the built-in ones.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; the default is this machine only.",
)
@click.option(
    "-p",
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 lets the system choose. Browsers keep models by port.",
)
@click.option(
    "-o",
    "--open/--no-open",
    "open_page",
    envvar="SIPPET_SERVE_OPEN",
    default=False,
    help="Open the page in the browser.",
)
@click.option("--no-isolation", is_flag=True, help="Leave out COOP and COEP; the engine then has one thread.")
@click.option(
    "--coep",
    type=click.Choice(COEP_VALUES),
    default="require-corp",
    show_default=True,
    help="Cross-Origin-Embedder-Policy to send.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate (PEM) to serve https with.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Key (PEM) of the certificate.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    envvar="SIPPET_SERVE_ALLOWED_HOST",
    multiple=True,
    metavar="NAME[:PORT]",
    help="A further name under which the page is opened, such as a proxy's.",
)
@click.option(
    "--connect",
    "connect_sources",
    envvar="SIPPET_SERVE_CONNECT",
    multiple=True,
    metavar="ORIGIN",
    help="An origin that the page may load models from or send requests to, such as https://models.example.",
)
def serve(
    models: tuple[str, ...],
    more_models: tuple[str, ...],
    models_dir: Path | None,
    registry: Path | None,
    host: str,
    port: int,
    open_page: bool,
    no_isolation: bool,
    coep: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    allowed_hosts: tuple[str, ...],
    connect_sources: tuple[str, ...],
) -> None:
    """Serves the chat page and models.

    MODEL is the path of a .gguf file, an http(s) URL that is downloaded once, or the name of a registered model. Of a
    split model, name the first shard. With no model named, a small default one is downloaded once.

    Every option can be set in the environment: SIPPET_SERVE_PORT, SIPPET_SERVE_MODELS_DIR and so on.
    """
    known = read_registry(registry)
    beside = [registry.parent] if registry else []
    settings = Settings(  # first: what is wrong with it should not wait for a model
        host=host,
        port=port,
        isolation=not no_isolation,
        coep=coep,
        models_dir=models_dir,
        registry=known,
        allowed_hosts=allowed_hosts,
        connect_sources=connect_sources,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    entries = _resolve((*models, *more_models), models_dir, known, beside)
    asyncio.run(_serve(replace(settings, models=entries), open_page))


def _resolve(
    names: Sequence[str], folder: Path | None, registry: Mapping[str, RegistryEntry], beside: Sequence[Path]
) -> tuple[ModelEntry, ...]:
    """The named models, downloaded where they must be; the default one where neither a model nor a folder is named.

    Args:
        names: paths, URLs and names of the registry.
        folder: its models are served as well.
        registry: what can be named.
        beside: further folders where the files of named models may be.
    """
    cache = paths.cache_dir()
    hashes = HashCache(cache / MODEL_HASHES)
    if folder is not None and not folder.is_dir():
        raise NoSuchModel(f"There is no folder {folder}.", hint="Check --models-dir.")
    folders = [folder, *beside] if folder is not None else beside
    entries = [
        find_registered(registry[name], folders, cache, hashes) if name in registry else find_model(name, cache, hashes)
        for name in names
    ]
    if not entries and folder is None:
        entries = [default_model(cache, hashes)]
    hashes.save()
    return unique_ids(entries)


async def _serve(settings: Settings, open_page: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with running(settings) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, stop.set)
            except NotImplementedError:  # Windows: Ctrl-C arrives as KeyboardInterrupt
                break
        _announce(settings, server)
        if open_page:
            await asyncio.to_thread(webbrowser.open, server.url)
        await stop.wait()
    click.echo("Stopped.", err=True)


def _announce(settings: Settings, server: Running) -> None:
    isolated = "isolated: threads work" if settings.isolation else "not isolated: the engine has one thread"
    click.echo(f"Sippet: {server.url} ({isolated})")
    for model in server.models:
        click.echo(f"  {model.name}, {format_bytes(model.size)}")
    if not server.models:
        click.echo("  no models: the page offers a URL or a file of yours")
    if not is_loopback(settings.host):
        click.echo(
            f"Warning: listening on {settings.host}: everybody who reaches this machine can load the page and the "
            "models. Pages opened by another name than this machine's need --allowed-host.",
            err=True,
        )
        if not settings.tls_cert:
            click.echo(
                "Warning: without --tls-cert other machines open the page without a secure context: not isolated, "
                "no storage.",
                err=True,
            )
    sys.stdout.flush()


cli.add_command(cli_chat.chat)
cli.add_command(cli_chat.query)
cli.add_command(models_cli.models)
cli.add_command(cli_chat.embed)
cli.add_command(cli_gateway.gateway)
cli.add_command(cli_bench.bench)


def main(arguments: Sequence[str] | None = None) -> Any:
    """The entry point. Exits with 0, with 1 on a failure, with 2 on a usage error; no traceback for either."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what can't be shown is no failure
    try:
        with _coded():
            cli.main(args=None if arguments is None else list(arguments), prog_name="sippet", standalone_mode=True)
    except SippError as error:
        click.echo(f"Error [{error.code}]: {error}", err=True)
        sys.exit(1)


@contextmanager
def _coded() -> Iterator[None]:
    """What the system refuses, wherever that happened, in our terms."""
    try:
        yield
    except OSError as error:
        names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        reason = error.strerror or str(error) or type(error).__name__
        raise StorageError(f"{names}: {reason}." if names else f"{reason}.", hint="Check the paths.") from error
    except UnicodeEncodeError as error:
        raise UsageError(f"{str(error.object)[:100]!r} is not UTF-8.", hint="Write it in UTF-8.") from error
    except UnicodeDecodeError as error:
        raise UsageError("What was read is not UTF-8.", hint="Save it as UTF-8.") from error
    except MemoryError as error:
        raise StorageError("There is not enough memory.", hint="Close other programs, or use less.") from error
