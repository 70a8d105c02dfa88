"""What a remote engine needs to know of a server's API: how to say a request, how to read the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import _json
from ..errors import InvalidOption, UnsupportedOption
from ._shapes import misunderstood
from ._sse import SseEvent
from .base import CallKind, StreamKind

BUCKETS = ("endpoint_options", "provider_options")

TYPED = frozenset({
    "model", "messages", "prompt", "input", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens",
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_sequences", "repeat_penalty", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice",
    "system", "emit_tokens", "n_predict", "n_cmpl", "n_probs", "temp", "return_progress",
})  # fmt: skip
"""Fields that Sippet writes itself: a bucket of further options can't override them."""

LOCAL_ONLY = frozenset({
    "context_key", "id_slot", "cache_prompt", "grammar", "json_schema", "media", "normalize", "lora", "samplers",
})  # fmt: skip
"""Options of local engines, which never leave the machine."""


@dataclass(frozen=True)
class Call:
    """A request, ready to be sent: where, relative to the API's address, and what."""

    path: str
    body: Mapping[str, Any]


class Decoder(ABC):
    """Reads one streamed answer."""

    finished: bool = False
    """The reason of the end has come: what is missing, if anything, is accounts."""
    done: bool = False
    """The server has said that nothing follows."""

    @abstractmethod
    def feed(self, event: SseEvent) -> Iterable[dict[str, Any]]:
        """The chunks, in llama-server's JSON, that an event brings.

        Raises:
            SippError: the event reports an error.
        """


class Dialect(ABC):
    """One way of speaking."""

    options_bucket: str
    """Which bucket of further options its requests take."""

    @abstractmethod
    def check(self, kind: StreamKind, body: Mapping[str, Any]) -> None:
        """Refuse what the server doesn't honour."""

    @abstractmethod
    def request(self, kind: StreamKind, body: Mapping[str, Any]) -> Call:
        """A request of text, streamed."""

    @abstractmethod
    def decoder(self) -> Decoder:
        """What reads the answer."""

    @abstractmethod
    def whole(self, kind: StreamKind, answer: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        """The chunks of an answer that came in one piece, from a server that doesn't stream."""

    @abstractmethod
    def call(self, kind: CallKind, body: Mapping[str, Any]) -> Call:
        """A request with one answer.

        Raises:
            UnsupportedOperation: the API has none.
        """

    @abstractmethod
    def answer(self, kind: CallKind, answer: dict[str, Any]) -> dict[str, Any]:
        """Its answer, in llama-server's JSON."""

    @abstractmethod
    def headers(self, secret: str | None) -> dict[str, str]:
        """The headers of its own, with the secret if there is one."""

    def refuse_unknown(self, body: Mapping[str, Any], known: frozenset[str], who: str) -> None:
        """Refuse fields that aren't ``known``, and buckets that aren't this endpoint's or hold typed fields."""
        for name in body:
            if name in BUCKETS and name != self.options_bucket:
                raise UnsupportedOption(
                    name, f"{who} takes {self.options_bucket}, not {name}.", hint=f"Use {self.options_bucket}."
                )
            if name not in known and name not in BUCKETS:
                raise UnsupportedOption(
                    name,
                    f"{who} does not support {name}.",
                    hint="Leave it out, or send the request to another endpoint.",
                )
        for name in body.get(self.options_bucket) or ():
            if name in TYPED or name in LOCAL_ONLY:
                why = "is an option of its own" if name in TYPED else "works only on local endpoints"
                raise InvalidOption(
                    self.options_bucket, f"{self.options_bucket} can't hold {name}: it {why}.", hint="Leave it out."
                )


def parse(event: SseEvent) -> dict[str, Any]:
    """The JSON object of an event.

    Raises:
        RemoteError: it isn't one.
    """
    try:
        found = _json.loads(event.data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise misunderstood("The server sent an event that is not a JSON object.")
    return found


def chunk(delta: Mapping[str, Any], finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk of a chat, as llama-server writes it."""
    return {"choices": [{"index": 0, "delta": dict(delta), "finish_reason": finish_reason}], **fields}


class StreamFailed(Exception):
    """An answer broke off with an error of the server's: the remote engine makes a :class:`SippError` of it."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__("the server reported an error")
        self.error = error
