"""JSON that others wrote: servers, model files, the models themselves."""

from __future__ import annotations

import json
import re
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


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > DEEPEST:
            raise json.JSONDecodeError("It is nested too deeply", text, token.start())
