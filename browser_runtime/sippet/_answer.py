"""An answer as it is put together from llama-server's stream chunks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from .errors import EngineError
from .results import FinishReason, TextResult, Timings, TokenLogprob, Usage


class Answer:
    """What has come of an answer so far."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, str]] = []
        self.times: list[float] = []
        self.finish_reason: FinishReason | None = None
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[TokenLogprob] = []
        self._usage: Mapping[str, Any] = {}
        self._timings: Mapping[str, Any] = {}

    def add(self, chunk: Mapping[str, Any]) -> bool:
        """Take in one chunk. Returns whether it brought text."""
        self._usage = chunk.get("usage") or self._usage
        self._timings = chunk.get("timings") or self._timings
        brought = False
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or choice
            text = delta.get("content") or delta.get("text") or ""
            reasoning = delta.get("reasoning_content") or ""
            if text or reasoning:
                self.times.append(time.perf_counter())
                self.pieces.append((text, reasoning))
                brought = True
            for call in delta.get("tool_calls") or ():
                self._add_tool_call(call)
            for entry in (choice.get("logprobs") or {}).get("content") or ():
                self._logprobs.append(_logprob(entry))
            if choice.get("finish_reason"):
                self.finish_reason = _finish_reason(choice["finish_reason"])
        return brought

    def since(self, seen: int) -> tuple[str, str]:
        """Text and reasoning of the pieces from number ``seen`` on."""
        fresh = self.pieces[seen:]
        return "".join(text for text, _ in fresh), "".join(reasoning for _, reasoning in fresh)

    def result(
        self, endpoint: str, started: float, cancel_reason: str | None, parse: Callable[[str], Any] | None
    ) -> TextResult:
        """The outcome.

        Raises:
            EngineError: the stream ended without a reason.
            SchemaMismatch: the whole answer is not what ``parse`` takes.
        """
        if self.finish_reason is None:
            raise EngineError("The engine ended the answer without saying why.", hint="Send the request again.")
        if self._tool_calls and self.finish_reason == "stop":  # as some servers say of a call that was forced
            self.finish_reason = "tool_calls"
        text, reasoning = self.since(0)
        return TextResult(
            text=text,
            reasoning=reasoning,
            finish_reason=self.finish_reason,
            usage=self._counts(),
            timings=self._times(started),
            endpoint=endpoint,
            tool_calls=[_with_id(self._tool_calls[i]) for i in sorted(self._tool_calls)],
            cancel_reason=cancel_reason if self.finish_reason == "cancelled" else None,
            parsed=parse(text) if parse and self.finish_reason == "stop" else None,
            logprobs=self._logprobs,
        )

    def _add_tool_call(self, part: Mapping[str, Any]) -> None:
        call = self._tool_calls.setdefault(
            part.get("index", 0), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def _counts(self) -> Usage:
        usage, timings = self._usage, self._timings
        details = usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens", timings.get("cache_n", 0)) or 0
        computed = timings.get("prompt_n", 0) or 0
        return Usage(
            prompt_tokens=int(usage.get("prompt_tokens", computed + cached) or 0),
            cached_tokens=int(cached),
            completion_tokens=int(usage.get("completion_tokens", timings.get("predicted_n", 0)) or 0),
        )

    def _times(self, started: float) -> Timings:
        timings = self._timings
        return Timings(
            prefill_ms=_float(timings.get("prompt_ms")),
            time_to_first_token_ms=(self.times[0] - started) * 1e3 if self.times else None,
            decode_ms=_float(timings.get("predicted_ms")),
            total_ms=(time.perf_counter() - started) * 1e3,
            prefill_tokens_per_second=_float(timings.get("prompt_per_second")),
            tokens_per_second=_float(timings.get("predicted_per_second")),
        )


def _float(value: float | None) -> float | None:
    """JSON from a tab's engine has whole numbers without a fraction."""
    return None if value is None else float(value)


def _with_id(call: dict[str, Any]) -> dict[str, Any]:
    """A call with an id, which some models leave out and every reply to a call needs."""
    return {**call, "id": call["id"] or f"call_{os.urandom(8).hex()}"}


def _finish_reason(value: str) -> FinishReason:
    if value in ("stop", "length", "tool_calls", "error"):
        return value  # type: ignore[return-value]
    return "length" if value == "max_tokens" else "stop"


def _logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    top = [(str(item["token"]), float(item["logprob"])) for item in entry.get("top_logprobs") or ()]
    return TokenLogprob(str(entry["token"]), float(entry["logprob"]), top, entry.get("id"))
