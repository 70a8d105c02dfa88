"""Models that are cut into shards, from every kind of source, in a tab."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hosting import ROOT, Serve
from playwright.sync_api import Browser, Page
from sippet.models.split import split_model
from sippet.platform._cpython import PathSource
from sippet_host.models import ModelEntry, load_model
from tab import TINY, Tab, TabError

WHOLE = ROOT / "tests_py" / "models" / "tiny-chat-f16.gguf"

OPEN = "state.client = new sippet.SippClient({wasmThreading: 'single-thread'}); await state.client.ready;"
ANSWER = """
  await state.client.add("model", argument);
  const answer = await state.client.query("The capital of France", {temperature: 0, maxTokens: 12});
  return answer.text;
"""
ANSWER_FROM_FILES = """
  const files = argument.map(([name, text]) => new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
  await state.client.add("model", {source: files});
  const answer = await state.client.query("The capital of France", {temperature: 0, maxTokens: 12});
  return answer.text;
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    cut = split_model(PathSource(WHOLE), folder, prefix="tiny", max_bytes=600_000)
    with ThreadPoolExecutor() as thread:  # Playwright's loop runs in this one
        paths = thread.submit(asyncio.run, cut).result()
    assert len(paths) == 3
    return paths


@pytest.fixture(scope="module")
def split(shards: list[Path]) -> ModelEntry:
    return load_model(shards[0])


@pytest.fixture(scope="module")
def living(browser: Browser, serve: Serve, tiny: ModelEntry, split: ModelEntry) -> Iterator[Tab]:
    """One tab for all of these tests: every refusal must leave it usable for the next."""
    page = browser.new_page()
    tab = Tab(page, serve(models=(tiny, split)).url)
    tab.run(OPEN)
    yield tab
    page.close()


@pytest.fixture(scope="module")
def said(living: Tab) -> str:
    """What the model says when it is whole."""
    text: str = living.run(ANSWER, {"source": TINY})
    return text


def urls(split: ModelEntry) -> list[str]:
    return [file["url"] for file in split.describe()["files"]]


def picked(paths: list[Path]) -> list[list[str]]:
    return [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]


def test_a_list_of_addresses_is_one_model(living: Tab, split: ModelEntry, said: str) -> None:
    assert living.run(ANSWER, {"source": urls(split)}) == said


def test_a_list_of_picked_files_is_one_model(living: Tab, shards: list[Path], said: str) -> None:
    assert living.run(ANSWER_FROM_FILES, picked(shards)) == said


def test_shards_are_installed_from_the_first_ones_address_and_from_the_hosts_manifest(
    living: Tab, split: ModelEntry, said: str
) -> None:
    for source in (urls(split)[0], split.describe()["manifest"], "tiny"):
        model = living.run("return state.client.models.add(argument)", source)
        assert [len(model["files"]), model["size"]] == [3, split.size]
        assert living.run(ANSWER, {"source": model["id"]}) == said
        living.run("await state.client.remove('model'); await state.client.models.remove(argument)", model["id"])


@pytest.mark.parametrize(
    ("choose", "reason"),
    [(lambda all: all[:2], "shard_missing"), (lambda all: [all[0], all[2], all[1]], "shard_order")],
)
def test_shards_that_are_no_whole_model_are_refused(
    living: Tab, split: ModelEntry, shards: list[Path], said: str, choose: Callable[[list[Any]], list[Any]], reason: str
) -> None:
    for body, argument in ((ANSWER, {"source": choose(urls(split))}), (ANSWER_FROM_FILES, picked(choose(shards)))):
        with pytest.raises(TabError) as caught:
            living.run(body, argument)
        assert (caught.value.code, caught.value.details["reason"]) == ("invalid_model", reason)
        assert caught.value.hint
    assert living.run(ANSWER, {"source": TINY}) == said


def test_a_later_shard_alone_says_which_one_to_give(living: Tab, split: ModelEntry) -> None:
    with pytest.raises(TabError) as caught:
        living.run(ANSWER, {"source": urls(split)[1]})
    assert caught.value.code == "invalid_model"
    assert caught.value.details["reason"] in ("shard_order", "shard_missing")


def test_the_tab_asks_for_each_shards_header_and_then_for_the_shard(
    page: Page, serve: Serve, tiny: ModelEntry, split: ModelEntry
) -> None:
    tab = Tab(page, serve(models=(tiny, split)).url)
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    tab.run(OPEN)
    tab.run(ANSWER, {"source": urls(split)})
    shards = [tab.url.rstrip("/") + url for url in urls(split)]
    assert [url for url in asked if url.endswith(".gguf")] == [*shards, *shards]


def test_a_list_of_addresses_is_kept_where_the_program_wants_it(
    page: Page, serve: Serve, tiny: ModelEntry, split: ModelEntry, said: str
) -> None:
    tab = Tab(page, serve(models=(tiny, split)).url)
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    requests = []
    for _ in range(2):
        tab.run("state.client = new sippet.SippClient({wasmThreading: 'single-thread', browserCache: true});")
        assert tab.run(ANSWER, {"source": urls(split)}) == said
        assert len(tab.run("return state.client.models.list();")) == 1
        tab.run("await state.client.close();")
        requests.append(sum(url.endswith(".gguf") for url in asked))
        page.reload()
    assert 0 < requests[0] == requests[1]
