"""What a host says about each model so that a download of it can be verified chunk by chunk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest
from gguf_builder import MODEL, T, gguf
from host_http import StartHost, ask, bare_model
from sippet.models.manifest import CHUNK, Manifest
from sippet_host import load_model
from sippet_host.errors import NotFound
from sippet_host.manifests import ManifestCache

TINY = Path(__file__).parent / "models/tiny-chat-f16.gguf"


def _settled(path: Path) -> Path:
    """Old enough that its times tell its version; the time of a change of the inode can't be set, so wait for it."""
    os.utime(path, (1, 1))
    time.sleep(max(0.0, path.stat().st_ctime + 2.1 - time.time()))
    return path


def _big(path: Path) -> Path:
    path.write_bytes(gguf(MODEL, [T("token_embd.weight", (64, CHUNK // 100), 1)]))
    return path


def test_the_listing_leads_to_a_manifest_with_the_hash_of_every_chunk(start_host: StartHost, tmp_path: Path) -> None:
    path = _big(tmp_path / "Größe #1.gguf")
    server = start_host(models=(load_model(path),))
    (listed,) = ask(server.url, "/models/manifest.json").json()["models"]
    answer = ask(server.url, listed["manifest"])
    manifest = Manifest.from_json(answer.body, server.url.rstrip("/") + listed["manifest"])
    (file,) = manifest.files
    data = path.read_bytes()
    assert len(file.chunks) == 2
    assert file.chunks[1] == hashlib.sha256(data[CHUNK:]).hexdigest()
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert (manifest.id, manifest.facts.architecture) == (listed["id"], "llama")
    assert ask(server.url, file.url.removeprefix(server.url.rstrip("/"))).body == data


def test_a_manifest_is_revalidated_by_its_tag(start_host: StartHost) -> None:
    server = start_host(models=(load_model(TINY),))
    first = ask(server.url, "/models/tiny-chat-f16/manifest.json")
    assert first.headers["Content-Type"].startswith("application/json")
    again = ask(server.url, "/models/tiny-chat-f16/manifest.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


def test_a_linked_file_keeps_the_name_of_its_url(start_host: StartHost, tmp_path: Path) -> None:
    link = tmp_path / "linked.gguf"
    link.symlink_to(TINY)
    server = start_host(models=(load_model(link),))
    (file,) = ask(server.url, "/models/linked/manifest.json").json()["files"]
    assert (file["name"], file["url"]) == ("linked.gguf", "linked.gguf")
    assert ask(server.url, f"/models/linked/{file['url']}").body == TINY.read_bytes()


def test_what_is_not_served_has_no_manifest(start_host: StartHost) -> None:
    answer = ask(start_host().url, "/models/nothing/manifest.json")
    assert (answer.status, answer.code) == (404, "not_found")


def test_a_file_that_can_not_be_described_says_why(start_host: StartHost, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"<!doctype html>")
    answer = ask(start_host(models=(bare_model(path),)).url, "/models/x/manifest.json")
    assert (answer.status, answer.code) == (404, "not_found")
    assert "web page" in answer.json()["error"]["message"]


def test_the_hashes_are_worked_out_once_for_each_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _settled(Path(shutil.copy(TINY, tmp_path / "m.gguf")))
    entry = load_model(path)
    cache = ManifestCache(tmp_path / "manifests")
    first = asyncio.run(cache.get(entry))
    monkeypatch.setattr(ManifestCache, "_build", None)  # whoever hashes again fails
    assert asyncio.run(cache.get(entry)) == first
    assert asyncio.run(ManifestCache(tmp_path / "manifests").get(entry)) == first
    monkeypatch.undo()
    path.write_bytes(gguf(MODEL, [T("token_embd.weight", (64, 2), 1)]))
    assert asyncio.run(cache.get(load_model(path))) != first


def test_those_who_ask_together_wait_for_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, cache, built = load_model(TINY), ManifestCache(tmp_path), []
    build = ManifestCache._build
    monkeypatch.setattr(ManifestCache, "_build", lambda self, entry: (built.append(1), build(self, entry))[1])

    async def ask_together() -> list[bytes]:
        leaver = asyncio.create_task(cache.get(entry))
        await asyncio.sleep(0)
        others = [asyncio.create_task(cache.get(entry)) for _ in range(3)]
        leaver.cancel()
        return await asyncio.gather(*others)

    assert len(set(asyncio.run(ask_together()))) == 1
    assert built == [1]


def test_a_cache_that_can_not_be_written_or_is_damaged_costs_time_only(tmp_path: Path) -> None:
    entry = load_model(_settled(Path(shutil.copy(TINY, tmp_path / "m.gguf"))))
    (tmp_path / "file").write_text("")
    first = asyncio.run(ManifestCache(tmp_path / "file").get(entry))
    folder = tmp_path / "manifests"
    asyncio.run(ManifestCache(folder).get(entry))
    (kept,) = folder.iterdir()
    for content in (b"", b"{", b"[]", b'{"files": [[1]], "manifest": "x"}', b"\xff"):
        kept.write_bytes(content)
        assert asyncio.run(ManifestCache(folder).get(entry)) == first


def test_a_server_that_ends_does_not_finish_the_hashing(tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path)
    cache.stop()
    with pytest.raises(NotFound, match="the server ends"):
        asyncio.run(cache.get(load_model(TINY)))
