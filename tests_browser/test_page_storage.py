"""What the page says of memory and storage before and after a model is kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from page_fixtures import BOOT, OpenPage
from playwright.sync_api import expect
from sippet.models.manifest import Manifest, ModelFile
from sippet.models.registry import RegistryEntry
from sippet_host.models import ModelEntry, load_model
from sippet_host.server import Running

pytestmark = pytest.mark.slow


def test_a_listed_model_says_whether_it_fits_this_device(
    open_page: OpenPage, page_host: Callable[..., Running], tiny: ModelEntry, tmp_path: Path
) -> None:
    huge = load_model(Path(shutil.copy(tiny.files[0].path, tmp_path / "Huge.gguf")))
    huge = replace(huge, memory=9_000_000_000)
    page = open_page(page_host(models=(tiny, huge)).url)
    card = page.locator("#welcome-picker .model-card")
    expect(card.filter(has_text="tiny-chat").locator(".badge")).to_have_text("Fits this device", timeout=BOOT)
    badge = card.filter(has_text="Huge").locator(".badge")
    expect(badge).to_have_text("Too large for this device")
    assert re.fullmatch(
        r"It takes 9\.00 GB of memory with its usual context; .+ allows [\d.]+ GB\.", badge.get_attribute("title") or ""
    )


def test_a_model_of_the_hosts_registry_is_offered_like_any_other(
    open_page: OpenPage, page_host: Callable[..., Running]
) -> None:
    file = ModelFile("mine.gguf", 5_000_000, "https://models.example/mine.gguf", "0" * 64)
    entry = RegistryEntry(Manifest("mine", "Mine", (file,)), 9_000_000, "Knows what is mine.")
    page = open_page(page_host(registry={"mine": entry}, connect_sources=("https://models.example",)).url, boot=False)
    card = page.locator("#welcome-picker .model-card").filter(has_text="Mine")
    expect(card).to_contain_text("5.00 MB download")
    expect(card).to_contain_text("Knows what is mine.")
    expect(card.get_by_role("button", name="Keep Mine on this device")).to_be_visible()


def test_the_storage_panel_shows_what_is_kept_and_deletes_it(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#welcome-picker").get_by_role("button", name=re.compile("^Keep .* on this device$")).click()
    expect(page.locator("#welcome-picker .badge.kept")).to_have_text("On this device", timeout=BOOT)
    page.locator("#model-button").click()
    panel = page.get_by_role("region", name="Kept on this device")
    expect(panel.get_by_role("listitem")).to_have_text(re.compile(r"tiny-chat-f16\s*3\.18 MB"))
    expect(panel).to_contain_text(
        re.compile(r"This page takes [\d.]+ MB on this device, [\d.]+ [GT]B are free for more\.")
    )
    expect(panel).to_contain_text("The browser may delete them when the device runs low on space")
    panel.get_by_role("button", name="Ask it to keep them").click()
    expect(panel).to_contain_text(re.compile("The browser declined|The browser keeps them until you delete them"))
    panel.get_by_role("button", name="Delete tiny-chat-f16 from this device").click()
    expect(page.locator("#welcome-picker .badge.kept")).to_have_count(0, timeout=BOOT)


def test_what_an_unfinished_download_left_can_be_deleted(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#welcome-picker .badge")).to_have_text("Fits this device", timeout=BOOT)
    page.evaluate("""async () => {
      let folder = await navigator.storage.getDirectory();
      for (const name of ["sippet", "models", "half-0-0", "data"]) {
        folder = await folder.getDirectoryHandle(name, {create: true});
      }
      const file = await (await folder.getFileHandle("half.gguf", {create: true})).createWritable();
      await file.write(new Uint8Array(2_000_000));
      await file.close();
    }""")
    page.locator("#model-button").click()
    panel = page.get_by_role("region", name="Kept on this device")
    expect(panel.get_by_role("listitem")).to_have_text(re.compile(r"Unfinished downloads\s*2\.00 MB"))
    panel.get_by_role("button", name="Delete unfinished downloads").click()
    expect(panel.get_by_role("listitem")).to_have_count(0)
