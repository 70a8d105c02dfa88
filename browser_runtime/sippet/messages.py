"""Conversations: :class:`ChatMessage`, and the check of what callers pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from . import _json
from ._fields import show
from .errors import InvalidOption

Role = Literal["system", "user", "assistant", "tool", "developer"]


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation.

    Attributes:
        role: who speaks.
        content: the text, or a list of OpenAI's parts; ``None`` where an assistant only calls functions.
        tool_calls: of an assistant: the calls, as :attr:`TextResult.tool_calls` has them.
        tool_call_id: of a tool: the ``id`` of the call that this answers.
    """

    role: Role
    content: str | list[dict[str, Any]] | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    tool_call_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        more = {"tool_calls": self.tool_calls, "tool_call_id": self.tool_call_id}
        return {
            "role": self.role,
            "content": self.content,
            **{name: value for name, value in more.items() if value is not None},
        }


Messages = Sequence[Mapping[str, Any] | ChatMessage]


def check_messages(messages: Messages) -> list[dict[str, Any]]:
    """The conversation as plain dictionaries.

    Raises:
        InvalidOption: it is empty, or a message has no known role, no content, or what JSON can't hold.
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
            f"messages[{index}] has the role {show(plain.get('role'))}.",
            hint=f"Roles are {', '.join(get_args(Role))}.",
        )
    calls, content = plain.get("tool_calls"), plain.get("content")
    if not isinstance(content, (str, list)) and not (content is None and calls and plain["role"] == "assistant"):
        raise InvalidOption(
            "messages", f"messages[{index}] has no content.", hint="Give it a text, or a list of OpenAI's parts."
        )
    if calls is not None and not (isinstance(calls, (list, tuple)) and all(map(_is_call, calls))):
        raise InvalidOption(
            "messages",
            f"messages[{index}].tool_calls is no list of calls.",
            hint='A call is {"id": ..., "type": "function", "function": {"name": ..., "arguments": JSON as a text}}.',
        )
    for name in ("name", "tool_call_id"):
        if not isinstance(plain.get(name, ""), str):
            raise InvalidOption("messages", f"messages[{index}].{name} must be a string.")
    try:
        found: dict[str, Any] = _json.plain({name: value for name, value in plain.items() if name != "content"})
        if content is not None:
            found["content"] = [_part(part) for part in content] if isinstance(content, list) else _json.plain(content)
    except ValueError as error:
        raise InvalidOption("messages", f"messages[{index}] must hold JSON values only: {error}.") from error
    return found


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, Mapping) else None
    return isinstance(function, Mapping) and all(isinstance(function.get(name), str) for name in ("name", "arguments"))


def _part(part: Any) -> dict[str, Any]:
    """A part of a content; an image may be of any type that can be read."""
    if not isinstance(part, Mapping):
        raise ValueError(f"a part of its content is {type(part).__name__}, not a mapping")
    if part.get("type") == "text" and not isinstance(part.get("text"), str):
        raise ValueError("a part of the type text has no text")
    image = {"image": part["image"]} if part.get("type") == "image" and "image" in part else {}
    return {**_json.plain({name: value for name, value in part.items() if name not in image}), **image}
