"""Several addresses of one file: the next serves where one fails, and nothing that was verified is fetched twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer, flip
from sippet.errors import InvalidModel, ModelNotFound
from sippet.events import Status
from sippet.models.download import DownloadOptions
from sippet.models.manifest import Manifest
from sippet.models.store import ModelStore
from sippet.platform._folder import FolderStorage
from sippet.platform._http1 import Http1Client
from test_models_download import BIG, CHUNK, content, flip_on_disk, manifest_of, model_bytes, until

NOBODY = "http://127.0.0.1:9/m.gguf"  # the discard port, where nothing listens


def mirrored(*urls: str, **known: bool) -> Manifest:
    manifest = manifest_of(BIG, urls[0], **known)
    return replace(manifest, files=(replace(manifest.files[0], mirrors=urls[1:]),))


def store_in(folder: Path) -> ModelStore:
    options = DownloadOptions(timeout=15, backoff=0.01, retries=4, parallel=2)
    return ModelStore(FolderStorage(folder), Http1Client(), options=options)


def between(first: ModelServer, second: ModelServer, main: Callable[[str, str], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with first.running(), second.running():
            return await asyncio.wait_for(main(f"{first.url}m.gguf", f"{second.url}m.gguf"), 60)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "first",
    [
        ModelServer(),
        ModelServer({"m.gguf": BIG}, refuse=[403] * 1000),
        ModelServer({"m.gguf": BIG}, refuse=[503] * 1000),
        ModelServer({"m.gguf": BIG[:-1]}),
        ModelServer({"m.gguf": BIG}, ranges=False, alter=flip(500_000)),
    ],
    ids=["has no file", "refuses", "is busy for ever", "has another version", "sends damaged bytes and no ranges"],
)
def test_the_next_address_serves_where_the_first(tmp_path: Path, first: ModelServer) -> None:
    second = ModelServer({"m.gguf": BIG})
    between(first, second, lambda one, two: store_in(tmp_path).add(mirrored(one, two)))
    assert content(tmp_path) == BIG


@pytest.mark.parametrize("kind", [{"ranges": False}, {"lengths": False}, {"etags": False}])
def test_a_mirror_may_be_another_kind_of_server(tmp_path: Path, kind: dict[str, bool]) -> None:
    second = ModelServer({"m.gguf": BIG}, **kind)
    between(ModelServer(), second, lambda one, two: store_in(tmp_path).add(mirrored(NOBODY, one, two)))
    assert content(tmp_path) == BIG


def test_only_the_chunk_that_one_server_has_wrong_comes_from_the_other(tmp_path: Path) -> None:
    last = len(BIG) - 10
    first, second = ModelServer({"m.gguf": BIG}, alter=flip(last)), ModelServer({"m.gguf": BIG})
    said: list[Status] = []
    between(first, second, lambda one, two: store_in(tmp_path).add(mirrored(one, two), on_progress=said.append))
    assert content(tmp_path) == BIG
    assert 0 < second.sent <= 2 * CHUNK
    assert said[-1].bytes == len(BIG)


def test_a_download_that_was_cut_off_goes_on_at_the_mirror(tmp_path: Path) -> None:
    first, second = ModelServer({"m.gguf": BIG}, pace=0.01, piece=8 << 10), ModelServer({"m.gguf": BIG})

    async def main(one: str, two: str) -> None:
        begun = store_in(tmp_path).install(mirrored(one, two))
        await until(lambda: first.sent > len(BIG) // 2)
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)
        first.refuse = [410] * 1000
        await store_in(tmp_path).add(mirrored(one, two))

    between(first, second, main)
    assert content(tmp_path) == BIG
    assert second.sent <= len(BIG) // 2 + 3 * CHUNK


def test_without_a_hash_no_other_server_is_asked(tmp_path: Path) -> None:
    second = ModelServer({"m.gguf": BIG})
    with pytest.raises(ModelNotFound):
        between(
            ModelServer(),
            second,
            lambda one, two: store_in(tmp_path).add(mirrored(one, two, chunks=False, whole=False)),
        )
    assert second.requests == []


def test_where_only_the_wholes_hash_is_known_all_comes_from_the_next(tmp_path: Path) -> None:
    first, second = ModelServer({"m.gguf": BIG}, alter=flip(700_000)), ModelServer({"m.gguf": BIG})
    between(first, second, lambda one, two: store_in(tmp_path).add(mirrored(one, two, chunks=False)))
    assert content(tmp_path) == BIG
    assert second.sent == len(BIG)


def test_when_all_addresses_are_wrong_the_last_ones_fault_is_told(tmp_path: Path) -> None:
    other = model_bytes(1_000_000, seed=2)
    with pytest.raises(InvalidModel) as caught:
        between(
            ModelServer(), ModelServer({"m.gguf": other}), lambda one, two: store_in(tmp_path).add(mirrored(one, two))
        )
    assert caught.value.details["reason"] == "hash_mismatch"
    assert asyncio.run(store_in(tmp_path).list()) == []


def test_a_changed_tag_costs_nothing_where_the_hashes_are_known(tmp_path: Path) -> None:
    server = ModelServer({"m.gguf": BIG}, pace=0.01, piece=8 << 10)

    async def main(one: str, two: str) -> int:
        begun = store_in(tmp_path).install(mirrored(one))
        await until(lambda: server.sent > len(BIG) // 2)
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)
        server.tags["m.gguf"] = (server.files["m.gguf"], '"another"')
        before = server.sent
        await store_in(tmp_path).add(mirrored(one))
        return server.sent - before

    assert between(server, ModelServer(), main) <= len(BIG) // 2 + 3 * CHUNK
    assert content(tmp_path) == BIG


def test_mirrors_are_a_part_of_the_manifest_and_relative_to_it() -> None:
    values = {"files": [{"name": "m.gguf", "url": "m.gguf", "mirrors": ["../b/m.gguf", "https://c.example/m.gguf"]}]}
    manifest = Manifest.from_dict(values, "https://a.example/x/manifest.json")
    assert manifest.files[0].addresses == (
        "https://a.example/x/m.gguf", "https://a.example/b/m.gguf", "https://c.example/m.gguf",
    )  # fmt: skip
    assert Manifest.from_json(manifest.to_json()) == manifest
    for wrong in ("x", [1], [""], ["x"] * 17):
        with pytest.raises(InvalidModel, match="mirrors of m"):
            Manifest.from_dict({"files": [{"name": "m.gguf", "mirrors": wrong}]})


def test_a_repair_asks_the_mirror_too(tmp_path: Path) -> None:
    first, second = ModelServer({"m.gguf": BIG}), ModelServer({"m.gguf": BIG})

    async def main(one: str, two: str) -> None:
        await store_in(tmp_path).add(mirrored(one, two))
        flip_on_disk(tmp_path, 123_456)
        first.refuse = [404] * 100
        found = await store_in(tmp_path).verify("m")
        assert found.sound and found.repaired

    between(first, second, main)
    assert content(tmp_path) == BIG
    assert second.sent == CHUNK
