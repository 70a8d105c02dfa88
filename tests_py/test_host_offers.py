"""What pages of a host can name, and where they are told to fetch it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

from host_http import StartHost, ask
from sippet.models.manifest import Manifest, ModelFile
from sippet.models.registry import MODELS, RegistryEntry, load_registry
from sippet_host import Running
from sippet_host.models import load_model

TINY = Path(__file__).parent / "models" / "tiny-chat-f16.gguf"
ENTRY = MODELS["tiny-chat-f16"]
THERE, ELSEWHERE = "https://models.example", "https://mirror.example"


def offered(server: Running) -> dict[str, RegistryEntry]:
    return load_registry(ask(server.url, "/models/registry.json").body, server.url)


def registered(*addresses: str) -> RegistryEntry:
    """The tiny model alone, at these addresses."""
    file = replace(ENTRY.manifest.files[0], url=addresses[0], mirrors=addresses[1:])
    manifest = replace(ENTRY.manifest, id="mine", files=(file,), projector=None)
    return RegistryEntry(manifest, 5, "Mine.", "https://example.org")


def test_a_registered_model_is_offered_with_its_hashes_and_the_hosts_own_copy_first(start_host: StartHost) -> None:
    entry = registered(f"{THERE}/a.gguf", f"{ELSEWHERE}/b.gguf")
    model = replace(load_model(TINY), id="mine")
    server = start_host(models=(model,), registry={"mine": entry}, connect_sources=(ELSEWHERE,))
    found = offered(server)["mine"]
    (file,) = found.manifest.files
    # The page's policy forbids the first of the entry's own addresses.
    assert file.addresses == (f"{server.url}models/mine/tiny-chat-f16.gguf", f"{ELSEWHERE}/b.gguf")
    assert file.sha256 == ENTRY.manifest.files[0].sha256
    assert (found.memory, found.description, found.homepage) == (5, "Mine.", "https://example.org")


def test_its_projector_is_offered_where_it_is_served(start_host: StartHost, tmp_path: Path) -> None:
    found = offered(server := start_host(models=(load_model(TINY),)))["tiny-chat-f16"]
    assert found.manifest.projector is not None
    assert found.manifest.projector.url == f"{server.url}models/tiny-chat-f16/mmproj-tiny-f16.gguf"
    alone = load_model(Path(shutil.copy(TINY, tmp_path / TINY.name)))
    assert offered(start_host(models=(alone,)))["tiny-chat-f16"].manifest.projector is None


def test_any_other_served_model_is_offered_with_the_address_of_its_hashes(start_host: StartHost) -> None:
    server = start_host(models=(replace(load_model(TINY), id="any"),))
    found = offered(server)["any"]
    assert found.address == f"{server.url}models/any/manifest.json"
    assert found.manifest.files[0].url == f"{server.url}models/any/tiny-chat-f16.gguf"


def test_another_file_under_a_registered_name_is_not_taken_for_the_registered_one(start_host: StartHost) -> None:
    entry = registered(f"{THERE}/a.gguf")
    other = replace(entry, manifest=replace(entry.manifest, files=(ModelFile("other.gguf", 5, sha256="0" * 64),)))
    found = offered(start_host(models=(replace(load_model(TINY), id="mine"),), registry={"mine": other}))["mine"]
    assert (found.manifest.files[0].name, found.description, bool(found.address)) == (TINY.name, "", True)


def test_what_is_only_registered_is_offered_where_a_page_may_fetch_it(start_host: StartHost) -> None:
    registry = {"mine": registered("/models/mine/a.gguf", f"{THERE}/a.gguf"), **MODELS}
    assert offered(start_host(registry=registry)) == {}
    found = offered(start_host(registry=registry, connect_sources=(THERE,)))
    assert list(found) == ["mine"]
    assert found["mine"].manifest.files[0].addresses == (f"{THERE}/a.gguf",)


def test_a_model_with_a_file_that_no_page_may_fetch_is_not_offered(start_host: StartHost) -> None:
    files = (ModelFile("a.gguf", url=f"{THERE}/a.gguf"), ModelFile("b.gguf", url=f"{ELSEWHERE}/b.gguf"))
    registry = {"mine": RegistryEntry(Manifest("mine", "Mine", files), 5, "Mine.")}
    assert offered(start_host(registry=registry, connect_sources=(THERE,))) == {}


def test_the_default_model_is_the_first(start_host: StartHost) -> None:
    models = tuple(replace(load_model(TINY), id=id) for id in ("a", "b"))
    assert list(offered(start_host(models=models))) == ["a"]  # the same file twice is one model
    one, two = load_model(TINY), load_model(TINY.with_name("mmproj-tiny-f16.gguf"))
    assert next(iter(offered(start_host(models=(one, two), default_model=two.id)))) == two.id


def test_the_page_lists_both_without_the_hashes_of_chunks(start_host: StartHost, static_tree: Path) -> None:
    (static_tree / "templates/index.html").write_text("{{ config }}")
    entry = registered(f"{THERE}/a.gguf")
    server = start_host(models=(load_model(TINY),), registry={**MODELS, "mine": entry}, connect_sources=(THERE,))
    config = json.loads(re.sub(r"\\u00(..)", lambda match: chr(int(match[1], 16)), ask(server.url).body.decode()))
    here, there = config["models"]
    assert (here["id"], here["description"]) == ("tiny-chat-f16", ENTRY.description)
    assert here["projector"]["url"] == "/models/tiny-chat-f16/mmproj-tiny-f16.gguf"
    assert here["projector"].keys() == {"name", "url", "size", "sha256"}
    assert here["size"] == TINY.stat().st_size + here["projector"]["size"]
    assert there["projector"] is None
    assert (there["id"], there["size"], there["memory"], there["manifest"]) == ("mine", 1_723_104, 5, "")
    assert there["files"] == [
        {"name": TINY.name, "url": f"{THERE}/a.gguf", "size": 1_723_104, "sha256": ENTRY.manifest.files[0].sha256}
    ]
