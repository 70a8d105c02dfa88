"""What pages of a host can name: the models that it serves, and those of its registry that they may fetch elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from sippet.models.manifest import Manifest, ModelFile
from sippet.models.registry import RegistryEntry

from .models import ModelEntry
from .settings import Settings

REGISTRY_VERSION = 1


class Offers:
    """The names that a page can use, and where the files are, the host's own copy first.

    Args:
        settings: has the registry, and the origins that a page may fetch from.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def registry(self, served: Sequence[ModelEntry]) -> dict[str, Any]:
        """What ``/models/registry.json`` says; see :func:`sippet.models.registry.load_registry`.

        Args:
            served: the models that are served now.
        """
        first = self._settings.default_model
        models = [self._served(model) for model in sorted(served, key=lambda model: model.id != first)]
        return {"version": REGISTRY_VERSION, "models": models + [entry.to_dict() for entry in self._elsewhere(served)]}

    def listed(self, served: Sequence[ModelEntry]) -> list[dict[str, Any]]:
        """The same for the page's picker, without the hashes of chunks."""
        listed = []
        for model in served:
            registered = self._settings.registry.get(model.id)
            values = {**model.describe(), "description": registered.description if registered else ""}
            if model.projector is None and (elsewhere := self._projector(model)):
                values["projector"] = _brief(elsewhere.to_dict())
                values["size"] += elsewhere.size or 0
            listed.append(values)
        for entry in self._elsewhere(served):
            values = entry.to_dict()
            files = [_brief(file) for file in values["files"]]
            projector = _brief(values["projector"]) if values.get("projector") else None
            listed.append(
                {**values, "files": files, "projector": projector, "size": entry.download_size, "sampling": {}}
            )
        return listed

    def _served(self, model: ModelEntry) -> dict[str, Any]:
        entry = self._settings.registry.get(model.id)
        if entry is None or not _is_same(entry, model):
            return model.describe()
        files = tuple(self._here(model, file) for file in entry.manifest.files)
        manifest = replace(entry.manifest, files=files, projector=self._projector(model))
        return replace(entry, manifest=manifest).to_dict()

    def _projector(self, model: ModelEntry) -> ModelFile | None:
        """The image projector of a served model, here or where a page may fetch it."""
        entry = self._settings.registry.get(model.id)
        named = entry.manifest.projector if entry is not None and _is_same(entry, model) else None
        if model.projector is None:
            return self._there(named) if named else None
        own = model.projector
        return self._here(model, named or ModelFile(own.name, own.size, sha256=own.sha256))

    def _elsewhere(self, served: Sequence[ModelEntry]) -> list[RegistryEntry]:
        """The registered models that are not served, as far as a page may fetch them."""
        ids = {model.id for model in served}
        found = []
        for id, entry in self._settings.registry.items():
            if id not in ids and (manifest := self._fetchable(entry.manifest)) is not None:
                found.append(replace(entry, manifest=manifest))
        return found

    def _fetchable(self, manifest: Manifest) -> Manifest | None:
        files = [self._there(file) for file in manifest.files]
        projector = self._there(manifest.projector) if manifest.projector else None
        if None in files or (manifest.projector and projector is None):
            return None
        return replace(manifest, files=tuple(file for file in files if file), projector=projector)

    def _here(self, model: ModelEntry, file: ModelFile) -> ModelFile:
        there = self._there(file)
        own = f"/models/{quote(model.id)}/{quote(file.name)}"
        return replace(file, url=own, mirrors=there.addresses if there and file.is_identified else ())

    def _there(self, file: ModelFile) -> ModelFile | None:
        """A file with those of its addresses that a page may ask; ``None`` where there is none."""
        allowed = [url for url in file.addresses if _origin(url) in self._settings.connect_sources]
        return replace(file, url=allowed[0], mirrors=tuple(allowed[1:])) if allowed else None


def _is_same(entry: RegistryEntry, model: ModelEntry) -> bool:
    """Whether what is served under a registered name is what the registry means, as far as hashes are known."""
    files = entry.manifest.files
    return len(files) == len(model.files) and all(
        known.name == file.name
        and known.size in (None, file.size)
        and (known.sha256 is None or file.sha256 in (None, known.sha256))
        for known, file in zip(files, model.files, strict=True)
    )


def _brief(file: dict[str, Any]) -> dict[str, Any]:
    """A file of a manifest without the hashes of its chunks."""
    return {key: file[key] for key in ("name", "url", "size", "sha256")}


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower() if parts.scheme in ("http", "https") else ""
