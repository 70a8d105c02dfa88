"""What the registry says of its models, held against the files themselves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urljoin

import pytest
from model_server import ModelServer
from real_models import real_model
from sippet.config import ContextConfig
from sippet.errors import InvalidModel, InvalidOption, ModelNotFound
from sippet.models.fitting import fitted_context
from sippet.models.gguf import read_header
from sippet.models.manifest import build_manifest
from sippet.models.plan import memory_limit, plan_memory
from sippet.models.registry import MODELS, find_model, load_registry
from sippet.models.store import ModelStore
from sippet.platform._cpython import PathSource
from sippet.platform._folder import FolderStorage
from sippet.platform._http1 import Http1Client

FOLDER = Path(__file__).parent / "models"


def test_the_tiny_models_entry_is_that_of_its_files() -> None:
    entry = MODELS["tiny-chat-f16"]
    assert entry.manifest.projector is not None
    source, projector = (PathSource(FOLDER / file.name) for file in entry.manifest.all_files)
    made = asyncio.run(build_manifest([source], projector=projector))
    for listed, real in zip(entry.manifest.all_files, made.all_files, strict=True):
        assert (listed.size, listed.sha256) == (real.size, real.sha256)
    assert entry.manifest.facts == made.facts
    header = asyncio.run(read_header(source))
    extra = sum(tensor.nbytes for tensor in asyncio.run(read_header(projector)).tensors)
    plan = plan_memory([header], fitted_context(ContextConfig(), header), limit=memory_limit(), extra=extra)
    assert entry.memory == pytest.approx(plan.total, rel=0.01)


@pytest.mark.parametrize("id", [id for id, entry in MODELS.items() if entry.wheels])
def test_an_entry_of_a_packaged_model_is_that_of_its_file(id: str) -> None:
    entry = MODELS[id]
    (file,) = entry.manifest.files
    source = PathSource(real_model(id))
    manifest = asyncio.run(build_manifest([source], chunk_size=entry.manifest.chunk_size))
    (made,) = manifest.files
    assert (file.name, file.size, file.sha256, file.chunks) == (made.name, made.size, made.sha256, made.chunks)
    assert entry.manifest.facts == manifest.facts
    header = asyncio.run(read_header(source))
    plan = plan_memory([header], fitted_context(ContextConfig(), header), limit=memory_limit())
    assert entry.memory == pytest.approx(plan.total, rel=0.01)


def test_every_entry_has_a_licence_hashes_and_a_description() -> None:
    for entry in MODELS.values():
        assert entry.manifest.facts.license and entry.description and entry.memory
        assert all(file.size and file.is_identified for file in entry.manifest.all_files)


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ModelNotFound, match="tiny-chat-f16"):
        find_model("nothing")


class Page(Http1Client):
    """Requests of a page: relative addresses are its host's."""

    base = ""

    def resolve(self, url: str) -> str | None:
        return urljoin(self.base, url)


def test_a_page_names_what_its_host_offers_and_without_one_what_is_built_in(tmp_path: Path) -> None:
    tiny = FOLDER / "tiny-chat-f16.gguf"
    full = asyncio.run(build_manifest([PathSource(tiny)], id="ours", chunk_size=1 << 20))
    brief = {"id": "ours", "files": [{"name": tiny.name, "url": tiny.name, "sha256": full.files[0].sha256}]}
    listed = {"models": [{**brief, "manifest": "ours.json"}]}
    files = {"models/registry.json": json.dumps(listed).encode(), "models/ours.json": full.to_json()}

    async def main() -> None:
        async with ModelServer({**files, f"models/{tiny.name}": tiny.read_bytes()}).running() as server:
            page = Page()
            page.base = server.url
            store = ModelStore(FolderStorage(tmp_path), page)
            assert list(await store.registry()) == ["ours"]
            model = await store.add("ours")
            assert (model.id, model.manifest.chunk_size, len(model.manifest.files[0].chunks)) == ("ours", 1 << 20, 2)
            brief["files"][0]["sha256"] = "0" * 64  # type: ignore[index]
            server.files["models/registry.json"] = json.dumps(listed).encode()
            with pytest.raises(InvalidModel, match="is not that of ours"):
                await ModelStore(FolderStorage(tmp_path), page).add("ours", id="other")
            del server.files["models/registry.json"]
            assert await ModelStore(FolderStorage(tmp_path), page).registry() is MODELS
            server.files["models/registry.json"] = b"<!doctype html>"
            assert await ModelStore(FolderStorage(tmp_path), page).registry() is MODELS

    asyncio.run(main())


def test_users_add_entries_by_file_and_install_them_by_name(tmp_path: Path) -> None:
    manifest = asyncio.run(build_manifest([PathSource(FOLDER / "tiny-chat-f16.gguf")], id="ours"))
    entry = {**manifest.to_dict(), "memory": 30_000_000, "description": "Ours."}
    listed = json.dumps({"version": 1, "models": [entry]})

    async def main() -> None:
        async with ModelServer(
            {"tiny-chat-f16.gguf": (FOLDER / "tiny-chat-f16.gguf").read_bytes()}
        ).running() as server:
            entries = load_registry(listed, f"{server.url}list.json")
            assert (entries["ours"].memory, entries["ours"].description) == (30_000_000, "Ours.")
            async with ModelStore(FolderStorage(tmp_path), registry=entries) as store:
                assert (await store.add("ours")).size == 1_723_104

    asyncio.run(main())
    for junk in ("", "[]", '{"models": 1}', '{"version": 2, "models": []}'):
        with pytest.raises(InvalidOption, match="registry"):
            load_registry(junk)


def test_an_entrys_own_addresses_serve_beside_those_of_its_manifest(tmp_path: Path) -> None:
    """The manifest brings the hashes of chunks, and its server has lost the file."""
    data = (FOLDER / "tiny-chat-f16.gguf").read_bytes()
    manifest = asyncio.run(build_manifest([PathSource(FOLDER / "tiny-chat-f16.gguf")], id="ours"))

    async def main() -> None:
        async with (
            ModelServer({"m.json": manifest.to_json()}).running() as first,
            ModelServer({"tiny-chat-f16.gguf": data}).running() as second,
        ):
            (file,) = manifest.to_dict()["files"]
            brief = {**file, "chunks": [], "url": f"{second.url}tiny-chat-f16.gguf"}
            entry = {**manifest.to_dict(), "files": [brief], "manifest": f"{first.url}m.json"}
            entries = load_registry(json.dumps({"version": 1, "models": [entry]}))
            async with ModelStore(FolderStorage(tmp_path), registry=entries) as store:
                assert (await store.add("ours")).manifest.files[0].chunks == manifest.files[0].chunks

    asyncio.run(main())
