"""The headers that every response carries: pages, scripts of workers, models, errors."""

from __future__ import annotations

from collections.abc import MutableMapping

from .csp import build_policy
from .settings import Settings

# Features that the page never uses. Only names that current browsers know: others would fill the console.
_PERMISSIONS = ", ".join(
    f"{feature}=()"
    for feature in (
        "accelerometer",
        "camera",
        "display-capture",
        "geolocation",
        "gyroscope",
        "hid",
        "magnetometer",
        "microphone",
        "midi",
        "payment",
        "serial",
        "usb",
    )
)


class SecurityHeaders:
    """The header sets for one configuration, computed once.

    ``document`` is for HTML; ``other`` for everything else. They differ in the Content Security Policy only.
    """

    def __init__(self, settings: Settings) -> None:
        common = {
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Permissions-Policy": _PERMISSIONS,
        }
        if settings.isolation:
            common["Cross-Origin-Opener-Policy"] = "same-origin"
            common["Cross-Origin-Embedder-Policy"] = settings.coep
        connect = settings.connect_sources
        self.document = common | {"Content-Security-Policy": str(build_policy(document=True, connect=connect))}
        self.other = common | {"Content-Security-Policy": str(build_policy(document=False, connect=connect))}

    def apply(self, headers: MutableMapping[str, str], content_type: str) -> None:
        """Sets the headers on a response about to be sent, and removes the server's banner."""
        headers.update(self.document if content_type == "text/html" else self.other)
        headers.pop("Server", None)
