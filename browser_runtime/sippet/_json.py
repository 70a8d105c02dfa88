"""JSON that others wrote (servers, model files, the models themselves), and that programs give."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

DEEPEST = 200
"""Levels of nesting that are read. CPython's parser gives up by itself, later; inside a browser it ends Python for good
at some thousands of levels, which a model can write in one answer."""

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)


def loads(data: str | bytes) -> Any:
    """:func:`json.loads` for UTF-8 that may be hostile.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(text)
    return json.loads(text)


def plain(value: Any, levels: int = DEEPEST) -> Any:
    """What a program gave as values that JSON can hold: mappings as dictionaries, tuples as lists.

    Args:
        value: anything.
        levels: of nesting that are taken.

    Raises:
        ValueError: it says what of it has no JSON.
    """
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ValueError(f"{value} is no number of JSON")
    if isinstance(value, str):
        if is_text(value):
            return value
        raise ValueError("a text has half of a character (a lone surrogate)")
    if levels == 0:
        raise ValueError("it is nested too deeply")
    if isinstance(value, Mapping):
        return {
            plain(str(key) if isinstance(key, int) else _name(key)): plain(item, levels - 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(item, levels - 1) for item in value]
    raise ValueError(f"{type(value).__name__} has no JSON")


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: a lone surrogate is half of a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(key: Any) -> str:
    if isinstance(key, str):
        return key
    raise ValueError(f"a name is {type(key).__name__}, not a text")


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > DEEPEST:
            raise json.JSONDecodeError("It is nested too deeply", text, token.start())
