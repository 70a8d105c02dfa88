"""Which model the commands ``chat``, ``query`` and ``embed`` talk to, and with which options."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from sippet._fields import MOST
from sippet._json import loads
from sippet._remote_fields import Bearer
from sippet.config import LEAST_N_CTX
from sippet.endpoints import Descriptor, Gateway, LocalModel, Provider
from sippet.options import TextOptions

from . import paths
from .fetch import fetch_model
from .hashcache import HashCache
from .models import shard_names
from .packaged import default_model
from .paths import named_path
from .urls import is_url

KEY_VARIABLE = "SIPPET_API_KEY"

F = TypeVar("F", bound=Callable[..., Any])


def target_options(command: F) -> F:
    """The options that say where the model is."""
    for option in reversed(_TARGET):
        command = option(command)
    return command


def sampling_options(command: F) -> F:
    """The options that say how to generate."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


def descriptor(
    model: str | None,
    *,
    endpoint: str | None,
    provider: str | None,
    target: str | None,
    server: str,
    ctx: int | None,
    threads: int | None,
    context: Mapping[str, Any] | None = None,
) -> Descriptor:
    """What the options describe.

    Args:
        model: path or URL of a model's file; the default model where it is ``None``.
        endpoint: the address of a server, in place of a model here.
        provider: a provider, in place of a model here.
        target: the server's or provider's name of the model.
        server: what runs at ``endpoint``.
        ctx, threads: how to run a model here.
        context: more fields of ``RuntimeConfig.context``.

    Raises:
        click.UsageError: the options contradict each other.
        SippError: the model can't be fetched.
    """
    if endpoint is not None or provider is not None:
        if model is not None or (endpoint is not None and provider is not None):
            raise click.UsageError("Give one of MODEL, --endpoint and --provider.")
        if ctx or threads:
            raise click.UsageError("--ctx and --threads are for a model that runs here.")
        key = os.environ.get(KEY_VARIABLE)
        if endpoint is not None:
            authentication = Bearer(key) if key else None
            return Gateway(target or "default", endpoint, authentication, server)  # type: ignore[arg-type]
        if not target:
            raise click.UsageError("--provider needs --target: the provider's name of the model.")
        return Provider(provider, target, api_key=key)  # type: ignore[arg-type]
    if target:
        raise click.UsageError("--target goes with --endpoint or --provider.")
    given = {"n_ctx": ctx, "n_threads": threads, **(context or {})}
    runtime = {"context": {name: value for name, value in given.items() if value is not None}}
    return LocalModel([str(path) for path in _files(model)], runtime=runtime)


def sampling(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request among a command's values: those that were given."""
    found = {name: value for name, value in values.items() if name in _REQUEST and value not in (None, ())}
    for name in ("grammar", "json_schema"):
        if name in found:
            found[name] = _content(found[name], name)
    return found


def _content(path: Path, name: str) -> Any:
    data = paths.read_document(path)
    try:
        return data.decode() if name == "grammar" else loads(data)
    except ValueError as error:
        raise click.UsageError(f"{path} is not {'text' if name == 'grammar' else 'JSON'}: {error}.") from error


def _files(model: str | None) -> list[Path]:
    if model is not None and not is_url(model):
        path = named_path(model)
        return [path.with_name(name) for name in shard_names(path.name)]
    cache = paths.cache_dir()
    hashes = HashCache(cache / "model-hashes.json")
    entry = default_model(cache, hashes) if model is None else fetch_model(model, cache, hashes)
    hashes.save()
    return [file.path for file in entry.files]


_REQUEST = {field for field in TextOptions.__dataclass_fields__ if field != "emit_tokens"}

_TARGET = [
    click.option("--endpoint", metavar="URL", help="Ask an OpenAI-compatible server, such as http://host:8080/v1."),
    click.option("--provider", type=click.Choice(["openai", "anthropic"]), help="Ask a provider."),
    click.option("--target", metavar="NAME", help="The server's or the provider's name of the model."),
    click.option(
        "--server",
        type=click.Choice(["openai", "sippet", "llama.cpp", "vllm"]),
        default="openai",
        show_default=True,
        help="What runs at --endpoint: says which further options it has.",
    ),
    click.option("--ctx", type=click.IntRange(LEAST_N_CTX, MOST), metavar="TOKENS", help="Context size."),
    click.option("--threads", type=click.IntRange(1, 256), metavar="N", help="CPU threads."),
]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_SAMPLING = [
    click.option("-n", "--max-tokens", type=click.IntRange(1), metavar="N", help="Most tokens to generate."),
    click.option("--temperature", type=float, metavar="X", help="Randomness; 0 takes the likeliest token."),
    click.option("--top-p", type=float, metavar="X", help="Keep the likeliest tokens of this total probability."),
    click.option("--top-k", type=int, metavar="N", help="Keep this many likeliest tokens."),
    click.option("--min-p", type=float, metavar="X", help="Drop tokens below this share of the likeliest one's."),
    click.option("--repeat-penalty", type=float, metavar="X", help="Penalty on tokens seen lately."),
    click.option("--seed", type=int, metavar="N", help="Makes sampling repeatable."),
    click.option("--stop", multiple=True, metavar="TEXT", help="Text that ends the answer."),
    click.option("--grammar", type=_FILE, help="A GBNF grammar that the answer must match."),
    click.option("--json-schema", type=_FILE, help="A JSON schema that the answer must match."),
]
