"""The models as they are now: a file that was replaced is described anew, a folder's new file is listed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from sippet.models.registry import RegistryEntry

from .errors import HostError
from .hashcache import HashCache
from .models import ModelEntry, ModelFile, describe, load_directory, load_file, unique_ids

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
        self._projectors: dict[str, ModelFile] = {}
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
            self._entries = {entry.id: entry for entry in unique_ids(entries)}
            self._projectors = {
                id: projector for id, entry in self._entries.items() if (projector := self._projector(entry))
            }
            self._hashes.save()
            return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, model_id: str) -> ModelEntry | None:
        """The model that the URL ``/models/<model_id>/`` names."""
        return self._entries.get(model_id)

    def find(self, model_id: str, file_name: str) -> ModelFile | None:
        """The file that the URL ``/models/<model_id>/<file_name>`` names."""
        entry, projector = self._entries.get(model_id), self._projectors.get(model_id)
        if projector is not None and projector.name == file_name:
            return projector
        return entry.file(file_name) if entry else None

    def _projector(self, entry: ModelEntry) -> ModelFile | None:
        """The projector that the registry names for this very model, where it lies beside it: who adds the model by its
        registered name asks for both."""
        registered = self._registry.get(entry.id)
        if registered is None or registered.manifest.projector is None:
            return None
        wanted, known = registered.manifest.projector, self._projectors.get(entry.id)
        if known is not None and known.is_current():
            return known
        if entry.files[0].path.name != registered.manifest.files[0].name:
            return None
        try:
            file = load_file(entry.files[0].path.with_name(wanted.name), self._hashes)
        except HostError:
            return None
        return file if file.sha256 == wanted.sha256 else None

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
