"""``client.models`` of a page of the real host: what it installs, how that is verified, what it runs without."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hosting import Serve, copy_assets
from playwright.sync_api import Page, Route
from python_tab import ModelServer
from sippet.models.manifest import CHUNK
from sippet.models.registry import MODELS, RegistryEntry
from sippet_host.models import ModelEntry
from tab import TINY, Tab, TabError

from model_server import in_a_thread  # isort: skip  (python_tab makes tests_py importable)

MANIFEST = "/models/tiny-chat-f16/manifest.json"
INSTALL = """
    const client = new sippet.SippClient();
    try {
      return await client.models.add(argument);
    } finally {
      await client.close();
    }
"""


def flipping(times: int) -> Callable[[Route], None]:
    """Flips a byte of the model on its way."""
    left = times

    def handle(route: Route) -> None:
        nonlocal left
        response = route.fetch()
        body = bytearray(response.body())
        if left:
            left -= 1
            body[len(body) // 2] ^= 1
        route.fulfill(response=response, body=bytes(body))

    return handle


def test_what_the_host_lists_is_installed_with_the_hash_of_every_chunk(tab: Tab, tiny: ModelEntry) -> None:
    model = tab.run(INSTALL, MANIFEST)
    data = tiny.files[0].path.read_bytes()
    assert (model["id"], model["files"][0]["sha256"]) == ("tiny-chat-f16", hashlib.sha256(data).hexdigest())
    parts = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    assert model["files"][0]["chunks"] == [hashlib.sha256(part).hexdigest() for part in parts]


def test_a_byte_flipped_between_host_and_page_is_fetched_again(tab: Tab, page: Page) -> None:
    page.context.route("**/tiny-chat-f16.gguf", flipping(1))
    assert tab.run(INSTALL, MANIFEST)["size"] == 3_179_872  # with its projector


def test_a_host_that_sends_other_bytes_than_it_promised_is_refused(tab: Tab, page: Page) -> None:
    page.context.route("**/tiny-chat-f16.gguf", flipping(1000))
    with pytest.raises(TabError) as caught:
        tab.run(INSTALL, MANIFEST)
    assert (caught.value.code, caught.value.details["reason"]) == ("invalid_model", "hash_mismatch")


def test_addresses_are_relative_to_the_page_and_not_to_the_runtimes_script(tab: Tab) -> None:
    page_base = tab.url.rstrip("/")
    assert tab.run(INSTALL, MANIFEST.lstrip("/"))["files"][0]["url"] == f"{page_base}{TINY}"
    assert tab.run(INSTALL, TINY.lstrip("/"))["files"][0]["url"] == f"{page_base}{TINY}"
    result = tab.generate("Say", source=f".{TINY}", max_tokens=1)
    assert result["usage"]["completionTokens"] == 1


def test_a_manifest_is_a_source_that_is_installed_first(tab: Tab) -> None:
    assert tab.generate("Say", source=MANIFEST, max_tokens=1)["usage"]["completionTokens"] == 1
    assert tab.run(
        """const client = new sippet.SippClient();
        const kept = await client.models.list();
        await client.close();
        return kept.map(({id}) => id)"""
    ) == ["tiny-chat-f16"]


def test_a_page_without_a_worker_for_python_keeps_models_too(tab: Tab) -> None:
    kept, text, workers = tab.run(
        """const made = [];
        globalThis.Worker = class extends Worker {
          constructor(url, options) {
            super(url, options);
            made.push(this);
            this.script = new URL(url, location.href).pathname.split("/").at(-1);
          }
          terminate() {
            super.terminate();
            made.splice(made.indexOf(this), 1);
          }
        };
        const client = new sippet.SippClient({executionMode: "main-thread", wasmThreading: "single-thread"});
        try {
          await client.models.add(argument);
          const kept = (await client.models.list()).map(({id}) => id);
          await client.add("model", {source: kept[0]});
          const {text} = await client.query("Say", {maxTokens: 2});
          return [kept, text, made.map(({script}) => script)];
        } finally {
          await client.close();
        }""",
        MANIFEST,
    )
    assert kept == ["tiny-chat-f16"] and text
    assert workers == []  # the one that stored it has ended


def test_where_the_storage_worker_is_missing_a_model_can_still_be_used(
    page: Page, serve: Serve, tmp_path: Path
) -> None:
    assets = copy_assets(tmp_path)
    (assets / "js" / "storage_worker.mjs").unlink()
    tab = Tab(page, serve(static_dir=assets).url)
    with pytest.raises(TabError) as caught:
        tab.run(INSTALL, MANIFEST)
    assert (caught.value.code, caught.value.details["feature"]) == ("unsupported_environment", "storage_worker")
    assert tab.generate("Say", source=TINY, max_tokens=1)["usage"]["completionTokens"] == 1


NAMED = """
    const client = new sippet.SippClient();
    try {
      const {models, defaultModel} = await client.models.registry();
      await client.add("model", {source: argument});
      const [kept] = await client.models.list();
      return {names: models.map(({id}) => id), defaultModel, kept};
    } finally {
      await client.close();
    }
"""


def test_what_the_host_serves_can_be_named_whatever_it_is(page: Page, serve: Serve, tiny: ModelEntry) -> None:
    tab = Tab(page, serve(models=(replace(tiny, id="mine"),)).url)
    found = tab.run(NAMED, "mine")
    assert (found["names"], found["defaultModel"], found["kept"]["id"]) == (["mine"], "mine", "mine")
    assert len(found["kept"]["files"][0]["chunks"]) == math.ceil(tiny.size / CHUNK)  # from the model's own manifest
    with pytest.raises(TabError, match=r"registered.*mine") as caught:
        tab.run(NAMED, "yours")
    assert caught.value.code == "model_not_found"


def test_what_the_hosts_registry_has_elsewhere_is_fetched_from_there(
    page: Page, serve: Serve, tiny: ModelEntry
) -> None:
    with in_a_thread(ModelServer({"tiny.gguf": tiny.files[0].path.read_bytes()}, cors=True)) as there:
        known = MODELS["tiny-chat-f16"].manifest
        # The first address is none of the page's to ask.
        file = replace(known.files[0], url="https://models.example/a.gguf", mirrors=(f"{there.url}tiny.gguf",))
        entry = RegistryEntry(replace(known, id="theirs", files=(file,), projector=None), 5, "Theirs.")
        host = serve(models=(tiny,), registry={"theirs": entry}, connect_sources=(there.url.rstrip("/"),))
        found = Tab(page, host.url).run(NAMED, "theirs")
        assert found["names"] == ["tiny-chat-f16", "theirs"]
        assert found["kept"]["files"][0]["url"] == f"{there.url}tiny.gguf"


def test_a_registered_name_brings_its_projector_from_the_host(tab: Tab) -> None:
    info = tab.run(
        """const client = new sippet.SippClient();
        try {
          return (await client.add("model", {source: "tiny-chat-f16"})).info;
        } finally {
          await client.close();
        }"""
    )
    assert info["hasVision"] is True
