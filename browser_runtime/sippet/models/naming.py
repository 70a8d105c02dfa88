"""What may be the name of a model, so that a text is told from a URL and from a path."""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"(?!.*\.(?:gguf|json)$)[A-Za-z0-9][A-Za-z0-9._-]*")


def is_name(source: Any) -> bool:
    """Whether it may be the id of an installed model or a name of a registry."""
    return isinstance(source, str) and _NAME.fullmatch(source) is not None
