"""The installed models: listed, opened, verified, repaired, shared between processes, removed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gguf_builder import MODEL, T, gguf, value
from model_server import ModelServer
from sippet.config import ContextConfig
from sippet.errors import InvalidModel, InvalidOption, ModelNotFound, RemoteUnavailable, StorageError, UnsupportedModel
from sippet.events import Status
from sippet.models.manifest import Manifest, ModelFile, build_manifest, fitting_chunk
from sippet.models.plan import MemoryLimit
from sippet.models.store import ModelStore
from sippet.platform._cpython import PathSource
from sippet.platform._folder import FolderStorage
from sippet.platform._http1 import Http1Client
from test_models_download import BIG, QUICK, content, flip_on_disk, manifest_of, model_bytes, run, store_in, until

MODELS = Path(__file__).parent / "models"
TINY, PROJECTOR = MODELS / "tiny-chat-f16.gguf", MODELS / "mmproj-tiny-f16.gguf"
ROOMY = MemoryLimit(1 << 40, "nothing")


class Offline(Http1Client):
    """Every request is a failure of the test."""

    def request(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("a request was made")


def test_an_installed_model_needs_no_network(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"tiny.gguf": TINY.read_bytes()}).running() as server:
            await store_in(tmp_path).add(server.url + "tiny.gguf", name="Tiny")
        store = ModelStore(FolderStorage(tmp_path), Offline())
        (model,) = await store.list()
        assert (model.id, model.manifest.name, model.size) == ("tiny", "Tiny", 1_723_104)
        assert model.manifest.facts.chat_template is True
        (source,), projector = await store.open("tiny")
        assert projector is None
        assert await source.read(0, source.size) == TINY.read_bytes()
        assert (await store.verify("tiny")).sound

    run(main())


def test_adding_what_is_there_fetches_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            first = await store.add(server.url + "m.gguf")
            sent = server.sent
            again = await store.add(server.url + "m.gguf")
            assert (server.sent, again) == (sent, first)

    run(main())


def test_a_model_and_its_projector_come_together(tmp_path: Path) -> None:
    files = {"a/model.gguf": TINY.read_bytes(), "b/model.gguf": PROJECTOR.read_bytes()}

    async def main() -> None:
        async with ModelServer(files).running() as server:
            store = store_in(tmp_path)
            model = await store.add(server.url + "a/model.gguf", projector=server.url + "b/model.gguf", id="pair")
            assert "vision" in model.manifest.facts.capabilities
            (weights,), projector = await store.open("pair")
            assert (weights.size, projector and projector.size) == (1_723_104, 1_456_768)
            with pytest.raises(UnsupportedModel) as caught:
                await store.add(server.url + "a/model.gguf", projector=server.url + "a/model.gguf", id="wrong")
            assert caught.value.details["reason"] == "not_a_projector"

    run(main())


def shards(count: int) -> dict[str, bytes]:
    files = {}
    for number in range(count):
        keys = {"split.no": value(2, number), "split.count": value(2, count), "split.tensors.count": value(5, count)}
        data = gguf({**(MODEL if number == 0 else {}), **keys}, [T(f"t{number}", (64, 2000), 1)])
        files[f"m-{number + 1:05d}-of-{count:05d}.gguf"] = data
    return files


def test_the_first_shard_stands_for_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer(shards(3)).running() as server:
            store = store_in(tmp_path)
            model = await store.add(server.url + "m-00001-of-00003.gguf")
            assert (model.id, len(model.manifest.files)) == ("m", 3)
            sources, _ = await store.open("m")
            assert [source.name for source in sources] == sorted(server.files)

    run(main())


@pytest.mark.parametrize(
    ("order", "reason"), [([0, 2, 1], "shard_order"), ([0, 1], "shard_missing"), ([1, 0, 2], "shard_order")]
)
def test_shards_that_do_not_fit_together_are_refused(tmp_path: Path, order: list[int], reason: str) -> None:
    async def main() -> None:
        files = shards(3)
        async with ModelServer(files).running() as server:
            urls = [server.url + sorted(files)[index] for index in order]
            with pytest.raises(InvalidModel) as caught:
                await store_in(tmp_path).add(urls)
            assert caught.value.details["reason"] == reason

    run(main())


def test_a_manifest_is_followed_relative_to_itself(tmp_path: Path) -> None:
    async def main() -> None:
        manifest = await build_manifest([PathSource(TINY)], projector=PathSource(PROJECTOR), chunk_size=1 << 20)
        files = {"x/manifest.json": manifest.to_json(), "x/tiny-chat-f16.gguf": TINY.read_bytes()}
        async with ModelServer({**files, "x/mmproj-tiny-f16.gguf": PROJECTOR.read_bytes()}).running() as server:
            model = await store_in(tmp_path).add(server.url + "x/manifest.json")
            assert (model.id, model.manifest.name) == ("tiny-chat-f16", "tiny-chat")
            assert model.manifest.chunk_size == 1 << 20
            server.files["x/manifest.json"] = b"<html>"
            with pytest.raises(InvalidModel) as caught:
                await store_in(tmp_path).add(server.url + "x/manifest.json")
            assert caught.value.details["reason"] == "bad_manifest"
            with pytest.raises(ModelNotFound):
                await store_in(tmp_path).add(server.url + "none.json")

    run(main())


def test_a_users_files_are_installed_by_copy(tmp_path: Path) -> None:
    async def main() -> None:
        store = ModelStore(FolderStorage(tmp_path), Offline())
        model = await store.add(TINY, projector=PROJECTOR)
        assert (await store.verify(model.id)).chunks == 7
        (weights,), _ = await store.open(model.id)
        assert await weights.read(0, 1 << 30) == TINY.read_bytes()
        flip_on_disk_of(tmp_path, TINY.name, 5000)
        with pytest.raises(StorageError, match="added from a file"):
            await store.verify(model.id)

    run(main())


def flip_on_disk_of(folder: Path, name: str, at: int) -> None:
    (path,) = folder.glob(f"models/*/data/{name}")
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("source", [[], 5, b"x", {"a": 1}])
def test_what_is_no_source_is_refused(tmp_path: Path, source: Any) -> None:
    with pytest.raises(InvalidOption):
        run(store_in(tmp_path).add(source))


@pytest.mark.parametrize("source", ["http://[/m.gguf", "http://a:99999/m.json", "https://\ud800/m.gguf"])
def test_a_malformed_address_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidOption, match="URL"):
        run(store_in(tmp_path).add(source))


@pytest.mark.parametrize("option", ["id", "name"])
@pytest.mark.parametrize("text", ["", "\ud800", "x" * 501, 5])
def test_a_name_that_can_not_be_stored_is_refused(tmp_path: Path, option: str, text: Any) -> None:
    with pytest.raises(InvalidOption, match=option):
        run(store_in(tmp_path).add(MODELS / "tiny-chat-f16.gguf", **{option: text}))


@pytest.mark.parametrize("url", ["http://[", "http://a:99999/x", "http://\ud800/x", "\ud800", 5, ["x"], "http:// /"])
@pytest.mark.parametrize("field", ["url", "mirrors"])
def test_a_manifest_with_what_is_no_address_is_refused(url: Any, field: str) -> None:
    file = {"name": "m.gguf", "url": "m.gguf", field: [url] if field == "mirrors" else url}
    with pytest.raises(InvalidModel) as caught:
        Manifest.from_json(json.dumps({"files": [file]}), "http://127.0.0.1/m.json")
    assert caught.value.details["reason"] == "bad_manifest"


def test_a_registered_name_without_a_host_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="host that serves it"):
        run(store_in(tmp_path).add("smollm2-135m-instruct-q4_1"))


def resize(folder: Path, size: int) -> None:
    """Make the one installed file so long."""
    (path,) = folder.glob("models/*/data/*")
    os.truncate(path, size)


def test_bytes_too_many_are_found_and_cut_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            await store.add(manifest_of(BIG, server.url + "m.gguf"))
            sent = server.sent
            resize(tmp_path, len(BIG) + 5)
            assert await store.list() == []
            found = await store.verify("m", repair=False)
            assert (found.bad, found.sound) == ((("m.gguf", -(-len(BIG) // (64 << 10))),), False)
            assert (await store.verify("m")).sound and server.sent == sent
            assert [model.id for model in await store.list()] == ["m"]

    run(main())
    assert content(tmp_path) == BIG


@pytest.mark.parametrize("size", [len(BIG) + 5, len(BIG) - 5, 500_000])
def test_adding_a_damaged_model_fetches_only_what_is_missing(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            await store.add(manifest_of(BIG, server.url + "m.gguf"))
            before = server.sent
            resize(tmp_path, size)
            await store.add(manifest_of(BIG, server.url + "m.gguf"))
            assert server.sent - before <= max(0, len(BIG) - size) + (64 << 10)
            assert [model.id for model in await store.list()] == ["m"]

    run(main())
    assert content(tmp_path) == BIG


def test_a_file_of_the_same_name_and_size_with_other_content_takes_the_place_of_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "m.gguf", model_bytes(1_000_000, seed=8)
    first.write_bytes(BIG)
    installed = tmp_path / "store"

    async def main() -> None:
        store = store_in(installed)
        before = await store.add(first)
        assert (await store.add(first)).installed == before.installed
        first.write_bytes(second)
        again = await store.add(first)
        assert (again.id, again.installed > before.installed) == ("m", True)
        assert [model.id for model in await store.list()] == ["m"]

    run(main())
    assert content(installed) == second


def test_two_models_of_one_file_name_are_kept_side_by_side(tmp_path: Path) -> None:
    other = model_bytes(1_000_000, seed=9)

    async def main() -> None:
        async with ModelServer({"a/m.gguf": BIG, "b/m.gguf": other, "c/m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            ids = [(await store.add(f"{server.url}{folder}/m.gguf")).id for folder in "ababc"]
            assert ids == ["m", "m-2", "m", "m-2", "m"]  # c's is a's, byte for byte
            assert sorted(model.id for model in await store.list()) == ["m", "m-2"]
            await store.add(f"{server.url}b/m.gguf", id="m")  # who gives an id means it
            assert [model.id for model in await store.list()] == ["m"]

    run(main())


def test_a_flipped_byte_is_found_and_one_chunk_is_fetched(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            model = await store.add(manifest_of(BIG, server.url + "m.gguf"))
            flip_on_disk(tmp_path, 500_000)
            found = await store.verify(model.id, repair=False)
            assert (found.bad, found.sound) == ((("m.gguf", 500_000 // (64 << 10)),), False)
            sent = server.sent
            repaired = await store.verify(model.id)
            assert (repaired.bad, repaired.sound) == (found.bad, True)
            assert server.sent - sent == 64 << 10
            assert (await store.verify(model.id)).bad == ()

    run(main())


def test_a_truncated_file_is_not_listed_but_can_be_repaired(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            model = await store.add(manifest_of(BIG, server.url + "m.gguf"))
            resize(tmp_path, 600_000)
            assert await store.list() == []
            assert (await store.verify(model.id)).sound
            assert [item.id for item in await store.list()] == [model.id]

    run(main())


def test_a_repair_never_takes_another_version(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            model = await store.add(server.url + "m.gguf")
            flip_on_disk(tmp_path, 500_000)
            server.files["m.gguf"] = model_bytes(1_000_000, seed=9)
            with pytest.raises((InvalidModel, RemoteUnavailable)):
                await store.verify(model.id)
            assert not (await store.verify(model.id, repair=False)).sound

    run(main())


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff" * 50, b'{"check": "x", "body": {}}'])
def test_a_damaged_record_heals_from_its_copy(tmp_path: Path, junk: bytes) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            await store.add(server.url + "m.gguf")
            for name in ("installed.json", "installed-copy.json"):
                damage(tmp_path, name, junk)
                assert [model.id for model in await store.list()] == ["m"]
                assert not damaged(tmp_path, name, junk)

    run(main())


def damage(folder: Path, name: str, junk: bytes) -> None:
    next(folder.glob(f"models/*/{name}")).write_bytes(junk)


def damaged(folder: Path, name: str, junk: bytes) -> bool:
    return next(folder.glob(f"models/*/{name}")).read_bytes() == junk


def test_a_model_whose_records_are_both_lost_is_found_again_without_fetching(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            manifest = manifest_of(BIG, server.url + "m.gguf")
            await store.add(manifest)
            for name in ("installed.json", "installed-copy.json"):
                damage(tmp_path, name, b"?")
            assert await store.list() == []
            assert sum((await store.storage()).unfinished.values()) == len(BIG)
            await store.add(manifest)
            assert [model.id for model in await store.list()] == ["m"]

    run(main())


def test_a_record_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            await store_in(tmp_path).add(server.url + "m.gguf")
        later = b'{"check": "", "body": {"version": 2}}'
        for name in ("installed.json", "installed-copy.json"):
            damage(tmp_path, name, later)
        assert await store_in(tmp_path).list() == []
        assert damaged(tmp_path, "installed.json", later)

    run(main())


def test_a_new_version_under_the_same_id_replaces_the_old_one_once_it_is_whole(tmp_path: Path) -> None:
    other = model_bytes(900_000, seed=3)

    async def main() -> None:
        async with ModelServer({"m.gguf": BIG, "n.gguf": other}).running() as server:
            store = store_in(tmp_path)
            await store.add(server.url + "m.gguf", id="it")
            server.refuse = [404]
            with pytest.raises(ModelNotFound):
                await store.add(server.url + "n.gguf", id="it")
            assert (await store.get("it")).size == len(BIG)
            await store.add(server.url + "n.gguf", id="it")
            assert [model.size for model in await store.list()] == [len(other)]
            assert len(list_folders(tmp_path)) == 1

    run(main())


def list_folders(folder: Path) -> list[str]:
    return [path.name for path in (folder / "models").iterdir()]


def test_removing_frees_the_space(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}, cut_after=[]).running() as server:
            store = store_in(tmp_path)
            await store.add(server.url + "m.gguf")
            usage = (await store.storage()).estimate.usage
            assert await store.remove("m") == len(BIG)
            assert (await store.storage()).estimate.usage < usage - len(BIG)
            assert list_folders(tmp_path) == []
            with pytest.raises(ModelNotFound):
                await store.remove("m")
            with pytest.raises(ModelNotFound):
                await store.get("m")
            server.cut_after = [1 << 20] + [0] * 50
            with pytest.raises(RemoteUnavailable):
                await store.add(manifest_of(BIG, server.url + "m.gguf"))
            assert await store.remove("m") > 0
            assert list_folders(tmp_path) == []

    run(main())


def test_an_id_that_is_the_start_of_another_removes_only_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path)
            await store.add(server.url + "m.gguf", id="m")
            await store.add(server.url + "m.gguf", id="m-2")
            await store.remove("m")
            assert [model.id for model in await store.list()] == ["m-2"]

    run(main())


@pytest.mark.parametrize("id", ["../../etc", "a/b", "con", "…", "x" * 300, "A B:C*?"])
def test_any_id_is_a_safe_folder(tmp_path: Path, id: str) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            store = store_in(tmp_path / "store")
            await store.add(server.url + "m.gguf", id=id)
            assert (await store.get(id)).id == id
            await store.remove(id)

    run(main())
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_the_least_recently_used_model_makes_room_only_where_that_is_allowed(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as server:
            manifest = manifest_of(BIG, server.url + "m.gguf")
            store = ModelStore(FolderStorage(tmp_path, quota=2_200_000), Http1Client(), options=QUICK)
            await store.add(manifest, id="one")
            await store.add(manifest, id="two")
            await store.open("one")
            with pytest.raises(StorageError) as caught:
                await store.add(manifest, id="three")
            assert caught.value.details["reason"] == "full"
            await store.add(manifest, id="three", evict=True)
            assert {model.id for model in await store.list()} == {"one", "three"}

    run(main())


def test_an_estimate_reads_the_header_and_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        data = model_bytes(8_000_000)
        for ranges in (True, False):
            async with ModelServer({"m.gguf": data}, ranges=ranges, pace=0.01).running() as server:
                store = store_in(tmp_path)
                found = await store.estimate(server.url + "m.gguf", context=ContextConfig(n_ctx=64), limit=ROOMY)
                assert (found.download, found.enough_storage, found.memory.verdict) == (len(data), True, "fits")
                assert found.memory.weights <= len(data)
                await asyncio.sleep(0.05)
                assert server.sent < 2_000_000
                tight = await store.estimate(server.url + "m.gguf", limit=MemoryLimit(1_000_000, "it"))
                assert tight.memory.verdict == "too_large"

    run(main())


def test_two_stores_share_one_download_and_both_see_its_progress(tmp_path: Path) -> None:
    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, pace=0.01, piece=16 << 10)
        async with server.running():
            seen: list[Status] = []
            manifest = manifest_of(BIG, server.url + "m.gguf")
            first = store_in(tmp_path).install(manifest)
            await until(lambda: server.sent >= 100_000)
            second = store_in(tmp_path).install(manifest, on_progress=seen.append)
            one, two = await asyncio.gather(first, second)
            assert one == two
            assert server.sent == len(BIG)
            assert any(0 < status.bytes < len(BIG) for status in seen)
            assert seen[-1].state == "ready"

    run(main())


def test_the_second_takes_over_where_the_first_gives_up(tmp_path: Path) -> None:
    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, pace=0.01, piece=16 << 10)
        async with server.running():
            manifest = manifest_of(BIG, server.url + "m.gguf")
            first = store_in(tmp_path).install(manifest)
            await until(lambda: server.sent >= 400_000)
            second = store_in(tmp_path).install(manifest)
            await asyncio.sleep(0.05)
            first.cancel()
            assert (await second).size == len(BIG)
            assert server.sent < len(BIG) + 6 * (64 << 10)

    run(main())


CHILD = """
import asyncio, sys
from sippet.models.store import ModelStore
from sippet.models.manifest import Manifest
from sippet.platform._folder import FolderStorage
from sippet.platform._http1 import Http1Client

async def main():
    store = ModelStore(FolderStorage(sys.argv[1]), Http1Client())
    await store.add(Manifest.from_json(sys.stdin.read()))

asyncio.run(main())
"""


@contextmanager
def child(folder: Path, manifest: Manifest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that installs a model; it ends with the block at the latest."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(folder)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(manifest.to_json())
            process.stdin.close()
            process.stdin = None
            yield process
        finally:
            process.kill()


def test_a_process_that_is_killed_leaves_a_download_that_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        data = model_bytes(4_000_000)
        chunk = 256 << 10
        hashes = tuple(hashlib.sha256(data[i : i + chunk]).hexdigest() for i in range(0, len(data), chunk))
        server = ModelServer({"m.gguf": data}, pace=0.004, piece=16 << 10)
        async with server.running():
            file = ModelFile("m.gguf", len(data), server.url + "m.gguf", None, hashes)
            manifest = Manifest("m", "M", (file,), chunk)
            kills = 0
            for limit in (300_000, 1_000_000, 700_000):
                before = server.sent
                with child(tmp_path, manifest) as process:
                    await until(lambda: server.sent - before >= limit or process.poll() is not None)  # noqa: B023
                kills += 1
                assert await store_in(tmp_path).list() == []
            await store_in(tmp_path).add(manifest)
            assert (await store_in(tmp_path).verify("m")).bad == ()
            assert server.sent <= len(data) + kills * 4 * chunk

    run(main())


def test_two_processes_fetch_once(tmp_path: Path) -> None:
    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, pace=0.01, piece=16 << 10)
        async with server.running():
            manifest = manifest_of(BIG, server.url + "m.gguf")
            with child(tmp_path, manifest) as one, child(tmp_path, manifest) as two:
                for process in (one, two):
                    _, errors = await asyncio.to_thread(process.communicate, timeout=40)
                    assert process.returncode == 0, errors
            assert server.sent == len(BIG)

    run(main())


def test_what_unfinished_downloads_left_is_deleted_and_installed_models_stay(tmp_path: Path) -> None:
    async def main() -> None:
        store = ModelStore(FolderStorage(tmp_path))
        model = await store.add(TINY)
        left = tmp_path / "models" / "half-0-0" / "data"
        left.mkdir(parents=True)
        (left / "half.gguf").write_bytes(bytes(1000))
        assert await store.remove_unfinished() == 1000
        assert [found.id for found in await store.list()] == [model.id]
        assert (await store.storage()).unfinished == {}

    asyncio.run(main())


def test_an_installed_models_plan_needs_no_network(tmp_path: Path) -> None:
    async def main() -> None:
        store = ModelStore(FolderStorage(tmp_path))
        model = await store.add(TINY, id="mine")
        found = await store.estimate("mine", context={"n_ctx": 256})
        assert (found.manifest.id, found.download, found.memory.n_ctx) == (model.id, 0, 256)

    asyncio.run(main())


def test_a_larger_model_has_larger_chunks_so_that_its_record_stays_short() -> None:
    sizes = (1, 512 << 20, (512 << 20) + 1, 4 << 30, 1 << 60)
    assert [fitting_chunk(size) >> 10 for size in sizes] == [512, 512, 1024, 4096, 256 << 10]
