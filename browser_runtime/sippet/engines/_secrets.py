"""Credentials: fetched when a request needs them, sent once, and kept out of everything that people read."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Mapping

from .._remote_fields import Bearer, Header, fits_header, is_private_transport
from ..endpoints import Gateway, Provider
from ..errors import AuthenticationFailed, InvalidOption

_ENVIRONMENT = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_SENSITIVE = re.compile("auth|key|token|secret|cookie|password", re.IGNORECASE)
"""Headers of such names carry secrets."""
_SHORTEST = 6
"""Shorter texts are not taken for secrets in messages: blotting them out would blot out words."""


class Credentials:
    """The secret of one endpoint."""

    def __init__(self, descriptor: Gateway | Provider, base_url: str) -> None:
        """
        Args:
            descriptor: says where the secret comes from.
            base_url: where it goes.

        Raises:
            AuthenticationFailed: none was given where there must be one.
            InvalidOption: it would go over plain http to another machine.
        """
        self._descriptor = descriptor
        self._variable = _ENVIRONMENT.get(descriptor.provider) if isinstance(descriptor, Provider) else None
        self.header = _header_name(descriptor)
        if self._variable and self._source() is None:
            raise AuthenticationFailed(
                f"There is no API key for {base_url}.",
                hint=f"Pass api_key=, or set {self._variable} in the environment.",
            )
        exposed = self._source() is not None or any(map(_SENSITIVE.search, descriptor.headers))
        if exposed and not descriptor.allow_insecure and not is_private_transport(base_url):
            raise InvalidOption(
                "base_url",
                "Credentials would go over plain http to another machine.",
                hint="Use https, or allow_insecure=True where the network between is your own.",
            )

    async def get(self) -> str | None:
        """The secret, or ``None`` where the endpoint has none.

        Raises:
            AuthenticationFailed: the callback failed. Its message is left out: it may hold the secret.
        """
        source = self._source()
        if source is None:
            return None
        if callable(source):
            try:
                source = source()
                if inspect.isawaitable(source):
                    source = await source
            except Exception as error:
                raise AuthenticationFailed(
                    f"The callback that gives the credentials failed ({type(error).__name__}).",
                    hint="Look into the callback.",
                ) from None
        secret = source.strip() if isinstance(source, str) else ""  # a key from a file ends with a newline
        if not secret:
            raise AuthenticationFailed("The callback gave no text.", hint="It must return the credential.")
        if not fits_header(secret):
            raise AuthenticationFailed("The credential holds characters that no header can carry.")
        return secret

    def hide(self, text: str, secret: str | None) -> str:
        """The text without secrets: servers like to repeat what they were sent."""
        return _blot(text, [secret or "", *self._sensitive_headers(self._descriptor.headers)])

    def _source(self) -> object:
        descriptor = self._descriptor
        if isinstance(descriptor, Provider):
            given = descriptor.api_key
            return given if given is not None or self._variable is None else os.environ.get(self._variable) or None
        match descriptor.authentication:
            case Bearer(token=token):
                return token
            case Header(value=value):
                return value
        return None

    @staticmethod
    def _sensitive_headers(headers: Mapping[str, str]) -> Iterable[str]:
        return (value for name, value in headers.items() if _SENSITIVE.search(name))


def _header_name(descriptor: Gateway | Provider) -> str | None:
    """The header that carries the secret, where the caller chose it."""
    match descriptor:
        case Gateway(authentication=Header(name=name)):
            return name
    return None


def _blot(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        bare = secret.partition(" ")[2] or secret  # without the name of a scheme, such as Bearer
        if len(bare) >= _SHORTEST:
            text = text.replace(bare, "[secret]")
    return text
