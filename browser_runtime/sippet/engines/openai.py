"""OpenAI's API and its relatives: llama-server's and vLLM's extensions, and what servers do differently."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..endpoints import ServerKind
from ..errors import UnsupportedOperation
from ._dialect import Call, Decoder, Dialect, StreamFailed, parse
from ._sse import SseEvent
from .base import CallKind, StreamKind

_COMMON = frozenset({
    "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "presence_penalty",
    "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
})  # fmt: skip

_LLAMA = {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repeat_penalty"}
_EXTENSIONS: Mapping[ServerKind, Mapping[str, str]] = {
    "openai": {},
    "sippet": _LLAMA,
    "llama.cpp": _LLAMA,
    "vllm": {**_LLAMA, "repeat_penalty": "repetition_penalty"},
}
"""Options beyond OpenAI's, and each server's names of them."""

_PATHS: Mapping[CallKind, str] = {
    "embedding": "/embeddings",
    "rerank": "/rerank",
    "tokenize": "../tokenize",
    "detokenize": "../detokenize",
    "template": "../apply-template",
}
"""llama-server has the last three beside ``/v1``, not below it."""


class OpenAiDialect(Dialect):
    """``/chat/completions``, ``/completions``, ``/embeddings``."""

    def __init__(self, model: str, server: ServerKind, bucket: str, *, own: bool = False) -> None:
        """
        Args:
            model: the server's name of the model.
            server: which extensions it has.
            bucket: which bucket of further options requests take.
            own: it is OpenAI itself, whose newer models refuse ``max_tokens``.
        """
        self._model = model
        self._server = server
        self._names = _EXTENSIONS[server]
        self._own = own
        self.options_bucket = bucket

    def check(self, kind: StreamKind, body: Mapping[str, Any]) -> None:
        who = "OpenAI's API" if self._server == "openai" else f"This {self._server} server"
        self.refuse_unknown(body, _COMMON | self._names.keys(), who)

    def request(self, kind: StreamKind, body: Mapping[str, Any]) -> Call:
        found = {self._names.get(k, k): v for k, v in body.items() if k != self.options_bucket}
        if kind == "chat":
            if self._own and "max_tokens" in found:
                found["max_completion_tokens"] = found.pop("max_tokens")
            if isinstance(found.get("logprobs"), int) and not isinstance(found["logprobs"], bool):
                found["top_logprobs"], found["logprobs"] = found["logprobs"], True
        found |= body.get(self.options_bucket) or {}
        found |= {"model": self._model, "stream": True, "stream_options": {"include_usage": True}}
        if self._server == "llama.cpp":
            found["timings_per_token"] = True  # real counts, also for a run that is cancelled
        return Call("/chat/completions" if kind == "chat" else "/completions", found)

    def decoder(self) -> Decoder:
        return _Decoder()

    def whole(self, kind: StreamKind, answer: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        choices = [
            {**{k: v for k, v in choice.items() if k != "message"}, "delta": choice["message"]}
            if isinstance(choice.get("message"), dict)
            else choice
            for choice in answer.get("choices") or ()
        ]
        return [_Decoder().normal({**answer, "choices": choices})]

    def call(self, kind: CallKind, body: Mapping[str, Any]) -> Call:
        if kind != "embedding" and self._server != "llama.cpp" and not (kind == "rerank" and self._server == "vllm"):
            raise UnsupportedOperation(
                f"OpenAI's API has no {kind} operation.",
                hint='If a llama-server is behind this endpoint, say server="llama.cpp".',
            )
        return Call(_PATHS[kind], {**body, "model": self._model})

    def answer(self, kind: CallKind, answer: dict[str, Any]) -> dict[str, Any]:
        return answer

    def headers(self, secret: str | None) -> dict[str, str]:
        return {} if secret is None else {"Authorization": f"Bearer {secret}"}


class _Decoder(Decoder):
    def __init__(self) -> None:
        self._named: set[int] = set()
        self._ids: list[str] = []

    def feed(self, event: SseEvent) -> Iterable[dict[str, Any]]:
        if event.data.strip() == "[DONE]":
            self.done = True
            return []
        found = parse(event)
        if event.type == "error" or found.get("error"):
            error = found.get("error") or found
            raise StreamFailed(error if isinstance(error, dict) else {"message": str(error)})
        return [self.normal(found)]

    def normal(self, found: dict[str, Any]) -> dict[str, Any]:
        """The chunk as llama-server would have written it."""
        for choice in found.get("choices") or ():
            if choice.get("finish_reason"):
                self.finished = True
                choice["finish_reason"] = _FINISH.get(choice["finish_reason"], choice["finish_reason"])
            if isinstance(choice.get("logprobs"), dict) and "tokens" in choice["logprobs"]:
                choice["logprobs"] = {"content": list(_legacy(choice["logprobs"]))}
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                continue
            if isinstance(delta.get("content"), list):
                delta["content"] = "".join(part["text"] for part in delta["content"] if part.get("type") == "text")
            if delta.get("reasoning") and not delta.get("reasoning_content"):
                delta["reasoning_content"] = delta["reasoning"]
            if delta.get("refusal") and not delta.get("content"):
                delta["content"] = delta["refusal"]
            if delta.get("tool_calls"):
                delta["tool_calls"] = [self._tool_call(part) for part in delta["tool_calls"]]
        return found

    def _tool_call(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """One part of a call: some servers leave out the index, repeat the name, or send arguments as an object."""
        index = part.get("index")
        if index is None:
            identity = part.get("id")
            if identity and identity not in self._ids:
                self._ids.append(identity)
            index = self._ids.index(identity) if identity else max(len(self._ids) - 1, 0)
        function = dict(part.get("function") or {})
        if function.get("name"):
            if index in self._named:
                function["name"] = None
            self._named.add(index)
        if isinstance(function.get("arguments"), dict):
            function["arguments"] = json.dumps(function["arguments"])
        return {**part, "index": index, "function": function}


def _legacy(logprobs: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The entries of ``/completions``, which has lists beside each other, as those of a chat."""
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    for token, value, top in zip(tokens, values, tops, strict=True):
        if value is not None:  # there is none for the first token of a prompt that is repeated
            best = sorted((top or {}).items(), key=lambda pair: -pair[1])
            yield {
                "token": token,
                "logprob": value,
                "top_logprobs": [{"token": text, "logprob": logprob} for text, logprob in best],
            }


_FINISH = {"function_call": "tool_calls", "content_filter": "error", "eos": "stop", "max_tokens": "length"}
