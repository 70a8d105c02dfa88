"""Tools for models whose chat template knows none: described in words, answered in JSON.

The engine drops the tools in silence where the template has no place for them, and forces no call where it does not
know the template's way of calling. So the tools are written into the system message here, the answer is constrained to
JSON that is either a call or a text, and calls and their results are told as ordinary messages. A text is read out of
its JSON as it comes; a call is told when it is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from . import _json

INSTRUCTION = "You can call these functions:\n{tools}\n\n{how}{otherwise}"
ONE = 'To call one, answer with JSON: {"tool_call": {"name": NAME, "arguments": ARGUMENTS}}.'
SEVERAL = 'To call one or several, answer with JSON: {"tool_calls": [{"name": NAME, "arguments": ARGUMENTS}, ...]}.'
OTHERWISE = ' To answer the user, use JSON too: {"response": TEXT}.'


def needed(template: str, choice: Any) -> bool:
    """Whether tools must be told in words: the template has no place for them, or a call is to be forced, which engines
    promise for the templates that they know only.
    """
    forced = choice not in (None, "auto", "none")
    return forced or (bool(template) and "tools" not in template)


def rewrite(body: Mapping[str, Any]) -> dict[str, Any]:
    """A chat request with tools as one without."""
    rest = {k: v for k, v in body.items() if k not in ("tools", "tool_choice", "parallel_tool_calls")}
    choice = body.get("tool_choice", "auto")
    messages = [_plain(message) for message in body["messages"]]
    if choice == "none":
        return {**rest, "messages": messages}
    tools = [tool["function"] for tool in body["tools"]]
    if isinstance(choice, Mapping):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    forced = choice != "auto"
    several = body.get("parallel_tool_calls") is True
    text = INSTRUCTION.format(
        tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools),
        how=SEVERAL if several else ONE,
        otherwise="" if forced else OTHERWISE,
    )
    return {**rest, "messages": _with_system(messages, text), "json_schema": _schema(tools, forced, several)}


async def parsed(stream: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a constrained answer as those of an ordinary one: a text as it comes, or a tool call."""
    answer = _Answer()
    try:
        async for chunk in stream:
            choices = chunk.get("choices")
            if not choices:
                yield chunk
                continue
            choice = choices[0]
            delta = {**(choice.get("delta") or {})}
            delta["content"] = answer.feed(delta.get("content") or "")
            reason = choice.get("finish_reason")
            if reason is not None:
                more, reason = answer.end(reason)
                delta |= more
            yield {**chunk, "choices": [{**choice, "delta": delta, "finish_reason": reason}]}
    finally:
        await stream.aclose()


_HEX = "[0-9a-fA-F]"
_HEAD = re.compile(r'\s*\{\s*"response"\s*:\s*"')
_WHOLE = re.compile(
    rf"""(?: [^"\\] | \\["\\/bfnrt]
       | \\u(?![dD][89abAB]){_HEX}{{4}}
       | \\u[dD][89abAB]{_HEX}{{2}}                                          # the first half of a pair, and
           (?: \\u[dD][c-fC-F]{_HEX}{{2}} | (?=[^\\]|\\[^u]|\\u[^dD]|\\u[dD][^c-fC-F]) )  # the second, or surely none
       )*""",
    re.VERBOSE,
)
"""What of a JSON string's inside can be read whatever follows."""


class _Answer:
    """Reads ``{"response": TEXT}`` as it comes, in pieces cut anywhere, and anything else at its end."""

    def __init__(self) -> None:
        self._text = ""  # what is not read yet
        self._inside = self._read = False  # TEXT; its end was read

    def feed(self, piece: str) -> str:
        """Take in a piece. Returns what of TEXT it completes."""
        self._text += piece
        if self._read:
            return ""
        if not self._inside:
            head = _HEAD.match(self._text)
            if not head:
                return ""
            self._inside, self._text = True, self._text[head.end() :]
        whole = _WHOLE.match(self._text)
        assert whole  # of no characters, if need be
        self._text = self._text[whole.end() :]
        self._read = self._text.startswith('"')
        said: str = json.loads(f'"{whole[0]}"', strict=False)
        return said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # no half of a pair, if it wrote one

    def end(self, reason: str) -> tuple[dict[str, Any], str]:
        """What else the answer brings, as a chunk's delta, and why it ended. Of a call that was cut off, nothing."""
        if self._inside:
            return {}, reason
        try:
            value = _json.loads(self._text)
        except ValueError:
            return {"content": self._text if reason == "stop" else ""}, reason
        value = value if isinstance(value, dict) else {}
        calls = [value["tool_call"]] if "tool_call" in value else value.get("tool_calls")
        if not calls:
            return {"content": self._text}, reason
        functions = [{"name": c["name"], "arguments": json.dumps(c["arguments"], ensure_ascii=False)} for c in calls]
        told = [{"index": i, "id": "", "type": "function", "function": f} for i, f in enumerate(functions)]
        return {"tool_calls": told}, "tool_calls"


def _schema(tools: Sequence[Mapping[str, Any]], forced: bool, several: bool) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    calls = []
    for tool in tools:
        parameters = tool.get("parameters") or {"type": "object"}
        if "$ref" in json.dumps(parameters):
            # What refers to its own document must find it where it is now.
            definitions[tool["name"]] = _moved(parameters, f"#/$defs/{tool['name']}")
            parameters = {"$ref": f"#/$defs/{tool['name']}"}
        calls.append(_object(name={"const": tool["name"]}, arguments=parameters))
    call = calls[0] if len(calls) == 1 else {"anyOf": calls}
    called = _object(tool_calls={"type": "array", "items": call, "minItems": 1}) if several else _object(tool_call=call)
    schema = called if forced else {"anyOf": [called, _object(response={"type": "string"})]}
    return {**schema, "$defs": definitions} if definitions else schema


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references inside its document start at ``place``."""
    if isinstance(schema, Mapping):
        return {
            key: place + value[1:]
            if key == "$ref" and isinstance(value, str) and value[:1] == "#"
            else _moved(value, place)
            for key, value in schema.items()
        }
    return [_moved(item, place) for item in schema] if isinstance(schema, list) else schema


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message that any template can render."""
    if message.get("tool_calls"):
        functions = [call["function"] for call in message["tool_calls"]]
        calls = [{"name": f["name"], "arguments": _arguments(f["arguments"])} for f in functions]
        said = {"tool_calls": calls} if len(calls) > 1 else {"tool_call": calls[0]}
        return {"role": "assistant", "content": json.dumps(said, ensure_ascii=False)}
    if message["role"] == "tool":
        name = message.get("name", "The function")
        return {"role": "user", "content": f"{name} returned: {_text(message['content'])}"}
    return dict(message)


def _arguments(written: str) -> Any:
    """Arguments as a model wrote them once: JSON, most of the time."""
    try:
        return _json.loads(written or "{}")
    except ValueError:
        return written


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text") or "") for part in content)


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages[0]["role"] == "system" and isinstance(messages[0]["content"], str):
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
