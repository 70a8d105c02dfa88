"""What a page and the runtime say to each other; ``static/js/protocol.mjs`` is the other half, a test compares them.

Page to runtime: ``{id, method, params}``. Runtime to page: ``{id, result}``, ``{id, error}``, ``{id, progress}``,
``{id, tokens}``, ``{id, step}``, ``{id, call}`` (of a function that the request brought, a tool or one that gives a
credential: the page answers with the method ``callResult``, even when the request has ended) and ``{event}``. Names
are camelCase there and snake_case here; :func:`to_python` and :func:`to_page` translate names, never values that
belong to the user.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

METHODS = (
    "open", "add", "remove", "query", "chat", "embed", "rerank", "tokenize", "detokenize", "applyTemplate", "runTools",
    "saveContext", "forgetContext", "callResult", "models", "cancel", "environment", "close",
)  # fmt: skip
REPLIES = ("result", "error", "progress", "tokens", "step", "call", "event")


def snake(name: str) -> str:
    """``maxTokens`` → ``max_tokens``."""
    return re.sub(r"(?<!^)[A-Z]", lambda m: "_" + m[0].lower(), name)


def camel(name: str) -> str:
    """``max_tokens`` → ``maxTokens``."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def to_python(values: Mapping[str, Any], nested: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options of a page with Python's names; ``undefined`` and ``null`` are left out.

    Args:
        values: names and values.
        nested: names whose values are option groups themselves, with their own nested groups.
    """
    nested = nested or {}
    return {
        snake(key): to_python(value, nested[key]) if key in nested and isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def rename(value: Any) -> Any:
    """Plain data of Sippet's own with JavaScript's names all the way down; nothing of the user's may be in it."""
    if isinstance(value, Mapping):
        return {camel(key): rename(item) for key, item in value.items()}
    return [rename(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_page(value: Any) -> Any:
    """A dataclass as plain data with JavaScript's names; the keys of mappings stay as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {camel(f.name): to_page(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_page(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_page(item) for key, item in value.items()}
    return value
