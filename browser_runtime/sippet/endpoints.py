"""What can be added to a client: descriptors of endpoints, and references to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ._fields import build, check
from ._remote_fields import Authentication, RemoteFields, Secret, authentication_of, checked_url
from .config import RuntimeConfig
from .engines.base import EngineInfo
from .errors import InvalidOption
from .events import OnProgress

Kind = Literal["local", "gateway", "provider"]
BackendChoice = Literal["auto", "cpu", "webgpu"]
ProviderName = Literal["openai", "openai_compatible", "anthropic"]
ServerKind = Literal["openai", "sippet", "llama.cpp", "vllm"]


@dataclass(frozen=True)
class LocalModel:
    """A GGUF model that runs here.

    Args:
        source: a URL, a path (CPython), a user's ``File`` (browser), a list of shards of one of these kinds, the id of
            an installed model, or a registered name or a manifest's URL, which is installed first.
        projector: the model's image projector, from the same kinds of source.
        lora: LoRA adapters; a request turns them on by their place in this list.
        backend: ``cpu``, ``webgpu``, or ``auto``.
        runtime: how to run it; a :class:`RuntimeConfig` or a mapping of its groups.
        on_progress: called with a :class:`Status` as the model is fetched and loaded.
    """

    kind: ClassVar[Kind] = "local"

    source: Any
    projector: Any = None
    backend: BackendChoice = "auto"
    runtime: RuntimeConfig | Mapping[str, Any] = dataclasses.field(default_factory=RuntimeConfig)
    on_progress: OnProgress | None = None
    lora: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if self.source is None or self.source in ("", [], ()):
            raise InvalidOption(
                "source", "LocalModel needs a source.", hint="Give a URL, a file, or the list of a model's shards."
            )
        check(self)
        object.__setattr__(self, "runtime", RuntimeConfig.of(self.runtime))

    @property
    def max_queued_requests(self) -> int:
        """How many requests may wait for this endpoint."""
        return RuntimeConfig.of(self.runtime).scheduler.max_queued_requests

    @property
    def sources(self) -> Sequence[Any]:
        """The shards, in order; one for a model in a single file."""
        return self.source if isinstance(self.source, (list, tuple)) else [self.source]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> LocalModel:
        """A descriptor from names and values, as JavaScript or a document gives them."""
        return build(cls, values, "LocalModel")


@dataclass(frozen=True)
class Gateway(RemoteFields):
    """A model behind an OpenAI-compatible server: llama-server, vLLM, Ray Serve, the host's own gateway.

    Args:
        target: the name under which the server knows the model.
        base_url: the address of its API; one without a path gets ``/v1``.
        authentication: none, :class:`Bearer` or :class:`Header`.
        server: what runs there. It says which of the options beyond OpenAI's (``top_k``, ``min_p``,
            ``repeat_penalty``) the server honours, and by which names; ``openai`` refuses them all. ``sippet`` is the
            host's own gateway.

    The further arguments are those of :class:`RemoteFields`.
    """

    kind: ClassVar[Kind] = "gateway"

    target: str
    base_url: str
    authentication: Authentication = dataclasses.field(default=None, repr=False)  # not to be shown, right or wrong
    server: ServerKind = "openai"

    def __post_init__(self) -> None:
        object.__setattr__(self, "authentication", authentication_of(self.authentication))
        super().__post_init__()
        object.__setattr__(self, "base_url", checked_url(self.base_url))
        if not self.target:
            raise InvalidOption("target", "Gateway needs the name of a target.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Gateway:
        """A descriptor from names and values, as JavaScript or a document gives them."""
        return build(cls, values, "Gateway")


@dataclass(frozen=True)
class Provider(RemoteFields):
    """A model of a provider.

    Args:
        provider: ``openai``; ``anthropic`` (its own Messages API); ``openai_compatible`` for any other one that speaks
            OpenAI's API.
        model: the provider's name of the model.
        api_key: the key, or a callback that gives it at each request (a coroutine function may). Not given, it comes
            from the environment: ``OPENAI_API_KEY``, ``ANTHROPIC_API_KEY``; ``openai_compatible`` then sends none.
        base_url: another address of the API; ``openai_compatible`` needs one.

    In a tab the key is in the page's hands: rather use a gateway, which keeps it. Anthropic refuses pages that don't
    say they know this: ``headers={"anthropic-dangerous-direct-browser-access": "true"}``.

    The further arguments are those of :class:`RemoteFields`.
    """

    kind: ClassVar[Kind] = "provider"

    provider: ProviderName
    model: str
    api_key: Secret | None = dataclasses.field(default=None, repr=False)
    base_url: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_url is not None:
            object.__setattr__(self, "base_url", checked_url(self.base_url))
        if not self.model:
            raise InvalidOption("model", "Provider needs the name of a model.")
        if self.api_key == "":
            raise InvalidOption("api_key", "api_key is empty.", hint="Leave it out to take it from the environment.")
        if self.provider == "openai_compatible" and self.base_url is None:
            raise InvalidOption("base_url", "The provider openai_compatible needs a base_url.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Provider:
        """A descriptor from names and values, as JavaScript or a document gives them."""
        return build(cls, values, "Provider")


Descriptor = LocalModel | Gateway | Provider
DESCRIPTORS: Mapping[Kind, type[LocalModel] | type[Gateway] | type[Provider]] = {
    "local": LocalModel,
    "gateway": Gateway,
    "provider": Provider,
}
"""The descriptors by kind; each has ``of`` to be made from a mapping."""


@dataclass(frozen=True)
class EndpointRef:
    """Names an endpoint of a client, and carries what is known of its engine."""

    kind: Kind
    id: str
    info: EngineInfo | None = dataclasses.field(default=None, compare=False)
