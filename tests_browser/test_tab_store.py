"""Installed models in real browsers: profiles on disk, tabs that are killed, two tabs at once, full disks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosting import CHROMIUM, FIREFOX
from playwright.sync_api import BrowserContext, Page, Playwright
from python_tab import PythonTab, Refused, Site

from gguf_builder import MODEL, T, gguf  # isort: skip  (python_tab makes tests_py importable)
from model_server import ModelServer  # isort: skip

CHUNK = 1 << 20

Open = Callable[..., BrowserContext]

ADD = """
    options = DownloadOptions(parallel=argument.get("parallel", 4), backoff=0.05)
    model = await ModelStore(options=options).add(
        Manifest.from_dict(argument["manifest"]) if "manifest" in argument else argument["url"],
        on_progress=lambda status: NOTE(json.dumps(dataclasses.asdict(status))),
    )
    return model.to_dict()
"""
LIST = "return [model.id for model in await ModelStore().list()]"
VERIFY = """
    found = await ModelStore().verify("m", repair=argument["repair"])
    return [found.chunks, found.bad, found.repaired]
"""
HASH = """
    import hashlib
    (source,), _ = await ModelStore().open("m")
    whole = hashlib.sha256()
    for offset in range(0, source.size, 1 << 20):
        whole.update(await source.read(offset, 1 << 20))
    return whole.hexdigest()
"""


def model_bytes(size: int, seed: int = 1) -> bytes:
    """A sound GGUF file of about this size, with weights that don't compress."""
    data = gguf(MODEL, [T("token_embd.weight", (64, size // 128), 1)])
    head = len(data) - size // 128 * 128
    return data[:head] + random.Random(seed).randbytes(len(data) - head)


BIG = model_bytes(12_000_000)


def manifest(data: bytes = BIG, *, hashes: bool = True) -> dict[str, Any]:
    chunks = [hashlib.sha256(data[i : i + CHUNK]).hexdigest() for i in range(0, len(data), CHUNK)]
    file: dict[str, Any] = {"name": "m.gguf", "url": "/models/m.gguf"}
    if hashes:
        file |= {"size": len(data), "chunks": chunks}
    return {"id": "m", "name": "M", "chunk_size": CHUNK, "files": [file]}


@pytest.fixture
def models() -> ModelServer:
    return ModelServer({"m.gguf": BIG})


@pytest.fixture
def site(models: ModelServer) -> Iterator[Site]:
    with Site(models).running() as running:
        yield running


@pytest.fixture(params=["chromium", "firefox"])
def kind(request: pytest.FixtureRequest) -> str:
    if not (CHROMIUM if request.param == "chromium" else FIREFOX):
        pytest.skip(f"no {request.param} on this machine")
    return str(request.param)


@pytest.fixture
def profile(kind: str, playwright: Playwright, tmp_path: Path) -> Iterator[Open]:
    """Open a browser on one profile, as often as wanted; storage in such a profile is on disk, as a user's is."""
    opened: list[BrowserContext] = []

    def open_profile(**prefs: Any) -> BrowserContext:
        if kind == "chromium":
            context = playwright.chromium.launch_persistent_context(tmp_path / "profile", executable_path=CHROMIUM)
        else:
            context = playwright.firefox.launch_persistent_context(
                tmp_path / "profile", channel="moz-firefox", executable_path=FIREFOX, firefox_user_prefs=prefs
            )
        opened.append(context)
        return context

    yield open_profile
    for context in opened:
        with contextlib.suppress(Exception):  # it may have been killed
            context.close()


@pytest.fixture
def tab(profile: Open, site: Site) -> Iterator[PythonTab]:
    yield watched(profile().pages[0], site)


def watched(page: Page, site: Site) -> PythonTab:
    """A tab whose console must stay free of policy violations."""
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if "Content" in message.text else None)
    tab = PythonTab(page, site)
    assert not complaints
    return tab


def model_requests(site: Site) -> int:
    return sum(path.startswith("/models/") for path in site.requests)


def until(condition: Callable[[], bool], page: Page | None = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        if page is not None:
            page.wait_for_timeout(5)
        else:
            time.sleep(0.002)


def test_an_installed_model_survives_a_restart_and_needs_no_request(profile: Open, site: Site, kind: str) -> None:
    context = profile()
    tab = watched(context.pages[0], site)
    model = tab.run(ADD, {"manifest": manifest()})
    assert (model["id"], model["size"], model["architecture"]) == ("m", len(BIG), "llama")
    assert site.models.sent == len(BIG)
    context.close()
    before = model_requests(site)
    tab = watched(profile().pages[0], site)
    assert tab.run(LIST) == ["m"]
    assert tab.run(HASH) == hashlib.sha256(BIG).hexdigest()
    assert tab.run(ADD, {"manifest": manifest()})["installed"] == model["installed"]
    assert model_requests(site) == before


@pytest.mark.parametrize("how", ["plain", "no ranges", "no lengths", "redirect"])
def test_models_arrive_from_servers_of_every_kind(tab: PythonTab, site: Site, how: str) -> None:
    site.models.ranges = how in ("plain", "redirect")
    site.models.lengths = how != "no lengths"
    if how == "redirect":
        site.models.redirect_once = True
    assert tab.run(ADD, {"url": "/models/m.gguf"})["size"] == len(BIG)
    assert tab.run(HASH) == hashlib.sha256(BIG).hexdigest()


def test_cuts_stalls_and_flipped_bytes_are_overcome(tab: PythonTab, site: Site) -> None:
    site.models.cut_after = [0, 1000, 700_000, 1 << 30, 5]
    site.models.refuse = [503, 500]
    site.models.alter = flip(5_000_000)
    assert tab.run(ADD, {"manifest": manifest()})["size"] == len(BIG)
    assert tab.run(HASH) == hashlib.sha256(BIG).hexdigest()
    statuses = [note for note in tab.notes if "Trying again" in note]
    assert statuses


def flip(at: int) -> Callable[[str, int, bytes], bytes]:
    left = 1

    def alter(name: str, offset: int, data: bytes) -> bytes:
        nonlocal left
        if left and offset <= at < offset + len(data):
            left -= 1
            return data[: at - offset] + bytes([data[at - offset] ^ 1]) + data[at - offset + 1 :]
        return data

    return alter


def test_what_is_no_model_is_refused_and_leaves_nothing(tab: PythonTab, site: Site) -> None:
    site.models.files["page.gguf"] = b"<!doctype html><title>Sign in</title>"
    site.models.files["cut.gguf"] = BIG[:5_000_000]
    for name, reason in (("page.gguf", "not_gguf"), ("cut.gguf", "truncated")):
        with pytest.raises(Refused) as caught:
            tab.run(ADD, {"url": f"/models/{name}"})
        assert (caught.value.code, caught.value.details["reason"]) == ("invalid_model", reason)
    with pytest.raises(Refused) as caught:
        tab.run(ADD, {"url": "/models/none.gguf"})
    assert caught.value.code == "model_not_found"
    report = tab.run("report = await ModelStore().storage()\nreturn [report.models, dict(report.unfinished)]")
    assert report[0] == 0 and not any(report[1].values())


FLIP_ON_DISK = """
    storage = default_storage()
    (folder,) = await storage.entries("models")
    file = await storage.open(f"models/{folder}/data/m.gguf")
    byte = (await file.read(argument, 1))[0]
    await file.write(argument, bytes([byte ^ 4]))
    await file.close()
"""


def test_a_byte_flipped_on_disk_is_found_and_one_chunk_is_fetched(tab: PythonTab, site: Site) -> None:
    tab.run(ADD, {"url": "/models/m.gguf"})
    tab.run("await ModelStore().remove('m')")
    tab.run(ADD, {"manifest": manifest()})
    tab.run(FLIP_ON_DISK, 7_000_000)
    count = -(-len(BIG) // CHUNK)
    assert tab.run(VERIFY, {"repair": False}) == [count, [["m.gguf", 6]], False]
    sent = site.models.sent
    assert tab.run(VERIFY, {"repair": True}) == [count, [["m.gguf", 6]], True]
    assert site.models.sent - sent == CHUNK
    assert tab.run(HASH) == hashlib.sha256(BIG).hexdigest()


def test_removing_a_model_frees_its_space(tab: PythonTab) -> None:
    usage = "return (await ModelStore().storage()).estimate.usage"
    before = tab.run(usage)
    tab.run(ADD, {"manifest": manifest()})
    assert tab.run(usage) >= before + len(BIG)
    assert tab.run("return await ModelStore().remove('m')") == len(BIG)
    assert tab.run(usage) < before + 1_000_000
    assert tab.run(LIST) == []


def test_a_picked_file_is_installed_without_a_request(tab: PythonTab, site: Site) -> None:
    site.models.sent = 0
    body = """
        bytes = await (await js.fetch("/models/m.gguf")).arrayBuffer()
        file = js.File.new([bytes], "m.gguf")
        NOTE("picked")
        model = await ModelStore().add(file)
        return [model.size, (await ModelStore().verify("m")).bad]
    """
    assert tab.run(body) == [len(BIG), []]
    assert site.models.sent == len(BIG)
    assert tab.run(HASH) == hashlib.sha256(BIG).hexdigest()


def test_two_tabs_share_one_download_and_both_show_it(profile: Open, site: Site) -> None:
    site.models.pace, site.models.piece = 0.1, 128 << 10  # slow enough for the second tab to see it
    context = profile()
    one = watched(context.pages[0], site)
    two = watched(context.new_page(), site)
    one.begin(ADD, {"manifest": manifest(), "parallel": 2})
    until(lambda: site.models.sent > 1_000_000, one.page)
    two.begin(ADD, {"manifest": manifest(), "parallel": 2})
    assert one.finish()["installed"] == two.finish()["installed"]
    assert site.models.sent <= 1.02 * len(BIG)
    assert any('"bytes": 0' not in note and '"downloading"' in note for note in two.notes)
    assert two.run(LIST) == ["m"]


def test_a_tab_takes_over_when_the_one_that_downloads_is_closed(profile: Open, site: Site) -> None:
    site.models.pace, site.models.piece = 0.02, 128 << 10
    context = profile()
    one = watched(context.pages[0], site)
    two = watched(context.new_page(), site)
    one.begin(ADD, {"manifest": manifest(), "parallel": 2})
    until(lambda: site.models.sent > 2_000_000, one.page)
    two.begin(ADD, {"manifest": manifest(), "parallel": 2})
    until(lambda: bool(two.notes), two.page)
    one.page.close()
    assert two.finish()["size"] == len(BIG)
    assert two.run(HASH) == hashlib.sha256(BIG).hexdigest()
    assert site.models.sent <= len(BIG) + 3 * CHUNK


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_tab_that_is_killed_anywhere_leaves_a_download_that_goes_on(
    profile: Open, site: Site, kind: str, tmp_path: Path, kills: int
) -> None:
    rng = random.Random(kills)
    context = profile()
    page = context.pages[0]
    for _ in range(kills):
        tab = watched(page, site)
        assert tab.run(LIST) == []
        before = site.models.sent
        # Slow enough that the kill comes in the middle, and every attempt has something left to do.
        site.models.pace, site.models.piece = 0.02, 64 << 10
        tab.begin(ADD, {"manifest": manifest(), "parallel": 2})
        share = rng.randint(1, len(BIG) // (kills + 1))
        until(lambda: site.models.sent - before >= share, page)  # noqa: B023
        context, page = kill(context, page, kind, tmp_path / "profile", profile)
    site.models.pace = 0
    tab = watched(page, site)
    assert tab.run(LIST) == []
    tab.run(ADD, {"manifest": manifest()})
    assert tab.run(HASH) == hashlib.sha256(BIG).hexdigest()
    # A kill costs what was in flight and not yet noted: less than a chunk for each of the two requests, and what
    # the server had sent into a socket that nobody read.
    assert site.models.sent <= len(BIG) + kills * 2 * CHUNK


def kill(context: BrowserContext, page: Page, kind: str, folder: Path, profile: Open) -> tuple[BrowserContext, Page]:
    """End the tab's process without a warning. Firefox shares processes between tabs: there all of it ends."""
    main = browser_process(folder)
    victims = [pid for pid in descendants(main) if kind == "firefox" or b"--type=renderer" in command(pid)]
    if kind == "chromium":
        with page.expect_event("crash"):
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
        fresh = context.new_page()
        page.close()
        return context, fresh
    for pid in [main, *victims]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(Exception):
        context.close()
    for name in ("lock", ".parentlock"):
        (folder / name).unlink(missing_ok=True)
    context = profile()
    return context, context.pages[0]


def browser_process(folder: Path) -> int:
    """The browser that this test started on this profile: the first process with the folder on its command line."""
    found = [pid for pid in processes() if str(folder).encode() in command(pid)]
    return min(pid for pid in found if parent(pid) not in found)


def descendants(pid: int) -> list[int]:
    children = [other for other in processes() if parent(other) == pid]
    return [*children, *(below for child in children for below in descendants(child))]


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.parametrize("hashes", [True, False])
def test_a_full_disk_is_told_however_the_browser_reports_it(profile: Open, site: Site, kind: str, hashes: bool) -> None:
    site.models.ranges = site.models.lengths = hashes  # without a size, only writing can find out
    context = profile(**{"dom.quotaManager.temporaryStorage.fixedLimit": 5000})
    tab = watched(context.pages[0], site)
    if kind == "chromium":
        session = context.new_cdp_session(tab.page)
        session.send("Storage.overrideQuotaForOrigin", {"origin": site.url.rstrip("/"), "quotaSize": 5_000_000})
    with pytest.raises(Refused) as caught:
        tab.run(ADD, {"manifest": manifest(hashes=hashes)})
    assert (caught.value.code, caught.value.details["reason"]) == ("storage", "full")
    assert tab.run(LIST) == []
    tab.run("await ModelStore().remove('m')") if tab.run(
        "return list(await default_storage().entries('models'))"
    ) else None
    site.models.files["s.gguf"] = model_bytes(1_000_000)
    assert tab.run(ADD, {"url": "/models/s.gguf"})["id"] == "s"


def test_a_browser_without_the_private_file_system_says_why(profile: Open, site: Site, kind: str) -> None:
    if kind == "chromium":
        pytest.skip("Chromium has no switch for it")
    tab = watched(profile(**{"dom.fs.enabled": False}).pages[0], site)
    with pytest.raises(Refused) as caught:
        tab.run(ADD, {"url": "/models/m.gguf"})
    assert (caught.value.code, caught.value.details["feature"]) == ("unsupported_environment", "opfs")


def test_an_installed_model_can_be_read_while_an_engine_holds_it_open(tab: PythonTab) -> None:
    tab.run(ADD, {"manifest": manifest()})
    body = """
        (source,), _ = await ModelStore().open("m")
        held = await source.handle.createSyncAccessHandle()
        (again,), _ = await ModelStore().open("m")
        start = await again.read(0, 4)
        found = await ModelStore().verify("m", repair=False)
        held.close()
        return [start.decode(), found.bad]
    """
    assert tab.run(body) == ["GGUF", []]


def test_asking_for_lasting_storage_never_hangs(tab: PythonTab) -> None:
    assert tab.run("return await ModelStore().persist()") in (True, False)
    assert tab.run(ADD, {"manifest": manifest()})["persisted"] in (True, False)


def test_an_estimate_fetches_little(tab: PythonTab, site: Site) -> None:
    site.models.pace, site.models.piece = 0.02, 64 << 10
    body = """
        from sippet.models.plan import MemoryLimit
        found = await ModelStore().estimate("/models/m.gguf", limit=MemoryLimit(1 << 32, "it"))
        return [found.download, found.enough_storage, found.memory.verdict, found.memory.text]
    """
    download, enough, verdict, text = tab.run(body)
    assert (download, enough, verdict) == (len(BIG), True, "fits")
    assert "MB" in text
    assert site.models.sent < 4_000_000


def test_a_download_is_paused_resumed_and_cancelled(tab: PythonTab, site: Site) -> None:
    site.models.pace, site.models.piece = 0.02, 64 << 10
    body = """
        from sippet.errors import Cancelled
        run = ModelStore(options=DownloadOptions(parallel=2)).install(Manifest.from_dict(argument))
        while run.status.bytes < 2_000_000:
            await asyncio.sleep(0.02)
        run.pause()
        await asyncio.sleep(0.5)
        still = run.status.bytes
        await asyncio.sleep(0.5)
        paused = [run.status.bytes == still, run.status.text]
        run.resume()
        while run.status.bytes < 4_000_000:
            await asyncio.sleep(0.02)
        run.cancel()
        try:
            await run
        except Cancelled:
            paused.append("cancelled")
        return paused
    """
    assert tab.run(body, manifest()) == [True, "Paused.", "cancelled"]
    site.models.pace = 0
    sent = site.models.sent
    tab.run(ADD, {"manifest": manifest()})
    assert site.models.sent - sent <= len(BIG) - 2 * CHUNK
