"""How a gateway's answers look: OpenAI's JSON."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from typing import Any

from sippet.results import TextResult, Usage


class Shape(ABC):
    """How answers of one route look."""

    kind: str
    prefix: str

    def __init__(self) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def head(self, target: str) -> dict[str, Any]:
        """What every piece of an answer begins with."""
        return {"id": self.id, "object": self.kind, "created": self.created, "model": target}

    @abstractmethod
    def chunk(self, target: str, text: str, reasoning: str) -> dict[str, Any]:
        """A piece of the answer."""

    @abstractmethod
    def last(self, target: str, result: TextResult) -> dict[str, Any]:
        """Why it ended, and the tool calls."""

    @abstractmethod
    def whole(self, target: str, result: TextResult) -> dict[str, Any]:
        """The answer in one piece."""


class Chat(Shape):
    """``/v1/chat/completions``."""

    kind, prefix = "chat.completion.chunk", "chatcmpl"

    def chunk(self, target: str, text: str, reasoning: str) -> dict[str, Any]:
        delta = {"content": text} | ({"reasoning_content": reasoning} if reasoning else {})
        return self.head(target) | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    def last(self, target: str, result: TextResult) -> dict[str, Any]:
        calls = [{"index": index, **call} for index, call in enumerate(result.tool_calls)]
        delta: dict[str, Any] = {"tool_calls": calls} if calls else {}
        choice = {"index": 0, "delta": delta, "finish_reason": _finish(result), **_logprobs(result)}
        return self.head(target) | {"choices": [choice], **_timings(result)}

    def whole(self, target: str, result: TextResult) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": result.text}
        if result.reasoning:
            message["reasoning_content"] = result.reasoning
        if result.tool_calls:
            message["tool_calls"] = result.tool_calls
        choice = {"index": 0, "message": message, "finish_reason": _finish(result), **_logprobs(result)}
        head = self.head(target) | {"object": "chat.completion"}
        return head | {"choices": [choice], "usage": usage_of(result.usage), **_timings(result)}


class Completion(Shape):
    """``/v1/completions``."""

    kind, prefix = "text_completion", "cmpl"

    def chunk(self, target: str, text: str, reasoning: str) -> dict[str, Any]:
        return self.head(target) | {"choices": [{"index": 0, "text": text, "finish_reason": None}]}

    def last(self, target: str, result: TextResult) -> dict[str, Any]:
        choice = {"index": 0, "text": "", "finish_reason": _finish(result), **_logprobs(result)}
        return self.head(target) | {"choices": [choice], **_timings(result)}

    def whole(self, target: str, result: TextResult) -> dict[str, Any]:
        choice = {"index": 0, "text": result.text, "finish_reason": _finish(result), **_logprobs(result)}
        return self.head(target) | {"choices": [choice], "usage": usage_of(result.usage), **_timings(result)}


def _timings(result: TextResult) -> dict[str, Any]:
    """Where the time went, by llama-server's names, as far as the target says."""
    timings = result.timings
    found = {
        "prompt_ms": timings.prefill_ms,
        "predicted_ms": timings.decode_ms,
        "prompt_per_second": timings.prefill_tokens_per_second,
        "predicted_per_second": timings.tokens_per_second,
    }
    known = {name: value for name, value in found.items() if value is not None}
    return {"timings": known} if known else {}


def _logprobs(result: TextResult) -> dict[str, Any]:
    content = [
        {
            "id": entry.id,
            "token": entry.token,
            "logprob": entry.logprob,
            "top_logprobs": [{"token": token, "logprob": logprob} for token, logprob in entry.top],
        }
        for entry in result.logprobs
    ]
    return {"logprobs": {"content": content}} if content else {}


def _finish(result: TextResult) -> str:
    return {"error": "content_filter", "cancelled": "stop"}.get(result.finish_reason, result.finish_reason)


def usage_of(usage: Usage) -> dict[str, Any]:
    """The counts, as OpenAI writes them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
