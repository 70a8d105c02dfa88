"""The memory plan, held against what the WebAssembly engine really takes."""

from __future__ import annotations

from typing import Any

import pytest
from hosting import Serve
from page_fixtures import BOOT
from playwright.sync_api import Page
from tab import SMOLLM2, TINY, Tab, TabError

# Python in the page's own thread, which can ask the engine what its memory is; the engine is in a worker as ever.
MEASURE = """async (argument) => {
  globalThis.python ??= await (await import("/static/js/runtime.mjs")).loadPython();
  globalThis.python.globals.set("ARGUMENT", JSON.stringify(argument));
  return JSON.parse(await globalThis.python.runPythonAsync(`
import json
from sippet import LocalModel, SippClient

argument = json.loads(ARGUMENT)

async def measure():
    async with SippClient(engine="sippet", wasm_threading="single-thread") as client:
        estimate = await client.models.estimate(argument["source"], context=argument["context"])
        await client.add("model", LocalModel(argument["source"], runtime={"context": argument["context"]}))
        await client.query("word " * 20, max_tokens=4)
        taken = await client._endpoints["model"].engine.memory_bytes()
        return {"taken": taken, "planned": estimate.memory.to_dict()}

json.dumps(await measure())
`));
}"""


@pytest.mark.parametrize(
    ("source", "context"),
    [
        (TINY, {"n_ctx": 256}),
        (TINY, {"n_ctx": 512}),
        (TINY, {"n_ctx": 8192}),
        (SMOLLM2, {"n_ctx": 512}),
        (SMOLLM2, {"n_ctx": 4096}),
        (SMOLLM2, {"n_ctx": 8192}),
        (SMOLLM2, {"n_ctx": 4096, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}),
        (SMOLLM2, {"n_ctx": 4096, "n_ubatch": 512, "n_batch": 512}),
        (SMOLLM2, {"n_ctx": 4096, "n_parallel": 4}),
    ],
)
def test_the_plan_is_what_the_engine_takes(page: Page, serve: Serve, source: str, context: dict[str, Any]) -> None:
    page.set_default_timeout(BOOT)
    page.goto(serve().url)
    found = page.evaluate(MEASURE, {"source": source, "context": context})
    assert found["planned"]["total"] == pytest.approx(found["taken"], rel=0.1), found


TWICE = """async (source) => {
  const python = await (await import("/static/js/runtime.mjs")).loadPython();
  python.globals.set("SOURCE", source);
  return JSON.parse(await python.runPythonAsync(`
import asyncio, dataclasses, json
from sippet import LocalModel, ModelTooLarge, SippClient, platform

async def twice():
    place = platform.current()
    model = LocalModel(SOURCE, runtime={"context": {"n_ctx": 256}})
    async with SippClient(engine="sippet", wasm_threading="single-thread") as client:
        await client.add("first", model)
        memory = client._endpoints["first"].engine.memory
        # A device that has room for one such model and a half.
        place._environment = dataclasses.replace(place._environment, device_memory=3 * memory)
        found = {"fits_alone": memory > 0}
        try:
            await client.add("second", model)
        except ModelTooLarge as error:
            found |= {"code": error.code, "message": error.message}
        await client.add("first", model)
        found["fits_instead"] = [ref.id for ref in client.endpoints] == ["first"]
        await client.remove("first")
        both = await asyncio.gather(client.add("one", model), client.add("other", model), return_exceptions=True)
        found["at_once"] = sorted(type(result).__name__ for result in both)
        return found

json.dumps(await twice())
`));
}"""

TOO_LONG = {"n_ctx": 4_000_000}


def test_a_model_at_an_address_that_does_not_fit_is_refused_before_it_is_fetched(tab: Tab) -> None:
    refused = tab.run(
        """const states = new Set();
           const client = new sippet.SippClient({wasmThreading: "single-thread"});
           await client.ready;
           const descriptor = {source: argument.source, runtime: {context: argument.context}};
           const code = await client.add("it", {...descriptor, onProgress: ({state}) => states.add(state)})
             .then(() => null, ({code}) => code);
           await client.close();
           return {code, states: [...states]};""",
        {"source": SMOLLM2, "context": {"nCtx": TOO_LONG["n_ctx"]}},
    )
    assert refused == {"code": "model_too_large", "states": ["checking", "error"]}


def test_the_memory_of_a_loaded_model_is_not_there_for_the_next_one(page: Page, serve: Serve) -> None:
    page.set_default_timeout(BOOT)
    page.goto(serve().url)
    found = page.evaluate(TWICE, TINY)
    assert found["fits_alone"]
    assert found["code"] == "model_too_large"
    assert "beside models that take" in found["message"]
    assert found["fits_instead"], "what the new one replaces makes room for it"
    assert found["at_once"] == ["EndpointRef", "ModelTooLarge"], "a model that is still loading counts already"


def test_a_context_that_does_not_fit_is_refused_with_the_largest_that_does(tab: Tab) -> None:
    with pytest.raises(TabError) as caught:
        tab.generate("Say", source=TINY, descriptor={"runtime": {"context": {"nCtx": TOO_LONG["n_ctx"]}}})
    assert caught.value.code == "model_too_large"
    assert 512 < caught.value.details["max_n_ctx"] < TOO_LONG["n_ctx"]
    assert str(caught.value.details["max_n_ctx"]) in caught.value.hint
    assert caught.value.details["needs"] > caught.value.details["has"]


def test_a_page_can_ask_for_the_plan_before_it_fetches_anything(tab: Tab) -> None:
    fits, too_long = tab.run(
        """const client = new sippet.SippClient();
        try {
          const {models} = client;
          const plans = await Promise.all([{}, {context: {nCtx: 4_000_000}}].map(
            async (options) => (await models.estimate(argument, options)).memory));
          return plans;
        } finally {
          await client.close();
        }""",
        TINY,
    )
    assert (fits["verdict"], fits["nCtx"], fits["maxNCtx"]) == ("fits", 512, 512)
    assert too_long["verdict"] == "fits_smaller"
    assert too_long["total"] > too_long["limit"]["nbytes"]
    assert "Fits with a context of at most" in too_long["text"]


# A browser that is short of addresses. A worker has a WebAssembly of its own, so Python runs in the page's thread here.
SHORT_OF_ADDRESSES = """
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(descriptor) {
    if (descriptor.maximum > 8192) throw new RangeError("could not allocate memory");
    super(descriptor);
  }
};
"""


def test_the_plan_goes_by_the_memory_that_the_browser_gives(page: Page, serve: Serve) -> None:
    page.add_init_script(SHORT_OF_ADDRESSES)
    tab = Tab(page, serve().url)
    given, memory = tab.run(
        """
        const client = new sippet.SippClient({executionMode: "main-thread"});
        const {wasmMemory} = await client.ready;
        const context = {nCtx: 8192, cacheTypeK: "f32", cacheTypeV: "f32", nBatch: 2048, nUbatch: 2048};
        const {memory} = await client.models.estimate(argument, {context});
        await client.close();
        return [wasmMemory, memory];
        """,
        SMOLLM2,
    )
    assert given == memory["limit"]["nbytes"] == 512 << 20
    assert memory["verdict"] == "fits_smaller"
    assert "the memory that this browser gives WebAssembly leaves 537 MB" in memory["text"]
