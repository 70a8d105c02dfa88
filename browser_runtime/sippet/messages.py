"""Conversations: :class:`ChatMessage`, and the check of what callers pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import InvalidOption

Role = Literal["system", "user", "assistant", "tool", "developer"]


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Role
    content: str | list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content}


Messages = Sequence[Mapping[str, Any] | ChatMessage]


def check_messages(messages: Messages) -> list[dict[str, Any]]:
    """The conversation as plain dictionaries.

    Raises:
        InvalidOption: it is empty, or a message has no known role or no content.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidOption(
            "messages", "messages must be a list of messages.", hint='For example [{"role": "user", "content": "Hi"}].'
        )
    if not messages:
        raise InvalidOption("messages", "messages is empty.", hint="Pass at least one message.")
    return [_check(index, message) for index, message in enumerate(messages)]


def _check(index: int, message: Any) -> dict[str, Any]:
    plain = message.to_dict() if isinstance(message, ChatMessage) else message
    if not isinstance(plain, Mapping):
        raise InvalidOption("messages", f"messages[{index}] must be a mapping or a ChatMessage.")
    if plain.get("role") not in get_args(Role):
        raise InvalidOption(
            "messages",
            f"messages[{index}] has the role {plain.get('role')!r}.",
            hint=f"Roles are {', '.join(get_args(Role))}.",
        )
    if not isinstance(plain.get("content"), (str, list)) and not plain.get("tool_calls"):
        raise InvalidOption("messages", f"messages[{index}] has no content.", hint="Give it a text.")
    return dict(plain)
