"""Who is asking: keys, and short-lived tokens that a server makes of a key for a tab.

A token is ``stk_PAYLOAD.SIGNATURE``: what it allows, until when, signed (HMAC-SHA256) with a secret of this process.
Nothing is stored; a restart ends all tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

from .gateway_config import Key

PREFIX = "stk_"
MAX_SECONDS = 3600


@dataclass(frozen=True)
class Caller:
    """What the asker may do.

    Attributes:
        name: of the key.
        targets: which ones; all where it is ``None``.
        max_concurrent: requests together.
        may_issue: a key may make tokens, a token may not.
    """

    name: str
    targets: frozenset[str] | None
    max_concurrent: int
    may_issue: bool

    def may_use(self, target: str) -> bool:
        """Whether the target is allowed."""
        return self.targets is None or target in self.targets


class Keyring:
    """The keys, and the tokens made of them."""

    def __init__(self, keys: Iterable[Key]) -> None:
        """
        Args:
            keys: who may ask; none lets everybody, who then is told apart by nothing.
        """
        self._keys = {key.name: key for key in keys}
        self._signing = secrets.token_bytes(32)

    @property
    def is_open(self) -> bool:
        """There are no keys."""
        return not self._keys

    def caller(self, secret: str) -> Caller | None:
        """Who shows ``secret``; ``None`` for nobody known, or a token that has ended."""
        if secret.startswith(PREFIX):
            return self._from_token(secret)
        found = None
        for key in self._keys.values():  # all of them, so that the time tells nothing
            if hmac.compare_digest(_bytes(key.secret), _bytes(secret)):
                found = Caller(key.name, key.targets, key.max_concurrent, may_issue=True)
        return found

    def issue(self, caller: Caller, targets: frozenset[str] | None, seconds: int) -> str:
        """A token that allows ``targets`` (at most the caller's) for ``seconds``."""
        allowed = caller.targets if targets is None else targets
        payload = {"k": caller.name, "t": None if allowed is None else sorted(allowed), "e": time.time() + seconds}
        text = _encode(json.dumps(payload).encode())
        return f"{PREFIX}{text}.{self._sign(text)}"

    def _from_token(self, token: str) -> Caller | None:
        text, _, signature = token.removeprefix(PREFIX).partition(".")
        if not hmac.compare_digest(_bytes(self._sign(text)), _bytes(signature)):
            return None
        payload = json.loads(base64.urlsafe_b64decode(text))
        key = self._keys.get(payload["k"])
        if key is None or payload["e"] < time.time():
            return None
        targets = None if payload["t"] is None else frozenset(payload["t"])
        return Caller(key.name, targets, key.max_concurrent, may_issue=False)

    def _sign(self, text: str) -> str:
        return _encode(hmac.digest(self._signing, _bytes(text), hashlib.sha256))


def _bytes(text: str) -> bytes:
    """As it came over the wire or stands in the environment, which need not be UTF-8."""
    return text.encode(errors="surrogateescape")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()
