"""Splitting into shards and joining them again, manifests and the registry."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from gguf_builder import MODEL, T, gguf, value
from sippet.errors import InvalidModel, InvalidOption, ModelNotFound
from sippet.models.checks import check_model, check_shards
from sippet.models.gguf import read_header
from sippet.models.manifest import Manifest, build_manifest
from sippet.models.registry import DEFAULT_MODEL, MODELS, find_model, load_registry
from sippet.models.split import join_model, shard_name, split_model
from sippet.platform._cpython import PathSource

FILES = Path(__file__).parent / "models"
TINY, PROJECTOR = FILES / "tiny-chat-f16.gguf", FILES / "mmproj-tiny-f16.gguf"


def split(path: Path, folder: Path, **options: Any) -> list[Path]:
    return asyncio.run(split_model(PathSource(path), folder, **options))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"max_bytes": 500_000}, 4),
        ({"max_bytes": 1}, 38),
        ({"max_bytes": 10_000_000}, 1),
        ({"max_tensors": 10}, 4),
        ({"max_tensors": 38}, 1),
        ({"max_bytes": 1_000_000, "first_empty": True}, 3),
    ],
)
def test_a_file_that_is_split_and_joined_is_the_same_again(tmp_path: Path, options: dict[str, Any], count: int) -> None:
    paths = split(TINY, tmp_path / "shards", **options)
    assert [path.name for path in paths] == [shard_name("tiny-chat-f16", n, count) for n in range(count)]
    headers = [asyncio.run(read_header(PathSource(path))) for path in paths]
    check_shards(headers)
    check_model(headers[0])
    assert [len(header.tensors) == 0 for header in headers] == [bool(options.get("first_empty"))] + [False] * (
        count - 1
    )
    joined = asyncio.run(join_model([PathSource(path) for path in paths], tmp_path / "joined.gguf"))
    assert joined.read_bytes() == TINY.read_bytes()


def test_shards_carry_llama_cpps_metadata(tmp_path: Path) -> None:
    paths = split(TINY, tmp_path, max_tensors=20)
    first, second = (asyncio.run(read_header(PathSource(path))) for path in paths)
    assert list(first.metadata)[-3:] == list(second.metadata) == ["split.no", "split.count", "split.tensors.count"]
    assert [second.metadata[key] for key in second.metadata] == [1, 2, 38]
    assert first.alignment == second.alignment and first.chat_template


def test_another_alignment_is_kept(tmp_path: Path) -> None:
    keys = {**MODEL, "general.alignment": value(4, 64)}
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf(keys, [T("x", (3,)), T("y", (5,)), T("z", (7,))], alignment=64))
    paths = split(path, tmp_path / "out", max_tensors=1)
    assert len(paths) == 3
    joined = asyncio.run(join_model([PathSource(p) for p in paths], tmp_path / "b.gguf"))
    assert joined.read_bytes() == path.read_bytes()


def test_a_shard_is_not_split_and_a_gap_is_not_joined(tmp_path: Path) -> None:
    paths = split(TINY, tmp_path, max_tensors=15)
    with pytest.raises(InvalidModel) as caught:
        split(paths[0], tmp_path / "more", max_tensors=1)
    assert caught.value.details["reason"] == "shard"
    with pytest.raises(InvalidModel) as caught:
        asyncio.run(join_model([PathSource(paths[0]), PathSource(paths[2])], tmp_path / "joined.gguf"))
    assert caught.value.details["reason"] == "shard_missing"
    assert not (tmp_path / "joined.gguf").exists()


@pytest.mark.parametrize("options", [{}, {"max_bytes": 1, "max_tensors": 1}, {"max_bytes": 0}])
def test_exactly_one_limit_is_needed(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        split(TINY, tmp_path, **options)


def test_a_manifest_tells_every_chunk_and_what_the_model_is() -> None:
    manifest = asyncio.run(build_manifest([PathSource(TINY)], projector=PathSource(PROJECTOR), chunk_size=1 << 20))
    data = TINY.read_bytes()
    (file,) = manifest.files
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert file.chunks == tuple(hashlib.sha256(data[i : i + (1 << 20)]).hexdigest() for i in (0, 1 << 20))
    assert manifest.projector is not None and manifest.projector.size == PROJECTOR.stat().st_size
    facts = manifest.facts
    assert (facts.architecture, facts.quantization, facts.context, facts.parameters) == ("llama", "F16", 512, 853_120)
    assert (facts.license, facts.chat_template, facts.vocabulary) == ("cc0-1.0", True, 512)
    assert facts.capabilities == ("chat", "completion", "vision")
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest and again.to_json() == manifest.to_json()


def test_urls_in_a_manifest_are_relative_to_it() -> None:
    manifest = asyncio.run(build_manifest([PathSource(TINY)]))
    read = Manifest.from_json(manifest.to_json(), "https://example.org/a/manifest.json?x=1")
    assert read.files[0].url == "https://example.org/a/tiny-chat-f16.gguf"


GOOD = {"id": "m", "files": [{"name": "m.gguf", "size": 100_000, "chunks": ["0" * 64] * 2}], "chunk_size": 65536}


def altered(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def with_file(**changes: Any) -> dict[str, Any]:
    return altered(files=[{**GOOD["files"][0], **changes}])  # type: ignore[index, dict-item]


@pytest.mark.parametrize(
    "values",
    [
        [],
        "x",
        {},
        altered(files=[]),
        altered(files={}),
        altered(files=["x"]),
        altered(files=[{}]),
        altered(files=GOOD["files"] * 2),  # type: ignore[operator]
        altered(version=2),
        altered(chunk_size=1),
        altered(chunk_size=1 << 40),
        altered(chunk_size="65536"),
        altered(chunk_size=True),
        with_file(name=""),
        with_file(name="../x"),
        with_file(name="a/b"),
        with_file(name=".."),
        with_file(name="x" * 300),
        with_file(name=5),
        with_file(size=-1),
        with_file(size=0),
        with_file(size=1 << 60),
        with_file(size=1.5),
        with_file(size=None),
        with_file(chunks=["0" * 64]),
        with_file(chunks=["0" * 64, "xyz"]),
        with_file(chunks="00"),
        with_file(sha256="xyz"),
        with_file(url=5),
    ],
)
def test_what_is_no_manifest_is_refused(values: Any) -> None:
    Manifest.from_dict(GOOD)
    with pytest.raises(InvalidModel) as caught:
        Manifest.from_json(json.dumps(values))
    assert caught.value.details["reason"] == "bad_manifest"


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidModel):
        Manifest.from_json(data)
    with pytest.raises(InvalidOption):
        load_registry(data)


def test_facts_of_a_strange_type_are_left_out() -> None:
    facts = Manifest.from_dict(altered(context="many", parameters=-5, license=7, capabilities="chat")).facts
    assert (facts.context, facts.parameters, facts.license, facts.capabilities) == (None, None, None, ())


def test_the_default_model_is_registered_and_every_entry_is_complete() -> None:
    assert find_model(DEFAULT_MODEL).manifest.facts.capabilities == ("chat", "completion")
    for id, entry in MODELS.items():
        assert entry.id == id and entry.description.endswith(".")
        assert entry.download_size and entry.memory > entry.download_size
        assert entry.manifest.facts.license and entry.manifest.facts.quantization
        assert all(file.sha256 and file.url.startswith("/models/") for file in entry.manifest.all_files)
    with pytest.raises(ModelNotFound, match=r"Known models: .*smollm2"):
        find_model("gpt-9")


def test_users_add_their_own_models_by_file() -> None:
    own = {**GOOD, "description": "Mine.", "memory": 5, "name": "My model"}
    entries = load_registry(json.dumps({"version": 1, "models": [own]}), "https://example.org/models/manifest.json")
    entry = find_model("m", {**MODELS, **entries})
    assert (entry.manifest.name, entry.description, entry.memory) == ("My model", "Mine.", 5)
    for bad in ({}, {"models": {}}, {"version": 2, "models": []}):
        with pytest.raises(InvalidOption):
            load_registry(json.dumps(bad))
    with pytest.raises(InvalidModel):
        load_registry(json.dumps({"models": [{}]}))
