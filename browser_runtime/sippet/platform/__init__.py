"""Where Sippet runs. This package alone knows whether it is Pyodide or CPython."""

from __future__ import annotations

import sys
from functools import cache

from .base import EngineAssets, EnginePort, Environment, Platform, Source, Waiter

__all__ = ["EngineAssets", "EnginePort", "Environment", "Platform", "Source", "Waiter", "current"]


@cache
def current() -> Platform:
    """The platform of this interpreter."""
    if sys.platform == "emscripten":
        from ._browser import BrowserPlatform

        return BrowserPlatform()
    from ._cpython import CPythonPlatform

    return CPythonPlatform()
