"""Installed models in real browsers: arrival from servers of every kind, verification, two tabs at once, pauses."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from install_fixtures import (
    ADD,
    BIG,
    CHUNK,
    HASH,
    LIST,
    VERIFY,
    Open,
    manifest,
    model_bytes,
    model_requests,
    until,
    watched,
)
from install_fixtures import kind as kind
from install_fixtures import models as models
from install_fixtures import profile as profile
from install_fixtures import site as site
from install_fixtures import tab as tab
from python_tab import START, PythonTab, Refused, Site

from model_server import flip  # isort: skip  (python_tab makes tests_py importable)


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


def test_a_body_that_goes_into_no_file_can_be_read(tab: PythonTab) -> None:
    found = tab.run(
        """
        from sippet.platform.http import default_client
        async with default_storage().downloading(default_client()) as http:
            async with http.request("GET", "/models/m.gguf", headers={"Range": "bytes=10-19"}) as response:
                return [response.status, response.headers["content-range"], list(await response.read())]
        """
    )
    assert found == [206, f"bytes 10-19/{len(BIG)}", list(BIG[10:20])]


def test_cuts_stalls_and_flipped_bytes_are_overcome(tab: PythonTab, site: Site) -> None:
    site.models.cut_after = [0, 1000, 700_000, 1 << 30, 5]
    site.models.refuse = [503, 500]
    site.models.alter = flip(5_000_000, times=1)
    assert tab.run(ADD, {"manifest": manifest()})["size"] == len(BIG)
    assert tab.run(HASH) == hashlib.sha256(BIG).hexdigest()
    statuses = [note for note in tab.notes if "Trying again" in note]
    assert statuses


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


@pytest.mark.parametrize("hashes", [True, False])
def test_what_the_server_changed_between_two_attempts_is_never_mixed(tab: PythonTab, site: Site, hashes: bool) -> None:
    part_of_it(tab, site, manifest(hashes=hashes))
    other = model_bytes(len(BIG) - 1_000, seed=2)
    site.models.files["m.gguf"] = other
    if hashes:  # it has another file than the manifest's: nothing of it may count
        with pytest.raises(Refused) as caught:
            tab.run(ADD, {"manifest": manifest()})
        assert (caught.value.code, caught.value.details["reason"]) == ("remote_unavailable", "changed")
        assert tab.run(LIST) == []
        site.models.files["m.gguf"] = BIG
        site.models.sent = 0
        tab.run(ADD, {"manifest": manifest()})
        assert site.models.sent < len(BIG) - 2 * CHUNK  # what was right before still is
    else:
        tab.run(ADD, {"manifest": manifest(hashes=False)})
    assert tab.run(HASH) == hashlib.sha256(BIG if hashes else other).hexdigest()


def test_a_byte_that_the_server_flips_between_two_attempts_is_caught(tab: PythonTab, site: Site) -> None:
    part_of_it(tab, site, manifest())
    site.models.alter = flip(len(BIG) - 5)  # its entity tag stays: only the hash can tell
    with pytest.raises(Refused) as caught:
        tab.run(ADD, {"manifest": manifest()})
    assert (caught.value.code, caught.value.details["reason"]) == ("invalid_model", "hash_mismatch")
    assert tab.run(LIST) == []
    site.models.alter = flip(len(BIG) - 5, times=1)
    tab.run(ADD, {"manifest": manifest()})
    assert tab.run(HASH) == hashlib.sha256(BIG).hexdigest()


def part_of_it(tab: PythonTab, site: Site, wanted: dict[str, Any]) -> None:
    """Install until some chunks are there, then give up as a person does who closes the tab."""
    site.models.pace, site.models.piece = 0.02, 64 << 10
    tab.begin(ADD, {"manifest": wanted, "parallel": 2})
    until(lambda: site.models.sent > 5_000_000, tab.page)
    tab.page.reload()
    tab.page.evaluate(START)
    site.models.pace = 0


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
    site.models.pace, site.models.piece = 0.5, 64 << 10  # until the second tab has seen it
    context = profile()
    one = watched(context.pages[0], site)
    two = watched(context.new_page(), site)
    one.begin(ADD, {"manifest": manifest(), "parallel": 2})
    until(lambda: site.models.sent > 500_000, one.page)
    two.begin(ADD, {"manifest": manifest(), "parallel": 2})
    until(lambda: any('"downloading"' in note and '"bytes": 0' not in note for note in two.notes), two.page)
    site.models.pace = 0
    assert one.finish()["installed"] == two.finish()["installed"]
    assert site.models.sent <= 1.02 * len(BIG)
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


def test_a_download_is_paused_without_a_loss_resumed_and_cancelled(tab: PythonTab, site: Site) -> None:
    site.models.pace, site.models.piece = 0.02, 64 << 10
    body = """
        from sippet.errors import Cancelled
        counts = []
        run = ModelStore(options=DownloadOptions(parallel=2)).install(
            Manifest.from_dict(argument), on_progress=lambda status: counts.append(status.bytes)
        )

        async def reaches(count):
            while run.status.bytes < count and run.status.state != "error":
                await asyncio.sleep(0.02)

        await reaches(2_000_000)
        run.pause()
        for _ in range(50):  # until what was on its way has come
            still = run.status.bytes
            await asyncio.sleep(0.5)
            if run.status.bytes == still:
                break
        paused = [run.status.bytes == still < 10_000_000, run.status.text]
        counts.clear()
        run.resume()
        await reaches(still + 1_000_000)
        paused.append(min(counts) >= still)
        run.cancel()
        try:
            await run
        except Cancelled:
            paused.append("cancelled")
        return paused
    """
    assert tab.run(body, manifest()) == [True, "Paused.", True, "cancelled"]
    site.models.pace = 0
    sent = site.models.sent
    tab.run(ADD, {"manifest": manifest()})
    assert site.models.sent - sent <= len(BIG) - 2 * CHUNK
