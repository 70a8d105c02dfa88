"""What a host is configured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sippet.models.registry import MODELS, RegistryEntry

from . import paths
from .errors import ConfigurationError
from .models import ModelEntry

DEFAULT_PORT = 8765
COEP_VALUES = ("require-corp", "credentialless")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration of one host.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 lets the system choose. Browsers keep storage by origin, and the port is a part of the origin.
        isolation: send COOP and COEP, so that the page is cross-origin isolated and threads work.
        coep: ``require-corp`` or ``credentialless``.
        models: what is served under ``/models/``.
        models_dir: a folder whose models are served as well, also those that come later.
        registry: models that pages may know by name: a projector that it gives one of them is served with it.
        default_model: id of the model that the page preselects; by default, or where it isn't served, the first one.
        allowed_hosts: further names for the Host header, as ``name`` (this port, or none) or ``name:port``.
        connect_sources: origins that the page may talk to besides this one, as ``scheme://host[:port]``.
        tls_cert, tls_key: PEM files; both or neither.
        static_dir: the folder with ``templates/`` and the assets.
        cache_dir: where precompressed files, hashes and downloads are kept.

    Raises:
        ConfigurationError: the values contradict each other.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    isolation: bool = True
    coep: str = "require-corp"
    models: tuple[ModelEntry, ...] = ()
    models_dir: Path | None = None
    registry: Mapping[str, RegistryEntry] = field(default_factory=lambda: MODELS)
    default_model: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    connect_sources: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    static_dir: Path = field(default_factory=paths.static_dir)
    cache_dir: Path = field(default_factory=paths.cache_dir)

    def __post_init__(self) -> None:
        if self.coep not in COEP_VALUES:
            raise ConfigurationError(f"coep can't be {self.coep!r}.", hint=f"Use one of: {', '.join(COEP_VALUES)}.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError("A certificate needs its key.", hint="Give both --tls-cert and --tls-key.")
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"{self.port} is not a TCP port.", hint="Use 0 to 65535.")
        ids = [model.id for model in self.models]
        if len(set(ids)) != len(ids):
            raise ConfigurationError("Two models have the same id.", hint="Use unique_ids() on the list.")

    @property
    def scheme(self) -> str:
        """``https`` with a certificate, else ``http``."""
        return "https" if self.tls_cert else "http"
