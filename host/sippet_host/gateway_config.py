"""What a gateway serves and to whom: a TOML file.

::

    [targets.small]
    model = "models/smollm2.gguf"          # runs in this machine, natively
    runtime = { context = { n_parallel = 4 } }

    [targets.big]
    endpoint = "http://cluster:8000/v1"    # any OpenAI-compatible server
    model = "llama-70b"                    # the server's name of it
    server = "vllm"
    key_env = "CLUSTER_KEY"                # the credential stays here

    [targets.claude]
    provider = "anthropic"
    model = "claude-model-name"
    key_env = "ANTHROPIC_API_KEY"

    [keys.page]
    env = "PAGE_KEY"                       # the variable that holds the key
    targets = ["small"]                    # all where it is left out
    max_concurrent = 8

    [cors]
    origins = ["https://chat.example"]

Secrets are never in the file: it names the variables of the environment that hold them.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sippet._remote_fields import Bearer
from sippet.endpoints import Descriptor, Gateway, LocalModel, Provider
from sippet.errors import InvalidOption

from .errors import ConfigurationError
from .paths import read_document

DEFAULT_CONCURRENT = 16
_KINDS = {str: "a string", int: "a whole number", list: "a list of strings"}
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")


@dataclass(frozen=True)
class Key:
    """Who may ask.

    Attributes:
        name: for metrics and logs.
        secret: what is sent as ``Authorization: Bearer``.
        targets: which ones; all where it is ``None``.
        max_concurrent: requests under way together, those of its short-lived tokens included.
    """

    name: str
    secret: str = field(repr=False)
    targets: frozenset[str] | None = None
    max_concurrent: int = DEFAULT_CONCURRENT


@dataclass(frozen=True)
class GatewayConfig:
    """Targets by name, keys, and the origins of pages that may ask."""

    targets: Mapping[str, Descriptor]
    keys: tuple[Key, ...] = ()
    origins: frozenset[str] = frozenset()


def read_config(path: Path, environment: Mapping[str, str] = os.environ) -> GatewayConfig:
    """Reads the file.

    Raises:
        ConfigurationError: it can't be read, or says something unknown or contradictory.
    """
    data = read_document(path)
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}.") from error
    _only(document, {"targets", "keys", "cors"}, str(path))
    targets = {
        name: _target(name, values, path.parent, environment)
        for name, values in _tables(document, "targets", str(path)).items()
    }
    if not targets:
        raise ConfigurationError(f"{path} has no targets.", hint="Add a table [targets.NAME].")
    keys = tuple(
        _key(name, values, targets, environment) for name, values in _tables(document, "keys", str(path)).items()
    )
    return GatewayConfig(targets, keys, _origins(document.get("cors", {})))


def _target(name: str, values: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> Descriptor:
    where = f"[targets.{name}]"
    for option in ("key_env", "model", "endpoint", "projector"):
        _check(values, option, str, where)
    rest = dict(values)
    secret = _secret(rest.pop("key_env", None), where, environment)
    try:
        if "endpoint" in rest:
            authentication = Bearer(secret) if secret else None
            url, target = rest.pop("endpoint"), rest.pop("model", name)
            return Gateway.of({"base_url": url, "target": target, "authentication": authentication, **rest})
        if "provider" in rest:
            if "model" not in rest:
                raise ConfigurationError(f"{where} has no model: the provider's name of it.")
            return Provider.of({"api_key": secret, **rest})
        if "model" not in rest:
            raise ConfigurationError(f"{where} has neither model, endpoint nor provider.")
        for option, field_name in {"model": "source", "projector": "projector"}.items():
            if option in rest:
                rest[field_name] = str(folder / rest.pop(option))
        return LocalModel.of(rest)
    except InvalidOption as error:
        raise ConfigurationError(f"{where}: {error.message}", hint=error.hint) from error


def _key(name: str, values: Mapping[str, Any], targets: Mapping[str, Any], environment: Mapping[str, str]) -> Key:
    where = f"[keys.{name}]"
    _only(values, {"env", "targets", "max_concurrent"}, where)
    for option, kind in {"env": str, "targets": list, "max_concurrent": int}.items():
        _check(values, option, kind, where)
    secret = _secret(values.get("env"), where, environment)
    if not secret:
        raise ConfigurationError(f"{where} has no env: the variable that holds the key.")
    if len(secret) < 16:
        raise ConfigurationError(f"The key of {where} is shorter than 16 characters.", hint="Make a longer one.")
    allowed = values.get("targets")
    for target in allowed or ():
        if target not in targets:
            raise ConfigurationError(f"{where} names an unknown target {target!r}.")
    concurrent = values.get("max_concurrent", DEFAULT_CONCURRENT)
    if concurrent < 1:
        raise ConfigurationError(f"{where} max_concurrent must be at least 1.", hint="Leave the key out to refuse it.")
    return Key(name, secret, None if allowed is None else frozenset(allowed), concurrent)


def _origins(cors: Any) -> frozenset[str]:
    if not isinstance(cors, dict):
        raise ConfigurationError("[cors] must be a table.")
    _only(cors, {"origins"}, "[cors]")
    _check(cors, "origins", list, "[cors]")
    for origin in cors.get("origins", ()):
        if not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"[cors] {origin!r} can't be an origin.", hint="Write it as browsers do: https://chat.example."
            )
    return frozenset(cors.get("origins", ()))


def _secret(variable: str | None, where: str, environment: Mapping[str, str]) -> str | None:
    if variable is None:
        return None
    found = environment.get(variable)
    if not found:
        raise ConfigurationError(f"{where} needs {variable}, which is not set.", hint="Set it in the environment.")
    return found


def _tables(document: Mapping[str, Any], name: str, where: str) -> Mapping[str, Mapping[str, Any]]:
    found = document.get(name, {})
    if not isinstance(found, dict) or not all(isinstance(item, dict) for item in found.values()):
        raise ConfigurationError(f"{where}: [{name}] must hold tables, such as [{name}.NAME].")
    return found


def _check(values: Mapping[str, Any], name: str, kind: type, where: str) -> None:
    """Refuses a field that is there and is of another type; a list is one of strings."""
    value = values.get(name)
    sound = value is None or type(value) is kind
    if not sound or (kind is list and not all(isinstance(item, str) for item in value or ())):
        raise ConfigurationError(f"{where} {name} must be {_KINDS[kind]}, not {value!r:.60}.")


def _only(values: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in values:
        if name not in known:
            raise ConfigurationError(f"{where} has an unknown field {name!r}.", hint=f"Known: {', '.join(known)}.")
