"""Models that a host serves by their registered names."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from model_server import ModelServer, in_a_thread
from sippet.errors import InvalidModel, RemoteUnavailable
from sippet.models.download import DownloadOptions
from sippet.models.manifest import Manifest, ModelFile
from sippet.models.registry import MODELS, RegistryEntry
from sippet.models.store import ModelStore
from sippet_host.catalogue import Catalogue
from sippet_host.errors import ConfigurationError, HashMismatch, NoSuchModel
from sippet_host.hashcache import HashCache
from sippet_host.models import ModelEntry
from sippet_host.registered import find_registered, read_registry

FILES = Path(__file__).parent / "models"
TINY = MODELS["tiny-chat-f16"]
NAME = "tiny-chat-f16.gguf"

Find = Callable[..., ModelEntry]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with in_a_thread(ModelServer({path.name: path.read_bytes() for path in FILES.glob("*.gguf")})) as models:
        yield models


@pytest.fixture
def find(tmp_path: Path) -> Find:
    cache = tmp_path / "cache"
    return lambda entry, *folders: find_registered(entry, folders, cache, HashCache(cache / "hashes.json"))


def _at(url: str, sha256: str | None = None) -> RegistryEntry:
    """An entry of one file that is fetched from a server."""
    digest = sha256 or hashlib.sha256((FILES / NAME).read_bytes()).hexdigest()
    return RegistryEntry(Manifest("mine", "Mine", (ModelFile(NAME, None, f"{url}{NAME}", digest),)), 0, "")


def test_a_file_that_is_there_is_served_under_the_registered_name(find: Find) -> None:
    found = find(TINY, FILES)
    assert (found.id, found.name, found.license) == ("tiny-chat-f16", "Tiny chat (shapes)", "cc0-1.0")
    assert (found.files[0].path, found.quantization) == (FILES / NAME, "F16")


def test_a_registered_model_with_no_file_and_no_address_says_where_to_put_it(find: Find, tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel, match=f"{NAME} is not here") as caught:
        find(TINY, tmp_path)
    assert caught.value.code == "model_not_found"
    assert "--models-dir" in caught.value.hint


def test_a_file_with_another_content_is_not_served_by_the_name(find: Find, tmp_path: Path) -> None:
    content = bytearray((FILES / NAME).read_bytes())
    content[-1] ^= 1
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(HashMismatch, match="is not the file that the registry calls tiny-chat-f16"):
        find(TINY, tmp_path)
    assert find(TINY, tmp_path, FILES).files[0].path == FILES / NAME


def test_it_is_fetched_once_into_the_store_where_it_has_an_address(
    find: Find, server: ModelServer, tmp_path: Path
) -> None:
    entry = _at(server.url)
    found = find(entry)
    assert found.id == "mine"
    assert found.files[0].path.is_relative_to(tmp_path / "cache/store")
    asked = len(server.requests)
    assert find(entry) == found
    assert len(server.requests) == asked


def test_a_wrong_hash_on_the_server_is_refused(find: Find, server: ModelServer) -> None:
    with pytest.raises(InvalidModel) as caught:
        find(_at(server.url, "0" * 64))
    assert caught.value.details["reason"] == "hash_mismatch"


def test_a_server_that_is_not_there_is_told(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = partial(ModelStore, options=DownloadOptions(retries=1, backoff=0.01))
    monkeypatch.setattr("sippet_host.registered.ModelStore", impatient)
    with pytest.raises(RemoteUnavailable):
        find(_at("http://127.0.0.1:9/"))


def test_an_installed_copy_that_was_damaged_is_refused_with_the_way_to_repair_it(
    find: Find, server: ModelServer
) -> None:
    path = find(_at(server.url)).files[0].path
    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"damage")
    with pytest.raises(HashMismatch) as caught:
        find(_at(server.url))
    assert "sippet models verify mine" in caught.value.hint


def test_a_users_registry_is_read_beside_the_built_in_one(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"models": [{"id": "mine", "files": [{"name": NAME}]}]}))
    assert set(read_registry(own)) == {"mine", *MODELS}
    assert read_registry(None) is MODELS


def test_an_id_that_no_url_can_hold_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"models": [{"id": "../mine", "files": [{"name": NAME}]}]}))
    with pytest.raises(ConfigurationError, match="can't be the id"):
        read_registry(own)


def test_the_projector_of_a_users_entry_is_served_with_it(find: Find, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(FILES, folder)
    entry = replace(TINY, manifest=replace(TINY.manifest, id="mine"))
    found = find(entry, folder)
    catalogue = Catalogue([found], None, HashCache(tmp_path / "hashes.json"), {"mine": entry})
    assert catalogue.find("mine", "mmproj-tiny-f16.gguf") is not None
    shutil.copy(folder / NAME, folder / "another.gguf")  # or else it would be taken for the only one
    catalogue = Catalogue([found], None, HashCache(tmp_path / "hashes.json"), MODELS)
    assert catalogue.find("mine", "mmproj-tiny-f16.gguf") is None
