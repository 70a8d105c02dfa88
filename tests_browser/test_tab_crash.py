"""An engine that dies in a tab: whoever waits for it hears of it, and the next one that is loaded works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosting import Serve, copy_assets
from playwright.sync_api import Browser, Page
from python_tab import WORKER, PythonTab, Refused
from tab import TINY, Tab

HERE = Path(__file__).parent
BUILD = "/static/engine/sippet-single-simd128.wasm"
THREADED = "/static/engine/sippet-pthread-simd128.wasm"
SCRIPTS = (HERE / "failing_engine.mjs", HERE / "failing_thread.mjs", WORKER)


@pytest.fixture(scope="module")
def site(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A host that also has the failing engine, and Python in a worker."""
    static = copy_assets(tmp_path_factory.mktemp("static"), *SCRIPTS)
    return serve(static_dir=static).url


@pytest.mark.parametrize(("how", "says"), [("trap", "unreachable"), ("error", "a fault of the worker")])
def test_a_dead_engine_is_an_error_to_all_who_wait_and_another_can_be_loaded(
    page: Page, site: str, how: str, says: str
) -> None:
    found = Tab(page, site).run(
        """const client = new sippet.SippClient({
             wasmThreading: "single-thread",
             moduleUrl: `/static/js/failing_engine.mjs#${argument.how}`, wasmUrl: argument.build,
           });
           const failed = [];
           client.subscribe(({type, error}) => type === "request_failed" && failed.push(error.code));
           const runtime = {context: {nParallel: 2}};
           await client.add("it", {source: argument.source, runtime});
           const ask = () => client.query("One", {maxTokens: 200, ignoreEos: true, emitTokens: true});
           const codes = await Promise.all([ask(), ask(), ask()].map((run) => run.then(() => null, (error) => error)));
           const later = await ask().then(() => null, ({code}) => code);
           await client.remove("it");
           const other = new sippet.SippClient({wasmThreading: "single-thread"});
           await other.add("it", {source: argument.source});
           const {finishReason} = await other.query("One", {maxTokens: 2});
           await client.close();
           await other.close();
           return {
             codes: codes.map((error) => error?.code), message: codes[0]?.message, failed, later, finishReason,
           };""",
        {"how": how, "build": BUILD, "source": TINY},
    )
    assert found["codes"] == ["engine_crashed"] * 3
    assert says in found["message"]
    assert found["failed"] == ["engine_crashed"] * 4
    assert found["later"] == "engine_crashed"
    assert found["finishReason"] == "length"


def test_a_thread_that_dies_ends_the_engine_instead_of_being_waited_for(page: Page, site: str) -> None:
    found = Tab(page, site).run(
        """const client = new sippet.SippClient({
             wasmThreading: "pthread",
             moduleUrl: "/static/js/failing_engine.mjs#thread", wasmUrl: argument.build,
           });
           const {code, message} = await client.add("it", {source: argument.source})
             .then(() => client.query("One", {maxTokens: 200}))
             .catch((error) => error);
           await client.close();
           return {code, message};""",
        {"build": THREADED, "source": TINY},
    )
    assert found["code"] == "engine_crashed"
    assert "a thread of the engine ended" in found["message"]


@pytest.fixture
def python(browser: Browser, site: str) -> Iterator[PythonTab]:
    page = browser.new_page()
    yield PythonTab(page, site)
    page.close()


def test_an_engine_that_ends_without_a_word_is_given_up_and_replaced(python: PythonTab) -> None:
    python.run(
        """
        from sippet import LocalModel, SippClient
        from sippet.engines import _host

        global client, model
        _host.TICK = 0.5  # ten minutes are too long for a test
        client, model = SippClient(wasm_threading="single-thread"), LocalModel(argument)
        await client.add("it", model)
        """,
        TINY,
    )
    with pytest.raises(Refused) as gone:
        python.run(
            """
            run = client.query("One", max_tokens=400, ignore_eos=True, emit_tokens=True)
            await anext(aiter(run.tokens))
            client._endpoints["it"].engine._line._port._port.terminate()
            await run
            """
        )
    assert gone.value.code == "engine_crashed"
    reason = python.run(
        """
        await client.add("it", model)
        result = await client.query("One", max_tokens=2)
        await client.close()
        return result.finish_reason
        """
    )
    assert reason == "length"


def test_python_that_dies_is_an_error_to_all_who_wait(
    page: Page, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    static = copy_assets(tmp_path_factory.mktemp("static"))
    runtime = static / "js" / "runtime.mjs"
    hand_over = "receive = (message) => serve(message);"
    dies = 'python._api.fatal_error(new RangeError("Maximum call stack size exceeded"))'
    code = runtime.read_text()
    assert hand_over in code
    runtime.unlink()  # it may be a link to the real one
    runtime.write_text(code.replace(hand_over, f'receive = (m) => (m.method === "detokenize" ? {dies} : serve(m));'))
    found = Tab(page, serve(static_dir=static).url).run(
        """const client = new sippet.SippClient({wasmThreading: "single-thread"});
           await client.add("it", {source: argument});
           const states = [];
           client.subscribe(({type, state}) => type === "state" && states.push(state));
           const waiting = client.query("One", {maxTokens: 400, ignoreEos: true}).then(() => null, (error) => error);
           const dead = client.detokenize([1]).then(() => null, ({code}) => code);
           const {code, message} = await waiting;
           const later = await client.query("One").then(() => null, ({code}) => code);
           const {state} = client;
           await client.close();
           return {code, message, states, state, dead: await dead, later};""",
        TINY,
    )
    assert "Maximum call stack" in found.pop("message")
    assert found == {
        "code": "engine_crashed",
        "states": ["failed"],
        "state": "failed",
        "dead": "engine_crashed",
        "later": "engine_crashed",
    }
