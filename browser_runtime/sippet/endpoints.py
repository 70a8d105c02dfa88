"""What can be added to a client: descriptors of endpoints, and references to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ._fields import build, check
from .config import RuntimeConfig
from .engines.base import EngineInfo
from .errors import InvalidOption
from .events import OnProgress

Kind = Literal["local", "gateway", "provider"]
BackendChoice = Literal["auto", "cpu", "webgpu"]


@dataclass(frozen=True)
class LocalModel:
    """A GGUF model that runs here.

    Args:
        source: a URL, a path (CPython), a user's ``File`` (browser), or a list of shards of one of these kinds.
        projector: the model's image projector, from the same kinds of source.
        backend: ``cpu``, ``webgpu``, or ``auto``.
        runtime: how to run it; a :class:`RuntimeConfig` or a mapping of its groups.
        on_progress: called with a :class:`Status` as the model is fetched and loaded.
    """

    source: Any
    projector: Any = None
    backend: BackendChoice = "auto"
    runtime: RuntimeConfig | Mapping[str, Any] = dataclasses.field(default_factory=RuntimeConfig)
    on_progress: OnProgress | None = None

    def __post_init__(self) -> None:
        if self.source is None or self.source in ("", [], ()):
            raise InvalidOption(
                "source", "LocalModel needs a source.", hint="Give a URL, a file, or the list of a model's shards."
            )
        check(self)
        object.__setattr__(self, "runtime", RuntimeConfig.of(self.runtime))

    @property
    def sources(self) -> Sequence[Any]:
        """The shards, in order; one for a model in a single file."""
        return self.source if isinstance(self.source, (list, tuple)) else [self.source]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> LocalModel:
        """A descriptor from names and values, as JavaScript or a document gives them."""
        return build(cls, values, "LocalModel")


Descriptor = LocalModel


@dataclass(frozen=True)
class EndpointRef:
    """Names an endpoint of a client, and carries what is known of its engine."""

    kind: Kind
    id: str
    info: EngineInfo | None = dataclasses.field(default=None, compare=False)
