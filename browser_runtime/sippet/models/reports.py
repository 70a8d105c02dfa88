"""What the store says before a model is added, and of what it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..platform.storage import StorageEstimate
from .manifest import Manifest
from .plan import MemoryPlan


@dataclass(frozen=True)
class Estimate:
    """What adding a model would take.

    Attributes:
        manifest: what is known of it.
        download: bytes that are still to be fetched; ``None`` where the server doesn't say.
        storage: what there is.
        enough_storage: whether they fit.
        memory: the plan of its memory.
    """

    manifest: Manifest
    download: int | None
    storage: StorageEstimate
    enough_storage: bool
    memory: MemoryPlan

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "manifest": self.manifest.to_dict(),
            "download": self.download,
            "storage": dataclasses.asdict(self.storage),
            "enough_storage": self.enough_storage,
            "memory": self.memory.to_dict(),
        }


@dataclass(frozen=True)
class StorageReport:
    """What the models take.

    Attributes:
        estimate: of the whole storage.
        models: bytes of installed models.
        unfinished: bytes of downloads that have not ended, by folder.
    """

    estimate: StorageEstimate
    models: int
    unfinished: Mapping[str, int]
