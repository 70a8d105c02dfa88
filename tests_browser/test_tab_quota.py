"""Where a browser keeps little, nothing, or not for long: full disks, private windows, storage that may be evicted."""

from __future__ import annotations

import pytest
from install_fixtures import ADD, LIST, Open, manifest, model_bytes, model_requests, watched
from install_fixtures import kind as kind
from install_fixtures import models as models
from install_fixtures import profile as profile
from install_fixtures import site as site
from install_fixtures import tab as tab
from playwright.sync_api import Browser
from python_tab import PythonTab, Refused, Site


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


def test_a_private_window_of_chromium_keeps_a_model_but_promises_nothing(browser: Browser, site: Site) -> None:
    context = browser.new_context()  # off the record, as an incognito window is
    tab = watched(context.new_page(), site)
    assert tab.run(ADD, {"manifest": manifest()})["persisted"] is False
    assert tab.run(LIST) == ["m"]
    assert tab.run("return (await ModelStore().storage()).estimate.persisted") is False
    context.close()
    context = browser.new_context()
    assert watched(context.new_page(), site).run(LIST) == []
    context.close()


def test_a_private_window_of_firefox_refuses_with_its_reason(profile: Open, site: Site, kind: str) -> None:
    if kind == "chromium":
        pytest.skip("Chromium's private windows can store")
    tab = watched(profile(**{"browser.privatebrowsing.autostart": True}).pages[0], site)
    for body in (ADD, LIST):
        with pytest.raises(Refused) as caught:
            tab.run(body, {"manifest": manifest()})
        assert (caught.value.code, caught.value.details["reason"]) == ("storage", "denied")
        assert "private window" in caught.value.hint
    assert model_requests(site) == 0


def test_asking_for_lasting_storage_never_hangs(tab: PythonTab) -> None:
    assert tab.run("return await ModelStore().persist()") in (True, False)
    assert tab.run(ADD, {"manifest": manifest()})["persisted"] in (True, False)
