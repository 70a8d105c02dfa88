"""The page's port in Pyodide: what ``static/js/runtime.mjs`` calls."""

from __future__ import annotations

from typing import Any

import js  # type: ignore[import-not-found]
from pyodide.ffi import create_proxy, to_js  # type: ignore[import-not-found]

from ..bridge import Bridge


def serve(send: Any) -> Any:
    """Serve a page.

    Args:
        send: a JavaScript function that posts a plain message.

    Returns:
        A JavaScript function that takes in the page's messages.
    """
    bridge = Bridge(lambda message: send(to_js(message, dict_converter=js.Object.fromEntries)))
    return create_proxy(lambda message: bridge.receive(message.to_py()))
