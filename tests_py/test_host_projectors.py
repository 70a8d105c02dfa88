"""The image projectors that lie beside models: which belongs to which, and what pages and downloads are told of it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf_builder import STRING, U32, gguf, value
from host_http import StartHost, ask
from sippet.models.store import ModelStore
from sippet.platform._folder import FolderStorage
from sippet_host.catalogue import Catalogue
from sippet_host.hashcache import HashCache

MODEL = Path(__file__).parent / "models/tiny-chat-f16.gguf"
PROJECTOR = MODEL.with_name("mmproj-tiny-f16.gguf")
OF_ANOTHER_SIZE = gguf({"general.architecture": value(STRING, "clip"), "clip.vision.projection_dim": value(U32, 4096)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def put(folder: Path, *names: str) -> None:
    """Copies of the tiny pair under these names."""
    for name in names:
        shutil.copy(PROJECTOR if "mmproj" in name.lower() else MODEL, folder / name)


def pairs(folder: Path) -> dict[str, str | None]:
    """The projector of each model, by names."""
    models = Catalogue([], folder, HashCache(folder.parent / "hashes.json"), {}).refresh()
    return {model.files[0].name: model.projector.name if model.projector else None for model in models}


@pytest.mark.parametrize(
    ("model", "projector"),
    [
        ("Seer-2B-Instruct-Q4_K_M.gguf", "mmproj-Seer-2B-Instruct-f16.gguf"),
        ("seer-2b.Q8_0.gguf", "seer-2b.mmproj-Q8_0.gguf"),
        ("Seer-IQ3_XXS.gguf", "Seer-mmproj-BF16.gguf"),
        ("seer.gguf", "MMPROJ-Seer.gguf"),
    ],
)
def test_a_projector_is_known_by_its_models_name(folder: Path, model: str, projector: str) -> None:
    put(folder, model, projector, "blind-f16.gguf", "mmproj-nobody-f16.gguf")
    assert pairs(folder) == {model: projector, "blind-f16.gguf": None}


def test_any_name_will_do_where_there_is_one_of_each(folder: Path) -> None:
    put(folder, "seer-Q4_1.gguf", "mmproj-model-f16.gguf")
    assert pairs(folder) == {"seer-Q4_1.gguf": "mmproj-model-f16.gguf"}
    put(folder, "blind.gguf")
    assert pairs(folder) == {"seer-Q4_1.gguf": None, "blind.gguf": None}


def test_of_several_the_smallest_is_taken(folder: Path) -> None:
    put(folder, "seer.gguf", "mmproj-seer-f16.gguf", "mmproj-seer-f32.gguf")
    with (folder / "mmproj-seer-f16.gguf").open("ab") as file:
        file.write(bytes(4096))
    assert pairs(folder) == {"seer.gguf": "mmproj-seer-f32.gguf"}


@pytest.mark.parametrize("content", [OF_ANOTHER_SIZE, MODEL.read_bytes(), b"GGUF", b""])
def test_what_does_not_fit_is_not_taken(folder: Path, content: bytes) -> None:
    put(folder, "seer.gguf")
    (folder / "mmproj-seer-f16.gguf").write_bytes(content)
    assert pairs(folder)["seer.gguf"] is None


def test_a_link_out_of_the_folder_and_a_hidden_file_are_not_taken(folder: Path) -> None:
    put(folder, "seer.gguf", ".mmproj-seer.gguf")
    (folder / "mmproj-seer-f16.gguf").symlink_to(PROJECTOR)
    assert pairs(folder) == {"seer.gguf": None}


def test_a_projector_comes_and_goes_with_its_file(folder: Path, tmp_path: Path) -> None:
    put(folder, "seer.gguf", "blind.gguf")
    catalogue = Catalogue([], folder, HashCache(tmp_path / "hashes.json"), {})

    def seen() -> list[str]:
        return [model.id for model in catalogue.refresh() if model.projector]

    assert seen() == []
    put(folder, "mmproj-seer-f16.gguf")
    assert seen() == ["seer"]
    assert catalogue.find("seer", "mmproj-seer-f16.gguf") is not None
    (folder / "mmproj-seer-f16.gguf").write_bytes(OF_ANOTHER_SIZE)
    assert seen() == []
    put(folder, "mmproj-seer-f16.gguf")
    assert seen() == ["seer"]
    (folder / "mmproj-seer-f16.gguf").unlink()
    assert seen() == []
    assert catalogue.find("seer", "mmproj-seer-f16.gguf") is None


def test_pages_are_told_of_it_and_a_download_brings_both(start_host: StartHost, folder: Path, tmp_path: Path) -> None:
    put(folder, "seer-Q4_1.gguf", "mmproj-seer-f16.gguf")
    server = start_host(models_dir=folder)

    def listed(path: str) -> dict[str, Any]:
        (model,) = (model for model in ask(server.url, path).json()["models"] if model["id"] == "seer-q4_1")
        return dict(model)

    for path in ("/models/manifest.json", "/models/registry.json"):
        model = listed(path)
        assert model["projector"]["url"] == "/models/seer-q4_1/mmproj-seer-f16.gguf"
        assert model["size"] == MODEL.stat().st_size + PROJECTOR.stat().st_size
        assert "vision" in model["capabilities"]
    assert ask(server.url, model["projector"]["url"]).body == PROJECTOR.read_bytes()

    async def install() -> None:
        async with ModelStore(FolderStorage(tmp_path / "store")) as store:
            kept = await store.add(f"{server.url.rstrip('/')}{model['manifest']}")
            (weights,), projector = await store.open(kept.id)
            assert (weights.size, projector and projector.size) == (MODEL.stat().st_size, PROJECTOR.stat().st_size)
            assert "vision" in kept.manifest.facts.capabilities

    asyncio.run(install())
