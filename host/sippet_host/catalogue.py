"""The models as they are now: a file that was replaced is described anew, a folder's new file is listed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from sippet.models.manifest import Manifest
from sippet.models.registry import RegistryEntry

from .errors import HostError
from .hashcache import HashCache
from .models import ModelEntry, ModelFile, describe, load_directory, load_file, unique_ids
from .projectors import projector_beside

log = logging.getLogger("sippet_host")


class Catalogue:
    """The served models. Requests are looked up in its table; nothing in a request becomes a path.

    Args:
        named: models that are served whatever the folder holds.
        folder: every model in it is served too.
        hashes: where SHA-256 values are looked up and noted.
        registry: the models that are known by name.
    """

    def __init__(
        self,
        named: Iterable[ModelEntry],
        folder: Path | None,
        hashes: HashCache,
        registry: Mapping[str, RegistryEntry],
    ) -> None:
        self._named = list(named)
        self._folder = folder
        self._hashes = hashes
        self._registry = registry
        self._lock = threading.Lock()
        self._found: list[ModelEntry] = []
        self._told: set[str] = set()
        self._entries: dict[str, ModelEntry] = {}
        self.refresh()

    def refresh(self) -> list[ModelEntry]:
        """Looks at the files again (their times; only what changed is read) and returns the models."""
        with self._lock:
            # What was described anew is kept, so that it is read once and not at every refresh.
            self._named = [self._current(entry) or entry for entry in self._named]
            entries = [entry for entry in self._named if entry.is_current()]
            if self._folder is not None:
                self._found, problems = load_directory(self._folder, self._hashes, self._found)
                entries += self._found
                for problem in problems:
                    self._tell(problem)
            self._entries = {entry.id: self._with_projector(entry) for entry in unique_ids(entries)}
            self._hashes.save()
            return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, model_id: str) -> ModelEntry | None:
        """The model that the URL ``/models/<model_id>/`` names."""
        return self._entries.get(model_id)

    def find(self, model_id: str, file_name: str) -> ModelFile | None:
        """The file that the URL ``/models/<model_id>/<file_name>`` names."""
        entry = self._entries.get(model_id)
        return entry.file(file_name) if entry else None

    def _with_projector(self, entry: ModelEntry) -> ModelEntry:
        """With the projector that lies beside it. Where the registry names one for this very model, it must be that."""
        known = self._entries.get(entry.id)
        if known is not None and known.projector is not None and known.is_current() and known.files == entry.files:
            return known
        registered = self._registry.get(entry.id)
        if registered is None or registered.manifest.projector is None:
            projector = projector_beside(entry, self._hashes)
        else:
            projector = self._registered_projector(entry, registered.manifest)
        return entry.with_projector(projector) if projector else entry

    def _registered_projector(self, entry: ModelEntry, manifest: Manifest) -> ModelFile | None:
        assert manifest.projector is not None
        if entry.files[0].path.name != manifest.files[0].name:
            return None
        try:
            file = load_file(entry.files[0].path.with_name(manifest.projector.name), self._hashes)
        except HostError:
            return None
        return file if file.sha256 == manifest.projector.sha256 else None

    def _current(self, entry: ModelEntry) -> ModelEntry | None:
        if entry.is_current():
            return entry
        try:
            files = tuple(
                file if file.is_current() else replace(load_file(file.path, self._hashes), name=file.name)
                for file in entry.files
            )
            return replace(describe(files[0].name, files), id=entry.id, name=entry.name)
        except HostError as problem:
            self._tell(problem)
            return None

    def _tell(self, problem: HostError) -> None:
        """Logs each problem once, not at every refresh."""
        if str(problem) not in self._told:
            self._told.add(str(problem))
            log.warning("not served: %s", problem)
