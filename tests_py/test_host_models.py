"""The models on offer: how they are described, listed and found, and what is refused."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from gguf_builder import I32, MODEL, TENSORS, U32, gguf, value
from host_http import StartHost, ask
from sippet_host import HostError, Running, Settings, load_directory, load_model, unique_ids
from sippet_host.errors import NoSuchModel, NotAModel
from sippet_host.hashcache import HashCache

TINY = Path(__file__).parent / "models/tiny-chat-f16.gguf"
PROJECTOR = TINY.with_name("mmproj-tiny-f16.gguf")


@pytest.fixture
def hashes(tmp_path: Path) -> HashCache:
    return HashCache(tmp_path / "hashes.json")


def _listed(server: Running) -> list[str]:
    manifest = ask(server.url, "/models/manifest.json").json()
    assert manifest["version"] == 1
    return [model["id"] for model in manifest["models"]]


def test_a_model_is_described_by_its_header(hashes: HashCache) -> None:
    model = load_model(TINY, hashes)
    assert model.describe() == {
        "id": "tiny-chat-f16",
        "name": "tiny-chat-f16",
        "url": "/models/tiny-chat-f16/tiny-chat-f16.gguf",
        "manifest": "/models/tiny-chat-f16/manifest.json",
        "size": 1_723_104,
        "sha256": "f4318e028b8a0e018a15e3bce227bea11f8be98acf59f55de0953730cbe600f8",
        "files": [
            {
                "name": "tiny-chat-f16.gguf",
                "url": "/models/tiny-chat-f16/tiny-chat-f16.gguf",
                "size": 1_723_104,
                "sha256": "f4318e028b8a0e018a15e3bce227bea11f8be98acf59f55de0953730cbe600f8",
            }
        ],
        "projector": None,
        "quantization": "F16",
        "license": model.license,
        "context": 512,
        "parameters": model.parameters,
        "capabilities": ["chat", "completion"],
        "memory": model.memory,
        "sampling": {},
    }
    assert model.memory is not None
    assert 28_000_000 < model.memory < 32_000_000
    assert model.parameters is not None
    assert 800_000 < model.parameters < 900_000


def test_the_manifest_leads_to_the_bytes(start_host: StartHost, hashes: HashCache) -> None:
    server = start_host(models=(load_model(TINY, hashes),))
    entry = ask(server.url, "/models/manifest.json").json()["models"][0]
    body = ask(server.url, entry["url"]).body
    assert len(body) == entry["files"][0]["size"]
    assert hashlib.sha256(body).hexdigest() == entry["sha256"]


def test_a_name_with_spaces_and_signs_gets_a_url_that_works(start_host: StartHost, tmp_path: Path) -> None:
    path = tmp_path / "Größe & 100% #1 (v2).gguf"
    shutil.copy(TINY, path)
    model = load_model(path)
    server = start_host(models=(model,))
    url = model.describe()["url"]
    assert set(url) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-._~%()")
    assert ask(server.url, url).body == TINY.read_bytes()


def _split(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / f"tiny-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]
    for number, path in enumerate(paths):
        path.write_bytes(gguf() + bytes(number))
    return paths


def test_the_first_shard_stands_for_all(start_host: StartHost, tmp_path: Path) -> None:
    paths = _split(tmp_path)
    model = load_model(paths[0])
    assert (model.id, model.name) == ("tiny", "tiny")
    assert [file.name for file in model.files] == [path.name for path in paths]
    description = model.describe()
    assert description["size"] == sum(path.stat().st_size for path in paths)
    assert description["sha256"] is None
    server = start_host(models=(model,))
    for file, path in zip(description["files"], paths, strict=True):
        assert ask(server.url, file["url"]).body == path.read_bytes()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    paths = _split(tmp_path)
    paths[1].unlink()
    with pytest.raises(NotAModel, match=r"lacks 1 of 3 shards: tiny-00002-of-00003\.gguf"):
        load_model(paths[0])


def test_a_later_shard_is_refused_and_the_first_one_asked_for(tmp_path: Path) -> None:
    with pytest.raises(NotAModel, match="Name the first shard"):
        load_model(_split(tmp_path)[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.gguf"),
        (b"GGUF", "ends inside its header"),
        (b"<!doctype html><html>", "web page"),
        (b"PK\x03\x04" + bytes(40), "zip"),
        (TINY.read_bytes()[:-100], "its header describes 1723104"),
    ],
)
def test_what_is_not_a_model_is_refused_with_its_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(NotAModel, match=message) as caught:
        load_model(path)
    assert caught.value.code == "invalid_model"
    assert caught.value.hint


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "no.gguf", tmp_path, tmp_path / "loop", tmp_path / ("x" * 5000), Path("nul\0")):
        with pytest.raises(NoSuchModel) as caught:
            load_model(path)
        assert caught.value.code == "model_not_found"


def test_ids_are_unique_and_repetitions_are_dropped(tmp_path: Path) -> None:
    other = tmp_path / "tiny-chat-f16.gguf"
    shutil.copy(TINY, other)
    models = unique_ids([load_model(TINY), load_model(other), load_model(TINY)])
    assert [model.id for model in models] == ["tiny-chat-f16", "tiny-chat-f16-2"]


def _model(block_count: int = 2, context_length: int = 128) -> bytes:
    numbers = {
        "llama.block_count": value(U32, block_count),
        "llama.context_length": value(I32, context_length),
    }
    return gguf(MODEL | numbers, TENSORS)


def test_a_folder_lists_its_sound_models_and_what_is_wrong_with_the_others(tmp_path: Path) -> None:
    outside = tmp_path / "outside.gguf"
    shutil.copy(TINY, outside)
    folder = tmp_path / "models"
    folder.mkdir()
    _split(folder)
    shutil.copy(TINY, folder / "b.gguf")
    shutil.copy(TINY, folder / "A.GGUF")
    shutil.copy(TINY, folder / ".hidden.gguf")
    shutil.copy(PROJECTOR, folder / "mmproj.gguf")
    (folder / "linked-out.gguf").symlink_to(outside)
    (folder / "linked-in.gguf").symlink_to(folder / "b.gguf")
    (folder / "notes.txt").write_text("x")
    (folder / "folder.gguf").mkdir()
    (folder / "broken.gguf").write_bytes(b"GGUF")
    os.mkfifo(folder / "fifo.gguf")
    (folder / "dangling.gguf").symlink_to(folder / "gone.gguf")
    (folder / "loop.gguf").symlink_to(folder / "loop.gguf")
    (folder / "absurd.gguf").write_bytes(_model(block_count=2**32 - 1))
    (folder / "negative.gguf").write_bytes(_model(context_length=-5))
    (folder / "short.gguf").write_bytes(_model(context_length=4))
    (folder / os.fsdecode(b"\xff.gguf")).write_bytes(_model())
    _split(folder, 2)[1].unlink()
    (folder / "tiny-00002-of-00002.gguf").symlink_to(outside)
    models, problems = load_directory(folder)
    assert sorted(model.id for model in models) == ["a", "b", "linked-in", "short", "tiny"]
    told = "\n".join(map(str, problems))
    for expected in (
        r"absurd\.gguf: llama\.block_count is 4294967295; the most is 512",
        r"broken\.gguf: .* ends inside its header",
        r"/dangling\.gguf is a link to a file that isn't there",
        r"/loop\.gguf can't be read: ",
        r"negative\.gguf: The file does not give a usable llama\.context_length",
        r"\.gguf is not UTF-8",
    ):
        assert re.search(expected, told), told
    assert len(problems) == 6
    assert load_directory(folder, known=models)[0] == models


def test_a_folder_that_is_not_there_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    models, problems = load_directory(tmp_path / "nothing")
    assert models == []
    assert [problem.code for problem in problems] == ["model_not_found"]


def test_a_model_that_is_put_into_the_folder_is_listed_without_a_restart(start_host: StartHost, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    server = start_host(models_dir=folder)
    assert _listed(server) == []
    shutil.copy(TINY, folder / "new.gguf")
    assert _listed(server) == ["new"]
    assert ask(server.url, "/models/new/new.gguf").status == 200
    (folder / "new.gguf").unlink()
    assert _listed(server) == []
    assert ask(server.url, "/models/new/new.gguf").status == 404


def test_a_model_that_is_replaced_is_described_anew(start_host: StartHost, tmp_path: Path, hashes: HashCache) -> None:
    path = tmp_path / "changing.gguf"
    shutil.copy(TINY, path)
    server = start_host(models=(load_model(path, hashes),))
    path.write_bytes(PROJECTOR.read_bytes())
    entry = ask(server.url, "/models/manifest.json").json()["models"][0]
    answer = ask(server.url, entry["url"])
    assert entry["size"] == len(answer.body) == PROJECTOR.stat().st_size
    assert entry["sha256"] == hashlib.sha256(PROJECTOR.read_bytes()).hexdigest()
    assert answer.headers["ETag"] == f'"sha256-{entry["sha256"]}"'
    path.write_bytes(b"not a model any more")
    assert _listed(server) == []


def test_a_host_without_models_says_so(start_host: StartHost) -> None:
    server = start_host()
    assert _listed(server) == []
    assert ask(server.url, "/healthz").json()["models"] == 0


def test_a_hash_is_remembered_across_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sippet_host.hashcache._SETTLED_NS", -1)
    path, store = tmp_path / "file", tmp_path / "cache/hashes.json"
    path.write_bytes(b"one")
    first = HashCache(store)
    digest, fingerprint = first.sha256(path)
    first.save()
    assert HashCache(store).peek(path, fingerprint) == digest == hashlib.sha256(b"one").hexdigest()


def test_a_file_changed_behind_the_same_times_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sippet_host.hashcache._SETTLED_NS", -1)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    cache = HashCache(tmp_path / "hashes.json")
    assert cache.sha256(path)[0] == hashlib.sha256(b"one").hexdigest()
    time.sleep(0.05)  # more than a tick of the file system's clock
    path.write_bytes(b"two")
    os.utime(path, (1, 1))
    assert cache.sha256(path)[0] == hashlib.sha256(b"two").hexdigest()


def test_the_hash_of_a_file_that_just_changed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    cache = HashCache(tmp_path / "hashes.json")
    _, fingerprint = cache.sha256(path)
    assert cache.peek(path, fingerprint) is None


def test_a_damaged_hash_store_is_ignored(tmp_path: Path) -> None:
    path, store = tmp_path / "file", tmp_path / "hashes.json"
    path.write_bytes(b"one")
    for content in (b"", b"{", b"[]", b'{"x": 1}', b'{"x": [1, 2]}', b"\xff\xfe"):
        store.write_bytes(content)
        assert HashCache(store).sha256(path)[0] == hashlib.sha256(b"one").hexdigest()


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    model = load_model(TINY)
    for fields in (
        {"models": (model, model)},
        {"tls_cert": tmp_path / "cert.pem"},
        {"port": 70_000},
        {"coep": "x"},
    ):
        with pytest.raises(HostError) as caught:
            Settings(**fields)  # type: ignore[arg-type]
        assert caught.value.code == "configuration"


def test_the_projector_of_a_registered_model_is_served_with_it(start_host: StartHost, tmp_path: Path) -> None:
    url = "/models/tiny-chat-f16/mmproj-tiny-f16.gguf"
    server = start_host(models=(load_model(TINY),))
    assert ask(server.url, url).body == PROJECTOR.read_bytes()
    alone = Path(shutil.copy(TINY, tmp_path / TINY.name))
    assert ask(start_host(models=(load_model(alone),)).url, url).status == 404
    (tmp_path / PROJECTOR.name).write_bytes(PROJECTOR.read_bytes()[:-1] + b"x")  # not the registered one
    assert ask(start_host(models=(load_model(alone),)).url, url).status == 404
