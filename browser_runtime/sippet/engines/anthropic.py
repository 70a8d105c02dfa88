"""Anthropic's Messages API, translated both ways."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .. import _json
from ..errors import InvalidOption, UnsupportedOperation
from ..options import refuse_other_tools
from ._dialect import Call, Decoder, Dialect, StreamFailed, chunk, parse
from ._sse import SseEvent
from .base import CallKind, StreamKind

VERSION = "2023-06-01"
DEFAULT_MAX_TOKENS = 4096
"""The API wants a limit with each request; this one is sent where the caller gives none."""

_KNOWN = frozenset({
    "messages", "max_tokens", "temperature", "top_p", "top_k", "stop", "tools", "tool_choice", "parallel_tool_calls",
})  # fmt: skip

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "error",
}


class AnthropicDialect(Dialect):
    """``/messages``."""

    options_bucket = "provider_options"

    def __init__(self, model: str) -> None:
        """
        Args:
            model: the provider's name of the model.
        """
        self._model = model

    def check(self, kind: StreamKind, body: Mapping[str, Any]) -> None:
        if kind == "completion":
            raise UnsupportedOperation("Anthropic's API takes no raw prompt.", hint="Use chat().")
        self.refuse_unknown(body, _KNOWN, "Anthropic's API")
        refuse_other_tools(body.get("tools"), body.get("tool_choice"), "Anthropic's API")
        if (body.get("temperature") or 0) > 1:
            raise InvalidOption("temperature", "Anthropic's API takes a temperature from 0 to 1.")

    def request(self, kind: StreamKind, body: Mapping[str, Any]) -> Call:
        system, messages = _messages(body["messages"])
        found: dict[str, Any] = {
            **{name: body[name] for name in ("temperature", "top_p", "top_k") if name in body},
            **(body.get(self.options_bucket) or {}),
            "model": self._model,
            "max_tokens": body.get("max_tokens", DEFAULT_MAX_TOKENS),
            "messages": messages,
            "stream": True,
        }
        if system:
            found["system"] = system
        if body.get("stop"):
            found["stop_sequences"] = [body["stop"]] if isinstance(body["stop"], str) else list(body["stop"])
        if body.get("tools"):
            found["tools"] = [_tool(tool) for tool in body["tools"]]
        choice = body.get("tool_choice", "auto" if body.get("tools") else None)
        if choice is not None and ("tool_choice" in body or "parallel_tool_calls" in body):
            found["tool_choice"] = _tool_choice(choice, body.get("parallel_tool_calls"))
        return Call("/messages", found)

    def decoder(self) -> Decoder:
        return _Decoder()

    def whole(self, kind: StreamKind, answer: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        decoder = _Decoder()
        yield from decoder.start({"message": answer})
        for index, block in enumerate(answer.get("content") or ()):
            text = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}.get(block.get("type"))
            yield from decoder.block_start({"index": index, "content_block": block if text is None else {}})
            if text is not None:
                yield from decoder.delta({"index": index, "delta": {"type": text[0], text[1]: block.get(text[1])}})
            yield from decoder.block_stop({"index": index})
        yield from decoder.message_delta({"delta": answer, "usage": answer.get("usage")})

    def call(self, kind: CallKind, body: Mapping[str, Any]) -> Call:
        raise UnsupportedOperation(
            f"Anthropic's API has no {kind} operation.", hint="Add an endpoint whose model supports it."
        )

    def answer(self, kind: CallKind, answer: dict[str, Any]) -> dict[str, Any]:
        return answer

    def headers(self, secret: str | None) -> dict[str, str]:
        return {"anthropic-version": VERSION} | ({} if secret is None else {"x-api-key": secret})


class _Decoder(Decoder):
    """Follows the events of one answer (message_start, content_block_*, message_delta, message_stop)."""

    def __init__(self) -> None:
        self._usage: dict[str, int] = {}
        self._tools: dict[int, int] = {}  # content block → number of the tool call
        self._argued: set[int] = set()

    def feed(self, event: SseEvent) -> Iterable[dict[str, Any]]:
        found = parse(event)
        match found.get("type", event.type):
            case "message_start":
                return self.start(found)
            case "content_block_start":
                return self.block_start(found)
            case "content_block_delta":
                return self.delta(found)
            case "content_block_stop":
                return self.block_stop(found)
            case "message_delta":
                return self.message_delta(found)
            case "message_stop":
                self.done = True
            case "error":
                raise StreamFailed(found.get("error") or {})
        return []  # pings, and kinds of events to come: the API says to pass over what one doesn't know

    def start(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._count(found.get("message", {}).get("usage"))
        return [chunk({"role": "assistant"}, usage=self._totals())]

    def block_start(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        block, index = found.get("content_block") or {}, found.get("index", 0)
        if block.get("type") != "tool_use":
            return [chunk({"content": block["text"]})] if block.get("text") else []
        number = self._tools[index] = len(self._tools)
        arguments = json.dumps(block["input"]) if block.get("input") else ""
        if arguments:
            self._argued.add(index)
        function = {"name": block.get("name"), "arguments": arguments}
        return [
            chunk({"tool_calls": [{"index": number, "id": block.get("id"), "type": "function", "function": function}]})
        ]

    def delta(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        delta, index = found.get("delta") or {}, found.get("index", 0)
        match delta.get("type"):
            case "text_delta":
                return [chunk({"content": delta.get("text") or ""})]
            case "thinking_delta":
                return [chunk({"reasoning_content": delta.get("thinking") or ""})]
            case "input_json_delta" if index in self._tools and delta.get("partial_json"):
                return [self._argue(index, delta["partial_json"])]
        return []

    def block_stop(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        index = found.get("index", 0)
        return [self._argue(index, "{}")] if index in self._tools and index not in self._argued else []

    def message_delta(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._count(found.get("usage"))
        reason = (found.get("delta") or {}).get("stop_reason")
        self.finished = self.finished or bool(reason)
        return [chunk({}, _FINISH.get(reason, "stop") if reason else None, usage=self._totals())]

    def _argue(self, index: int, text: str) -> dict[str, Any]:
        self._argued.add(index)
        return chunk({"tool_calls": [{"index": self._tools[index], "function": {"arguments": text}}]})

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        """Take in counts; a later event's are the totals so far, not additions."""
        for name, value in (usage or {}).items():
            if isinstance(value, int):
                self._usage[name] = value

    def _totals(self) -> dict[str, Any]:
        """OpenAI's way: the prompt's tokens include those that came from the cache; Anthropic's ``input_tokens``
        do not."""
        cached = self._usage.get("cache_read_input_tokens", 0)
        prompt = self._usage.get("input_tokens", 0) + self._usage.get("cache_creation_input_tokens", 0) + cached
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._usage.get("output_tokens", 0),
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def _messages(messages: Iterable[Mapping[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt, and the turns: user and assistant by turns, tool results among the user's."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            system.append(_text(message["content"]))
            continue
        if role == "tool":
            blocks = [
                {
                    "type": "tool_result",
                    "tool_use_id": message.get("tool_call_id"),
                    "content": _text(message["content"]),
                }
            ]
        else:
            blocks = [*_blocks(message.get("content")), *map(_tool_use, message.get("tool_calls") or ())]
        speaker = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": speaker, "content": blocks})
    return "\n\n".join(system), turns


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if part.get("type") == "text")


def _blocks(content: Any) -> list[dict[str, Any]]:
    if not content:
        return []  # the API refuses empty text
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_block(part) for part in content]


def _block(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image_url":
        return dict(part)
    address = part["image_url"]
    url = address["url"] if isinstance(address, Mapping) else address
    if url.startswith("data:"):
        head, _, data = url.partition(",")
        source = {"type": "base64", "media_type": head[5:].partition(";")[0], "data": data}
    else:
        source = {"type": "url", "url": url}
    return {"type": "image", "source": source}


def _tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = _json.loads(function.get("arguments") or "{}")
    except ValueError as error:
        raise InvalidOption("messages", "A tool call's arguments are not JSON.") from error
    return {"type": "tool_use", "id": call.get("id"), "name": function["name"], "input": arguments}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function") or {}
    found = {
        "name": function.get("name"),
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    return found | ({"description": function["description"]} if function.get("description") else {})


def _tool_choice(choice: Any, parallel: bool | None) -> dict[str, Any]:
    kinds = {"auto": "auto", "required": "any", "none": "none"}
    found: dict[str, Any] = (
        {"type": kinds[choice]} if isinstance(choice, str) else {"type": "tool", "name": choice["function"]["name"]}
    )
    if parallel is not None and found["type"] != "none":
        found["disable_parallel_tool_use"] = not parallel
    return found
