"""Tools for models whose chat template knows none: described in words, answered in JSON.

The engine drops the tools in silence where the template has no place for them, and forces no call where it does not
know the template's way of calling. So the tools are written into the system message here, the answer is constrained to
JSON that is either a call or a text, and calls and their results are told as ordinary messages. The text of an answer
then comes as a whole, when its JSON is complete.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

INSTRUCTION = (
    "You can call these functions:\n{tools}\n\n"
    'To call one, answer with JSON: {{"tool_call": {{"name": NAME, "arguments": ARGUMENTS}}}}.{otherwise}'
)
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
    text = INSTRUCTION.format(
        tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools), otherwise="" if forced else OTHERWISE
    )
    return {**rest, "messages": _with_system(messages, text), "json_schema": _schema(tools, forced)}


async def parsed(stream: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a constrained answer as those of an ordinary one: a text, or a tool call."""
    text = ""
    try:
        async for chunk in stream:
            choice = (chunk.get("choices") or [{}])[0]
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            reason = choice.get("finish_reason")
            if reason is None:
                kept = {key: value for key, value in delta.items() if key != "content"}
                yield {
                    **chunk,
                    "choices": [{**choice, "delta": kept}] if "delta" in choice else chunk.get("choices", []),
                }
            else:
                yield {**chunk, "choices": [_final(text, reason)]}
    finally:
        await stream.aclose()


def _final(text: str, reason: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:  # it was cut off
        return {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    call = value.get("tool_call") if isinstance(value, dict) else None
    if call:
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
        calls = [{"index": 0, "id": "", "type": "function", "function": function}]
        return {"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    answer = value.get("response") if isinstance(value, dict) else None
    return {"index": 0, "delta": {"content": text if answer is None else str(answer)}, "finish_reason": reason}


def _schema(tools: Sequence[Mapping[str, Any]], forced: bool) -> dict[str, Any]:
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool["name"]}, "arguments": tool.get("parameters") or {"type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    call = _object("tool_call", calls[0] if len(calls) == 1 else {"anyOf": calls})
    return call if forced else {"anyOf": [call, _object("response", {"type": "string"})]}


def _object(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message that any template can render."""
    if message.get("tool_calls"):
        function = message["tool_calls"][0]["function"]
        call = {"name": function["name"], "arguments": json.loads(function["arguments"] or "{}")}
        return {"role": "assistant", "content": json.dumps({"tool_call": call}, ensure_ascii=False)}
    if message["role"] == "tool":
        return {"role": "user", "content": f"{message.get('name', 'The function')} returned: {message['content']}"}
    return dict(message)


def _with_system(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages[0]["role"] == "system" and isinstance(messages[0]["content"], str):
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
