"""Requests as engines take them, and their answers as results."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from . import _generic_tools, _media, _stops
from ._endpoint import Endpoint
from ._fields import check_text
from ._scheduler import Slot
from .capabilities import refuse_unsupported
from .engines._shapes import understood
from .engines.base import Engine, EngineInfo, StreamKind
from .errors import EngineError, InvalidOption, UnsupportedOperation, UnsupportedOption
from .options import EmbedOptions, TextOptions, check_json, refuse_other_tools, to_body
from .results import EmbedResult, RankedDocument, RerankResult, Usage
from .schema import parser_of, schema_of


class TextRequest:
    """One ``query`` or ``chat``: checked when it is made, completed when it is about to run."""

    def __init__(
        self, kind: StreamKind, body: dict[str, Any], options: TextOptions, target: Endpoint, where: str
    ) -> None:
        """
        Args:
            kind: ``completion`` or ``chat``.
            body: the prompt or the messages.
            options: what was asked for.
            target: the endpoint.
            where: the method's name, for messages.

        Raises:
            UsageError: this endpoint can't do it.
        """
        info = target.info
        self._kind = kind
        self._options = options
        self._target = target
        self._files: tuple[bytes, ...] = ()
        self._generic_tools = False
        self.parse: Callable[[str], Any] | None = None
        refuse_unsupported(options, info.engine or info.backend, info.backend, where)
        local = target.ref.kind == "local"
        chat = kind == "chat"
        if chat and info.has_chat_template is False and not target.chat_template:
            raise UnsupportedOperation(
                "This model has no chat template, so it can't chat.",
                hint="Use query() with a prompt in the model's own format, or give context.chat_template.",
            )
        if options.media or (chat and _media.has_images(body["messages"])):
            _media.refuse_images(info.has_vision)
            if not chat and info.media_marker is None:
                raise UnsupportedOption("media", "This engine sees images in chats only.", hint="Use chat().")
        if options.tools and not chat:
            raise UnsupportedOption("tools", "query() has no tools: they need a conversation.", hint="Use chat().")
        if local:
            refuse_other_tools(options.tools, options.tool_choice, "This endpoint")
        self._body = {**body, **to_body(options, target.runtime.sampling if local else None, chat=chat)}
        self._add_lora()
        if options.json_schema is not None:
            schema = schema_of(options.json_schema)
            check_json("json_schema", schema)
            self._body["json_schema"] = schema
            self.parse = parser_of(options.json_schema, schema)
        if local and options.tools and _generic_tools.needed(target.chat_template, options.tool_choice):
            self._generic_tools = options.tool_choice != "none"
            self._body = _generic_tools.rewrite(self._body)
        target.check(kind, self._body)

    def _add_lora(self) -> None:
        """Say of each adapter whether it is on: what isn't said would stay as the last request had it."""
        adapters, scales = self._target.adapters, self._options.lora or {}
        unknown = [number for number in scales if number not in range(adapters)]
        if unknown:
            raise InvalidOption(
                "lora",
                f"lora names adapter {unknown[0]}, and the model was added with {adapters}.",
                hint="Adapters are given to LocalModel(lora=[...]) and counted from 0.",
            )
        if adapters:
            self._body["lora"] = [{"id": number, "scale": scales.get(number, 0.0)} for number in range(adapters)]

    async def prepare(self) -> None:
        """Read the images."""
        local = self._target.ref.kind == "local"
        media = self._options.media or ()
        if self._kind == "chat":
            if media or _media.has_images(self._body["messages"]):
                messages = await _media.with_images(self._body["messages"], media, fetch=local)
                self._body = {**self._body, "messages": messages}
        elif media:
            marker = str(self._target.info.media_marker)
            prompt, self._files = await _media.with_markers(self._body["prompt"], media, marker)
            self._body = {**self._body, "prompt": prompt}

    def stream(self, engine: Engine, slot: Slot) -> AsyncGenerator[dict[str, Any], None]:
        """Start it on an engine.

        Args:
            engine: the endpoint's.
            slot: the slot that the request holds.
        """
        body = dict(self._body)
        stops: list[str] = []
        if self._target.ref.kind == "local":
            stops = body.pop("stop", [])
            body["id_slot"] = slot.index
            body["cache_prompt"] = slot.own and self._target.runtime.cache.prompt_cache
        stream = engine.stream(self._kind, body, self._files)
        if self._generic_tools:
            stream = _generic_tools.parsed(stream)
        return _stops.until(stream, stops) if stops else stream

    def blamed(self, error: InvalidOption) -> InvalidOption:
        """A refusal by the option that was given, where the engine names what was made of it."""
        options = self._options
        made_of = "json_schema" if options.json_schema is not None else "tools" if options.tools else error.option
        if error.option not in ("grammar", "json_schema") or getattr(options, error.option) is not None:
            return error
        return InvalidOption(made_of, error.message, hint=f"Change {made_of}.")


def texts_of(name: str, value: str | Sequence[str]) -> list[str]:
    """One text or several, as a list.

    Raises:
        InvalidOption: there is none, or something else among them.
    """
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    if not texts or isinstance(value, bytes) or not all(isinstance(text, str) for text in texts):
        raise InvalidOption(name, f"{name} must be a text or a list of texts that is not empty.")
    return [check_text(name, text) for text in texts]


def embed_body(texts: list[str], options: EmbedOptions, kind: str) -> dict[str, Any]:
    """The request for ``/v1/embeddings``."""
    body: dict[str, Any] = {"input": texts}
    if kind == "local":
        body["embd_normalize"] = 2 if options.normalize else -1  # llama.cpp: 2 is the Euclidean norm, -1 none
    return body


def embed_result(
    reply: Mapping[str, Any], count: int, options: EmbedOptions, info: EngineInfo, endpoint: str
) -> EmbedResult:
    """The outcome of ``/v1/embeddings`` for ``count`` texts."""
    with understood():
        rows = dict(sorted((row.get("index", place), row["embedding"]) for place, row in enumerate(reply["data"])))
        vectors = [[float(x) for x in _list(row)] for row in rows.values()]
        sizes = {len(vector) for vector in vectors}
        if [*rows] != [*range(count)] or len(sizes) != 1 or 0 in sizes:
            raise ValueError("not one vector for each text, all of one size")
        usage = _usage(reply)
    if options.normalize:
        vectors = [_unit(vector) for vector in vectors]
    return EmbedResult(vectors, len(vectors[0]), info.pooling, options.normalize, usage, endpoint)


def rerank_result(reply: Mapping[str, Any], documents: list[str], top_n: int | None, endpoint: str) -> RerankResult:
    """The outcome of ``/v1/rerank``."""
    with understood():
        scores = {int(row["index"]): float(row["relevance_score"]) for row in reply["results"]}
        if scores.keys() != {*range(len(documents))} or not all(map(math.isfinite, scores.values())):
            raise ValueError("not one score for each document")
        usage = _usage(reply)
    best = sorted(scores, key=lambda index: (-scores[index], index))[:top_n]
    return RerankResult([RankedDocument(index, scores[index], documents[index]) for index in best], usage, endpoint)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):  # base64, say, which was not asked for
        raise TypeError("no list")
    return value


def _unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    if not length or not math.isfinite(length):
        raise EngineError("The engine made a vector without a length.", hint="The text may be empty.")
    return [x / length for x in vector]


def _usage(reply: Mapping[str, Any]) -> Usage:
    return Usage(prompt_tokens=int((reply.get("usage") or {}).get("prompt_tokens") or 0))
