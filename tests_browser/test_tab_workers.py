"""Who makes the workers of a tab: the page, because Firefox can hang for ever where a worker makes one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosting import Serve, copy_assets
from playwright.sync_api import BrowserContext, Page
from tab import TINY, Tab

HERE = Path(__file__).parent
SCRIPTS = (HERE / "many_workers.mjs", HERE / "hello_worker.mjs", HERE / "reading_worker.mjs")

# Which scripts the page started as workers, and which of those it ended.
NOTE_WORKERS = """
  const started = [], ended = [];
  const scriptOf = (url) => new URL(url, location.href).pathname.split("/").at(-1);
  globalThis.Worker = class extends Worker {
    constructor(url, options) {
      super(url, options);
      started.push(this.script = scriptOf(url));
    }
    terminate() {
      ended.push(this.script);
      super.terminate();
    }
  };
"""


@pytest.fixture
def page(visitor: BrowserContext) -> Page:
    return visitor.new_page()


@pytest.mark.parametrize("engine", ["sippet", "wllama"])
def test_the_page_makes_all_workers_and_ends_them(page: Page, serve: Serve, engine: str) -> None:
    found = Tab(page, serve().url).run(
        NOTE_WORKERS
        + """const client = new sippet.SippClient({engine: argument.engine, wasmThreading: "pthread"});
             const runtime = {context: {nThreads: 2}};
             const {info} = await client.add("it", {source: argument.source, runtime});
             const {text} = await client.query("One", {maxTokens: 3, temperature: 0});
             const running = [...started];
             await client.remove("it");
             // The page hears of it by a way of its own, a moment later.
             while (ended.length < running.length - 1) await new Promise((resolve) => setTimeout(resolve, 10));
             const afterRemove = [...ended];
             await client.close();
             return {threads: info.threads, text, running, afterRemove, ended};""",
        {"source": TINY, "engine": engine},
    )
    thread = "sippet_thread.mjs" if engine == "sippet" else "wllama.pthread.js"
    assert found["threads"] == 2 and found["text"]
    assert found["running"][:2] == ["runtime_worker.mjs", "engine_worker.mjs"]
    assert set(found["running"][2:]) == {thread}
    assert set(found["afterRemove"]) == {"engine_worker.mjs", thread}
    assert sorted(found["ended"]) == sorted(found["running"])


def test_workers_start_while_the_page_is_busy(page: Page, serve: Serve, tmp_path: Path) -> None:
    static = copy_assets(tmp_path, *SCRIPTS)
    # Of workers that a worker makes itself Firefox hangs at one of the first 60 here, each time.
    started = Tab(page, serve(static_dir=static).url).run(
        """const {makeWorker} = await import("/static/js/workers.mjs");
           const spin = setInterval(() => { for (const end = performance.now() + 20; performance.now() < end;); }, 22);
           const worker = makeWorker("/static/js/many_workers.mjs", {type: "module"}, {isOurs: true});
           const started = await new Promise((resolve) => {
             let last = 0;
             const stuck = () => resolve(last);
             let timer = setTimeout(stuck, 60_000);
             worker.onmessage = ({data}) => {
               clearTimeout(timer);
               timer = setTimeout(stuck, 60_000);
               if ((last = data) === argument) resolve(last);
             };
             worker.postMessage({count: argument});
           });
           clearInterval(spin);
           worker.terminate();
           return started;""",
        150,
    )
    assert started == 150


def test_a_worker_reads_anywhere_in_what_another_one_holds_in_memory(page: Page, serve: Serve, tmp_path: Path) -> None:
    static = copy_assets(tmp_path, *SCRIPTS)
    # Through a port it comes without its further parts in Firefox: reading them waits for ever, each time.
    found = Tab(page, serve(static_dir=static).url).run(
        """const {makeWorker} = await import("/static/js/workers.mjs");
           const worker = makeWorker("/static/js/reading_worker.mjs", {type: "module"}, {isOurs: true});
           const found = [];
           await new Promise((resolve) => {
             setTimeout(resolve, 60_000);
             worker.onmessage = ({data}) => (data === "done" ? resolve() : found.push(data));
             worker.postMessage({size: argument});
           });
           worker.terminate();
           return found;""",
        20_000_000,
    )
    assert found == [[19_999_990, 10], [0, 10], [10_000_000, 10]]
