"""Installing models from servers of every kind, into a folder."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from gguf_builder import MODEL, T, gguf
from model_server import ModelServer, flip
from sippet.errors import (
    AuthenticationFailed,
    Cancelled,
    InvalidModel,
    ModelNotFound,
    RateLimited,
    RemoteError,
    RemoteUnavailable,
    StorageError,
    UnsupportedModel,
)
from sippet.events import Status
from sippet.models import _turns
from sippet.models.download import DownloadOptions
from sippet.models.installed import InstalledModel
from sippet.models.manifest import Manifest, ModelFile
from sippet.models.store import ModelStore
from sippet.platform._folder import FolderStorage
from sippet.platform._http1 import Http1Client
from sippet.platform.http import HttpResponse

CHUNK = 64 << 10
FIVE_CHUNKS = [CHUNK, 4 * CHUNK, *[0] * 200]  # the first tells the size, then the server dies after four more
QUICK = DownloadOptions(timeout=15, backoff=0.01, retries=4)
TINY = (Path(__file__).parent / "models" / "tiny-chat-f16.gguf").read_bytes()


def model_bytes(size: int, seed: int = 1) -> bytes:
    """A sound GGUF file of about this size, with weights that don't compress."""
    data = gguf(MODEL, [T("token_embd.weight", (64, size // 128), 1)])
    head = len(data) - size // 128 * 128
    return data[:head] + random.Random(seed).randbytes(len(data) - head)


BIG = model_bytes(1_000_000)


def manifest_of(data: bytes, url: str, *, chunks: bool = True, whole: bool = True, name: str = "m.gguf") -> Manifest:
    hashes = [hashlib.sha256(data[i : i + CHUNK]).hexdigest() for i in range(0, len(data), CHUNK)]
    file = ModelFile(
        name, len(data), url, hashlib.sha256(data).hexdigest() if whole else None, tuple(hashes) if chunks else ()
    )
    return Manifest("m", "M", (file,), CHUNK)


def store_in(folder: Path, **options: Any) -> ModelStore:
    chosen = dataclasses.replace(QUICK, **options)
    return ModelStore(FolderStorage(folder), Http1Client(), options=chosen)


def content(folder: Path) -> bytes:
    """The bytes of the one installed file."""
    (path,) = folder.glob("models/*/data/*")
    return path.read_bytes()


def flip_on_disk(folder: Path, at: int) -> None:
    (path,) = folder.glob("models/*/data/*")
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)


def overwrite(folder: Path, name: str, data: bytes) -> None:
    (path,) = folder.glob(f"models/*/{name}")
    path.write_bytes(data)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (the server counts; it has no events)
        await asyncio.sleep(0.001)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 60))


def install(folder: Path, server: ModelServer, source: Any = None, **options: Any) -> InstalledModel:
    """Serve and install, in one go."""

    async def main() -> InstalledModel:
        async with server.running():
            return await store_in(folder, **options).add(source(server.url) if source else server.url + "m.gguf")

    return run(main())


def replace_under_way(server: ModelServer, other: bytes) -> None:
    """Have another version on the server once 300 kB of the file were sent."""

    def swap(name: str, offset: int, data: bytes) -> bytes:
        if offset > 300_000:
            server.files["m.gguf"] = other
        return data

    server.alter = swap


def small_chunks(url: str) -> Manifest:
    """Nothing known of the file but where it is; in small chunks, so that there are several."""
    return Manifest("m", "M", (ModelFile("m.gguf", None, url + "m.gguf"),), CHUNK)


KINDS = {
    "ranges and tags": {},
    "ranges and dates": {"etags": False, "dates": True},
    "no validators": {"etags": False},
    "no validators, no lengths": {"etags": False, "lengths": False},
    "no ranges": {"ranges": False},
    "no lengths": {"lengths": False},
    "no ranges and no lengths": {"ranges": False, "lengths": False},
    "compressed": {"gzipped": True},
    "compressed, no ranges": {"gzipped": True, "ranges": False},
    "hidden Content-Range": {"content_range": lambda start, end, size: None},
    "total unknown": {"content_range": lambda start, end, size: f"bytes {start}-{end - 1}/*"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known", ["nothing", "hashes", "whole"])
def test_a_model_arrives_whole_from_servers_of_every_kind(tmp_path: Path, kind: str, known: str) -> None:
    sources = {
        "nothing": small_chunks,
        "hashes": lambda url: manifest_of(BIG, url + "m.gguf"),
        "whole": lambda url: manifest_of(BIG, url + "m.gguf", chunks=False),
    }
    model = install(tmp_path, ModelServer({"m.gguf": BIG}, **KINDS[kind]), sources[known])
    assert content(tmp_path) == BIG
    assert (model.size, model.manifest.facts.architecture) == (len(BIG), "llama")
    (file,) = model.manifest.files
    assert file.chunks == manifest_of(BIG, "").files[0].chunks


def test_a_redirect_to_another_host_is_followed(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}).running() as there, ModelServer(redirect=there.url).running() as here:
            await store_in(tmp_path).add(small_chunks(here.url))
        assert content(tmp_path) == BIG

    run(main())


class Counting(Http1Client):
    """Notes how many requests are under way at once."""

    now = most = 0

    @asynccontextmanager
    async def request(self, *arguments: Any, **options: Any) -> AsyncIterator[HttpResponse]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async with super().request(*arguments, **options) as response:
                yield response
        finally:
            self.now -= 1


def test_ranges_are_fetched_in_parallel_but_not_in_more_than_allowed(tmp_path: Path) -> None:
    http = Counting()

    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}, pace=0.02, piece=16 << 10).running() as server:
            options = dataclasses.replace(QUICK, parallel=3)
            await ModelStore(FolderStorage(tmp_path), http, options=options).add(
                manifest_of(BIG, server.url + "m.gguf")
            )
            assert len(server.requests) < 16  # chunks that follow each other are asked for at once

    run(main())
    assert http.most == 3


def test_quick_connections_take_turns_and_the_next_asks_before_the_last_chunk_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_turns, "QUICK", 0)
    http, server = Counting(), ModelServer({"m.gguf": BIG}, pace=0.002, piece=16 << 10)

    async def main() -> None:
        async with server.running():
            await ModelStore(FolderStorage(tmp_path), http, options=QUICK).add(manifest_of(BIG, server.url + "m.gguf"))

    run(main())
    assert content(tmp_path) == BIG
    assert (http.most, len(server.requests)) == (2, 2)


def test_nothing_is_fetched_twice_without_need(tmp_path: Path) -> None:
    server = ModelServer({"m.gguf": BIG})
    install(tmp_path, server, small_chunks)
    assert server.sent == len(BIG)


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_connections_are_taken_up_at_the_byte(tmp_path: Path, ranges: bool) -> None:
    cuts = [0, 1, 1000, 40_000, 65_000, 3] if ranges else [0, 1000, 70_000, 3]
    server = ModelServer({"m.gguf": BIG}, ranges=ranges, cut_after=cuts, piece=1000)
    install(tmp_path, server, lambda url: manifest_of(BIG, url + "m.gguf"), parallel=1)
    assert content(tmp_path) == BIG
    if ranges:
        assert server.sent <= len(BIG) + 6 * 1000


@pytest.mark.parametrize("ranges", [True, False])
def test_a_stalled_connection_is_given_up_and_replaced(tmp_path: Path, ranges: bool) -> None:
    server = ModelServer({"m.gguf": BIG}, ranges=ranges, stall_after=[30_000, 100])
    install(tmp_path, server, lambda url: manifest_of(BIG, url + "m.gguf"), timeout=0.7, retries=20)
    assert content(tmp_path) == BIG


def test_a_busy_server_is_asked_again_later(tmp_path: Path) -> None:
    server = ModelServer({"m.gguf": BIG}, refuse=[503, 500, 429, 502])
    install(tmp_path, server, small_chunks)
    assert content(tmp_path) == BIG


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, ModelNotFound), (410, ModelNotFound), (401, AuthenticationFailed), (403, AuthenticationFailed)],
)
def test_a_refusal_is_not_tried_again(tmp_path: Path, status: int, error: type[Exception]) -> None:
    server = ModelServer({"m.gguf": BIG}, refuse=[status] * 10)
    with pytest.raises(error):
        install(tmp_path, server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "error"), [(503, RemoteUnavailable), (429, RateLimited)])
def test_a_server_that_stays_down_is_given_up(tmp_path: Path, status: int, error: type[Exception]) -> None:
    server = ModelServer({"m.gguf": BIG}, refuse=[status] * 100)
    with pytest.raises(error):
        install(tmp_path, server)
    assert len(server.requests) == QUICK.retries + 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_byte_flipped_on_the_wire_costs_one_chunk(tmp_path: Path, ranges: bool) -> None:
    server = ModelServer({"m.gguf": BIG}, ranges=ranges, alter=flip(500_000, times=1))
    install(tmp_path, server, lambda url: manifest_of(BIG, url + "m.gguf"))
    assert content(tmp_path) == BIG
    if ranges:
        assert server.sent == len(BIG) + CHUNK


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("chunks", [True, False])
def test_a_file_that_is_wrong_on_the_server_is_refused(tmp_path: Path, ranges: bool, chunks: bool) -> None:
    server = ModelServer({"m.gguf": BIG}, ranges=ranges, alter=flip(500_000, times=1000))
    with pytest.raises(InvalidModel) as caught:
        install(tmp_path, server, lambda url: manifest_of(BIG, url + "m.gguf", chunks=chunks))
    assert caught.value.details["reason"] == "hash_mismatch"
    assert run(store_in(tmp_path).list()) == []


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("dated", [True, False])
def test_two_versions_never_mix_even_where_if_range_is_ignored(tmp_path: Path, if_range: bool, dated: bool) -> None:
    other = model_bytes(1_000_064 if dated else 1_000_000, seed=2)
    server = ModelServer({"m.gguf": BIG}, if_range=if_range, etags=not dated, dates=dated, pace=0.002)
    replace_under_way(server, other)
    install(tmp_path, server, small_chunks, parallel=2)
    assert content(tmp_path) == other


def test_a_server_that_sends_empty_ranges_is_given_up(tmp_path: Path) -> None:
    server = ModelServer({"m.gguf": BIG}, lengths=False, alter=lambda name, offset, data: b"" if offset else data)
    with pytest.raises(RemoteUnavailable) as caught:
        install(tmp_path, server, lambda url: manifest_of(BIG, url + "m.gguf"), parallel=1)
    assert caught.value.details["reason"] == "cut"
    assert len(server.requests) == 1 + 1 + QUICK.retries


def test_a_file_that_never_holds_still_is_given_up(tmp_path: Path) -> None:
    server = ModelServer({"m.gguf": BIG})

    def spin(name: str, offset: int, data: bytes) -> bytes:
        server.files["m.gguf"] = BIG[:-4] + random.randbytes(4)
        return data

    server.alter = spin
    with pytest.raises(RemoteUnavailable) as caught:
        install(tmp_path, server, small_chunks, parallel=1)
    assert caught.value.details["reason"] == "changed"


@pytest.mark.parametrize(
    "content_range",
    [
        lambda start, end, size: f"bytes {start + 1}-{end}/{size}",
        lambda start, end, size: f"bytes 0-{size - 1}/{size}" if start else f"bytes {start}-{end - 1}/{size}",
        lambda start, end, size: "bytes -5/3",
    ],
)
def test_a_range_that_was_not_asked_for_is_refused(tmp_path: Path, content_range: Any) -> None:
    with pytest.raises(RemoteUnavailable) as caught:
        install(tmp_path, ModelServer({"m.gguf": BIG}, content_range=content_range), small_chunks)
    assert caught.value.details["reason"] == "range"


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"<html>Not here</html>", "not_gguf"), (b"", "truncated"), (BIG[:200_000], "truncated"), (b"GGUF", "truncated")],
)
def test_what_is_no_model_is_refused_and_leaves_nothing(tmp_path: Path, data: bytes, reason: str) -> None:
    for ranges in (True, False):
        with pytest.raises(InvalidModel) as caught:
            install(tmp_path, ModelServer({"m.gguf": data}, ranges=ranges), small_chunks)
        assert caught.value.details["reason"] == reason
        assert not list(tmp_path.glob("models/*/data/*"))


def test_a_bad_header_ends_a_download_early(tmp_path: Path) -> None:
    server = ModelServer({"m.gguf": b"GGUF" + bytes(4_000_000)}, pace=0.01)
    with pytest.raises(InvalidModel):
        install(tmp_path, server, small_chunks, parallel=2)
    assert server.sent < 1_500_000


def test_a_projector_alone_is_not_installed_as_a_model(tmp_path: Path) -> None:
    data = (Path(__file__).parent / "models" / "mmproj-tiny-f16.gguf").read_bytes()
    with pytest.raises(UnsupportedModel):
        install(tmp_path, ModelServer({"m.gguf": data}), small_chunks)


@pytest.mark.parametrize("known", ["nothing", "hashes"])
def test_a_download_that_is_killed_anywhere_goes_on_from_there(tmp_path: Path, known: str) -> None:
    """20 attempts of random length; each ends without any clean-up of its own."""
    rng = random.Random(7)
    chunk = 256 << 10
    big = model_bytes(6_000_000)
    server = ModelServer({"m.gguf": big}, piece=8 << 10, pace=0.0005)

    async def main() -> None:
        async with server.running():
            file = ModelFile("m.gguf", None, server.url + "m.gguf")
            if known == "hashes":
                hashes = tuple(hashlib.sha256(big[i : i + chunk]).hexdigest() for i in range(0, len(big), chunk))
                file = dataclasses.replace(file, size=len(big), chunks=hashes)
            manifest = Manifest("m", "M", (file,), chunk)
            kills = 0
            while True:
                before = server.sent
                task = asyncio.ensure_future(store_in(tmp_path, parallel=2).add(manifest))
                limit = rng.randint(1, 800_000) if kills < 20 else 1 << 40
                await until(lambda: task.done() or server.sent - before >= limit)  # noqa: B023 (called at once)
                if task.done():
                    await task
                    break
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                kills += 1
                assert await store_in(tmp_path).list() == []
                tear(tmp_path, rng)
            assert kills >= 5
            # Each kill may lose the two blocks in flight; the tear may cost one more.
            assert server.sent <= len(big) + kills * 4 * chunk

    run(main())
    assert content(tmp_path) == big


def tear(folder: Path, rng: random.Random) -> None:
    """What a power cut does on top of a kill: the end of the journal is half written."""
    for journal in folder.glob("models/*/journal"):
        data = journal.read_bytes()
        journal.write_bytes(data[: max(0, len(data) - rng.randint(0, 80))])


def test_what_is_verified_is_not_fetched_again(tmp_path: Path) -> None:
    server = ModelServer({"m.gguf": BIG}, cut_after=[4 * CHUNK, *[0] * 200])
    with pytest.raises(RemoteUnavailable):
        install(tmp_path, server, lambda url: manifest_of(BIG, url + "m.gguf"), parallel=1)
    assert server.sent == 4 * CHUNK
    server.cut_after = []

    async def again() -> None:
        async with server.running():
            # Another port is another address; by its hashes it is still the same model.
            await store_in(tmp_path).add(manifest_of(BIG, server.url + "m.gguf"))

    run(again())
    assert server.sent == len(BIG)
    assert content(tmp_path) == BIG


@pytest.mark.parametrize("ranges", [True, False])
def test_a_byte_flipped_on_disk_between_two_attempts_is_found(tmp_path: Path, ranges: bool) -> None:
    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, ranges=ranges, cut_after=list(FIVE_CHUNKS))
        async with server.running():
            if not ranges:
                server.cut_after = [400_000] + [0] * 200
            with pytest.raises(RemoteUnavailable):
                await store_in(tmp_path, parallel=1).add(small_chunks(server.url))
            server.cut_after = []
            flip_on_disk(tmp_path, 200_000)
            await store_in(tmp_path).add(small_chunks(server.url))

    run(main())
    assert content(tmp_path) == BIG


STRAYS: dict[str, Callable[[], web.Response]] = {
    "a portal's page": lambda: web.Response(text="<html>Log in</html>", content_type="text/html"),
    "an empty answer": lambda: web.Response(),
    "a bare 416": lambda: web.Response(status=416),
    "a 416 of the right size": lambda: web.Response(status=416, headers={"Content-Range": f"bytes */{len(BIG)}"}),
    "a range of no version": lambda: web.Response(
        status=206, body=bytes(10), headers={"Content-Range": f"bytes 131072-131081/{len(BIG)}"}
    ),
}


@pytest.mark.parametrize("kind", STRAYS)
def test_a_stray_answer_costs_nothing_of_what_is_here(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, cut_after=list(FIVE_CHUNKS))
        async with server.running():
            with pytest.raises(RemoteUnavailable):
                await store_in(tmp_path, parallel=1).add(small_chunks(server.url))
            here = server.sent
            assert here > 300_000
            server.cut_after, server.strays = [], [STRAYS[kind](), STRAYS[kind]()]
            await store_in(tmp_path).add(small_chunks(server.url))
            assert not server.strays and server.sent == len(BIG)

    run(main())
    assert content(tmp_path) == BIG


def test_what_only_claims_to_be_large_is_refused_at_once(tmp_path: Path) -> None:
    for claim in (10**17, 10**13):
        server = ModelServer({"m.gguf": BIG}, content_range=lambda start, end, size: f"bytes {start}-{end - 1}/{claim}")  # noqa: B023
        with pytest.raises((RemoteError, StorageError)):
            install(tmp_path, server, small_chunks)
        assert server.sent <= CHUNK


def test_ranges_of_two_versions_that_nothing_tells_apart_never_mix(tmp_path: Path) -> None:
    other = model_bytes(1_000_000, seed=5)
    server = ModelServer({"m.gguf": BIG}, etags=False, pace=0.002)
    replace_under_way(server, other)
    install(tmp_path, server, small_chunks, parallel=4)
    assert content(tmp_path) in (BIG, other)


def test_a_new_version_between_two_attempts_starts_anew(tmp_path: Path) -> None:
    other = model_bytes(1_000_000, seed=5)

    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, cut_after=list(FIVE_CHUNKS))
        async with server.running():
            with pytest.raises(RemoteUnavailable):
                await store_in(tmp_path, parallel=1).add(small_chunks(server.url))
            server.cut_after, server.files["m.gguf"] = [], other
            await store_in(tmp_path).add(small_chunks(server.url))

    run(main())
    assert content(tmp_path) == other


def test_without_validator_and_hash_nothing_old_is_trusted(tmp_path: Path) -> None:
    other = model_bytes(1_000_000, seed=5)

    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, etags=False, cut_after=list(FIVE_CHUNKS))
        async with server.running():
            with pytest.raises(RemoteUnavailable):
                await store_in(tmp_path, parallel=1).add(small_chunks(server.url))
            server.cut_after, server.files["m.gguf"] = [], other
            await store_in(tmp_path).add(small_chunks(server.url))

    run(main())
    assert content(tmp_path) == other


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"\0" * 100, b'{"version": 1, "files": [1]}'])
def test_a_damaged_note_of_an_attempt_is_no_harm(tmp_path: Path, junk: bytes) -> None:
    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, cut_after=list(FIVE_CHUNKS))
        async with server.running():
            with pytest.raises(RemoteUnavailable):
                await store_in(tmp_path, parallel=1).add(small_chunks(server.url))
            server.cut_after = []
            overwrite(tmp_path, "begun.json", junk)
            await store_in(tmp_path).add(small_chunks(server.url))

    run(main())
    assert content(tmp_path) == BIG


def test_what_comes_behind_the_end_that_the_manifest_tells_is_another_version(tmp_path: Path) -> None:
    server = ModelServer({"m.gguf": BIG + bytes(4 * CHUNK)}, ranges=False, lengths=False)
    with pytest.raises(RemoteUnavailable, match="another version"):
        install(tmp_path, server, lambda url: manifest_of(BIG, url + "m.gguf"))


def test_a_download_can_be_paused_and_resumed(tmp_path: Path) -> None:
    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, pace=0.005, piece=16 << 10)
        async with server.running():
            run = store_in(tmp_path).install(manifest_of(BIG, server.url + "m.gguf"))
            await until(lambda: server.sent >= 200_000)
            run.pause()
            await asyncio.sleep(0.2)
            sent, status = server.sent, run.status
            await asyncio.sleep(0.3)
            assert (server.sent, status.text, status.waiting) == (sent, "Paused.", True)
            assert sent < len(BIG)
            run.resume()
            await run
            assert not run.status.waiting
            assert server.sent <= len(BIG) + 8 * (64 << 10)

    run(main())
    assert content(tmp_path) == BIG


def test_a_cancelled_download_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, pace=0.002, piece=16 << 10)
        async with server.running():
            manifest = manifest_of(BIG, server.url + "m.gguf")
            run = store_in(tmp_path).install(manifest)
            await until(lambda: server.sent >= 500_000)
            run.cancel()
            with pytest.raises(Cancelled):
                await run
            sent = server.sent
            await asyncio.sleep(0.1)
            assert server.sent <= sent + 4 * (64 << 10)
            store = store_in(tmp_path)
            assert sum((await store.storage()).unfinished.values()) > 0
            before = server.sent
            await store.add(manifest)
            assert server.sent - before < len(BIG) - 100_000

    run(main())


def test_progress_never_lies(tmp_path: Path) -> None:
    async def main() -> None:
        server = ModelServer({"m.gguf": BIG}, pace=0.01, cut_after=[70_000, 9000, 1 << 30, 5], piece=16 << 10)
        seen: list[Status] = []
        async with server.running():
            await store_in(tmp_path).add(small_chunks(server.url), on_progress=seen.append)
        states = [status.state for status in seen]
        assert states[0] == "checking" and states[-1] == "ready"
        assert states == sorted(states, key=["checking", "downloading", "ready"].index)
        loading = [status for status in seen if status.state == "downloading"]
        assert loading and all(0 <= status.bytes <= len(BIG) for status in loading)
        assert any(status.total == len(BIG) for status in loading)
        assert all(status.rate is None or status.rate >= 0 for status in loading)
        assert (seen[-1].bytes, seen[-1].total) == (len(BIG), len(BIG))

    run(main())


def test_an_error_is_the_last_status(tmp_path: Path) -> None:
    seen: list[Status] = []

    async def main() -> None:
        async with ModelServer().running() as server:
            with pytest.raises(ModelNotFound):
                await store_in(tmp_path).add(server.url + "none.gguf", on_progress=seen.append)

    run(main())
    assert seen[-1].state == "error" and "none.gguf" in seen[-1].text


def test_a_full_disk_is_told_before_the_download_begins(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG}, pace=0.01, piece=16 << 10).running() as server:
            store = ModelStore(FolderStorage(tmp_path, quota=500_000), Http1Client(), options=QUICK)
            with pytest.raises(StorageError) as caught:
                await store.add(manifest_of(BIG, server.url + "m.gguf"))
            assert caught.value.details["reason"] == "full"
            assert caught.value.details["needed"] == len(BIG)
            assert server.sent == 0
            with pytest.raises(StorageError) as caught:  # its size is learnt from the first answer
                await store.add(server.url + "m.gguf")
            assert caught.value.details["needed"] == len(BIG)
            assert server.sent < len(BIG) // 2

    run(main())


def test_room_is_made_for_a_model_whose_size_is_learnt_on_the_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with ModelServer({"m.gguf": BIG, "other.gguf": BIG}).running() as server:
            store = ModelStore(FolderStorage(tmp_path, quota=1_500_000), Http1Client(), options=QUICK)
            await store.add(server.url + "other.gguf")
            await store.install(server.url + "m.gguf", evict=True)
            assert [model.id for model in await store.list()] == ["m"]

    run(main())
