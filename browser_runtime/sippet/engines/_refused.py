"""A request that llama.cpp found wrong while it read it, as an error that names the option."""

from __future__ import annotations

import re

from ..errors import InvalidOption

_SIGNS = (("schema", "json_schema"), ("grammar", "grammar"), ("messages", "messages"), ("content[]", "messages"))
_FIELD = re.compile(r"Field '(\w+)'")


def refused(reason: str) -> InvalidOption:
    """The error; its ``option`` is ``request`` where the reason tells no more.

    Args:
        reason: what llama.cpp said.
    """
    field = _FIELD.search(reason)
    option = field[1] if field else next((name for sign, name in _SIGNS if sign in reason.lower()), "request")
    hint = "Change the request." if option == "request" else f"Change {option}."
    return InvalidOption(option, f"The engine refused the request: {reason.rstrip('.')}.", hint=hint)
