"""What goes wrong says so, by code and in words, and the tab goes on."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosting import ROOT, Serve, copy_assets
from playwright.sync_api import Browser, Page
from tab import TINY, Tab, TabError

MODEL = ROOT / "tests_py" / "models" / "tiny-chat-f16.gguf"

OPEN = "state.client = new sippet.SippClient({wasmThreading: 'single-thread'}); await state.client.ready;"
ADD = "return (await state.client.add('model', {source: argument})).info.nCtx"
ADD_FILE = """
  const bytes = Uint8Array.from(atob(argument), (c) => c.charCodeAt(0));
  await state.client.add("model", {source: new File([bytes], "picked.gguf")});
"""
CHAT = "return (await state.client.chat([{role: 'user', content: 'Hello'}], {temperature: 0, maxTokens: 8})).text"


@pytest.fixture(scope="module")
def living(browser: Browser, serve: Serve) -> Iterator[Tab]:
    """One tab for all of these tests, with one client: every failure must leave it usable for the next."""
    page = browser.new_page()
    tab = Tab(page, serve().url)
    tab.run(OPEN)
    yield tab
    page.close()


def refusal(tab: Tab, body: str, argument: Any = None) -> TabError:
    with pytest.raises(TabError) as caught:
        tab.run(body, argument)
    assert caught.value.message, "an error says what happened"
    assert caught.value.hint, "an error says what to do"
    return caught.value


def lives(tab: Tab) -> None:
    """A good model still loads and answers."""
    assert tab.run(ADD, TINY) == 512
    assert tab.run(CHAT)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_request_without_a_model_names_the_way_to_add_one(tab: Tab) -> None:
    tab.run(OPEN)
    error = refusal(tab, CHAT)
    assert error.code == "endpoint_not_found"
    assert "add" in error.hint


def test_two_models_need_a_name(living: Tab) -> None:
    living.run("await state.client.add('model', {source: argument})", TINY)
    living.run("await state.client.add('other', {source: argument})", TINY)
    assert refusal(living, CHAT).code == "ambiguous_endpoint"
    living.run("await state.client.remove('other')")
    assert living.run(CHAT)


@pytest.mark.parametrize("kept", [0, 1, 3, 20, 1000, 100_000])
def test_a_truncated_file_is_refused(living: Tab, kept: int) -> None:
    error = refusal(living, ADD_FILE, text(MODEL.read_bytes()[:kept]))
    assert error.code == "invalid_model"
    assert error.details["reason"] in ("truncated", "not_gguf")
    lives(living)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + bytes(100), b"<!doctype html><title>Sign in</title>", b"GGUF" + b"\xff" * 200]
)
def test_a_file_that_is_no_model_is_refused(living: Tab, content: bytes) -> None:
    assert refusal(living, ADD_FILE, text(content)).code == "invalid_model"
    lives(living)


def test_a_model_whose_tensor_data_is_cut_is_refused_before_the_engine_sees_it(living: Tab) -> None:
    error = refusal(living, ADD_FILE, text(MODEL.read_bytes()[:-1]))
    assert (error.code, error.details["reason"]) == ("invalid_model", "truncated")


def altered_header(at: int, value: bytes) -> bytes:
    data = MODEL.read_bytes()
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (altered_header(4, (9).to_bytes(4, "little")), "wrong_version"),
        (altered_header(4, (3).to_bytes(4, "big")), "big_endian"),
        (altered_header(8, (1 << 60).to_bytes(8, "little")), "absurd_header"),
        (altered_header(24, (1 << 62).to_bytes(8, "little")), "absurd_header"),
        (MODEL.read_bytes().replace(b"tokenizer.ggml.model", b"tokenizer.ggml.modem"), "no_tokenizer"),
    ],
    ids=["wrong version", "big endian", "absurd count", "absurd length", "no tokenizer"],
)
def test_each_kind_of_bad_header_has_an_error_of_its_own(living: Tab, content: bytes, reason: str) -> None:
    error = refusal(living, ADD_FILE, text(content))
    assert (error.code, error.details["reason"]) == ("invalid_model", reason)
    lives(living)


def test_an_architecture_that_the_engine_does_not_know_is_named(living: Tab) -> None:
    error = refusal(living, ADD_FILE, text(MODEL.read_bytes().replace(b"llama", b"lxama")))
    assert error.code == "unsupported_model"
    assert "lxama" in error.message
    lives(living)


def test_a_projector_is_not_a_language_model(living: Tab) -> None:
    projector = MODEL.with_name("mmproj-tiny-f16.gguf").read_bytes()
    assert refusal(living, ADD_FILE, text(projector)).code == "unsupported_model"
    lives(living)


def test_a_missing_model_is_not_found(living: Tab) -> None:
    error = refusal(living, ADD, "/models/nowhere/model.gguf")
    assert error.code == "model_not_found"
    assert error.details["status"] == 404
    lives(living)


def test_a_page_in_place_of_a_model_is_recognised(living: Tab) -> None:
    error = refusal(living, ADD, "/")
    assert error.code == "invalid_model"
    assert "web page" in error.message
    lives(living)


def test_a_server_that_is_not_there_is_unavailable(living: Tab) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert refusal(living, ADD, f"http://127.0.0.1:{port}/model.gguf").code == "remote_unavailable"
    lives(living)


def test_a_text_that_is_no_url_is_refused(living: Tab) -> None:
    assert refusal(living, ADD, "http://").code in ("remote_unavailable", "invalid_option")
    lives(living)


@pytest.mark.parametrize(
    ("body", "option"),
    [
        ("state.client.chat([{role: 'user', content: 'Hi'}], {temprature: 1})", "temprature"),
        ("state.client.chat([{role: 'user', content: 'Hi'}], {maxTokens: 'many'})", "max_tokens"),
        ("state.client.chat([{role: 'user', content: 'Hi'}], {topP: 7})", "top_p"),
        ("state.client.chat([])", "messages"),
        ("state.client.chat([{role: 'robot', content: 'Hi'}])", "messages"),
        ("state.client.query(5)", "prompt"),
        ("state.client.add('model', {source: ''})", "source"),
        ("state.client.add('model', {source: '/m.gguf', backend: 'abacus'})", "backend"),
        ("state.client.add('model', {source: '/m.gguf', runtime: {context: {nCtx: -1}}})", "n_ctx"),
        ("state.client.add('model', {source: '/m.gguf', runtime: {engine: {}}})", "engine"),
        ("new sippet.SippClient({wasmThreading: 'many'}).ready", "wasm_threading"),
        ("new sippet.SippClient({wasmUrl: '/x.wasm'}).ready", "module_url"),
    ],
)
def test_a_wrong_option_is_named(living: Tab, body: str, option: str) -> None:
    lives(living)
    error = refusal_of_option(living, f"return await {body}")
    assert error.code == "invalid_option"
    assert error.details["option"] == option


def refusal_of_option(tab: Tab, body: str) -> TabError:
    with pytest.raises(TabError) as caught:
        tab.run(body)
    return caught.value


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(living: Tab) -> None:
    lives(living)
    error = refusal(living, "return await state.client.query('word '.repeat(3000), {maxTokens: 4})")
    assert error.code == "context_overflow"
    assert living.run(CHAT)


def test_an_engine_of_an_untrusted_origin_is_refused(living: Tab) -> None:
    error = refusal(
        living,
        """const client = new sippet.SippClient({moduleUrl: "https://elsewhere.example/a.mjs", wasmUrl: "/b.wasm"});
           try { await client.add("model", {source: argument}) } finally { await client.close() }""",
        TINY,
    )
    assert (error.code, error.details["option"]) == ("invalid_option", "module_url")


def altered(serve: Serve, folder: Path, name: str, change: Any) -> str:
    """A host whose asset ``name`` was altered on the way. Returns its address."""
    static = copy_assets(folder)
    path = static / name
    data = path.read_bytes()
    path.unlink()  # it may be a link to the real one
    path.write_bytes(change(data))
    return serve(static_dir=static).url


def test_an_altered_python_package_is_refused(page: Page, serve: Serve, tmp_path: Path) -> None:
    wheel = next((ROOT / "static" / "runtime").glob("sippet-*.whl")).name
    flipped = lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]  # noqa: E731
    tab = Tab(page, altered(serve, tmp_path, f"runtime/{wheel}", flipped))
    error = refusal(tab, "await new sippet.SippClient().ready")
    assert error.code == "asset"
    assert "sippet" in error.message


SIPPET_BUILD = "engine/sippet-pthread-relaxed.wasm.br"


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("wllama", "vendor/wllama/wllama.wasm"),
        ("wllama", "vendor/wllama/wllama.mjs"),
        ("sippet", SIPPET_BUILD),
        ("sippet", "engine/sippet_engine.mjs"),
    ],
)
def test_a_damaged_engine_is_an_asset_error(page: Page, serve: Serve, tmp_path: Path, engine: str, name: str) -> None:
    tab = Tab(page, altered(serve, tmp_path, name, lambda data: data[: len(data) // 2]))
    add = f"await new sippet.SippClient({{engine: '{engine}'}}).add('model', {{source: '{TINY}'}})"
    error = refusal(tab, add)
    assert error.code == "asset"
    assert engine in error.details["wasm_url"]


def test_a_damaged_engine_gives_way_to_the_other_and_says_so(page: Page, serve: Serve, tmp_path: Path) -> None:
    tab = Tab(page, altered(serve, tmp_path, SIPPET_BUILD, lambda data: data[: len(data) // 2]))
    result = tab.generate("Hello", source=TINY, maxTokens=4)
    assert result["info"]["engine"] == "wllama"
    assert any("slower engine" in reason for reason in result["info"]["degraded"])


def test_a_missing_worker_script_is_an_asset_error(page: Page, serve: Serve, tmp_path: Path) -> None:
    static = copy_assets(tmp_path)
    (static / "js" / "runtime_worker.mjs").unlink()
    tab = Tab(page, serve(static_dir=static).url)
    assert refusal(tab, "await new sippet.SippClient().ready").code == "asset"


def test_a_wasm_file_of_the_wrong_mime_type_says_so(page: Page, serve: Serve) -> None:
    tab = Tab(page, serve().url)
    error = refusal(
        tab,
        """const client = new sippet.SippClient({
             engine: "wllama",
             moduleUrl: location.origin + "/static/vendor/wllama/wllama.mjs",
             wasmUrl: location.origin + "/static/js/sippet.mjs",
           });
           await client.add("model", {source: argument});""",
        TINY,
    )
    assert error.code == "asset"
    assert "application/wasm" in error.message


def test_a_browser_without_simd_is_told_so(launch: Callable[..., Browser], serve: Serve) -> None:
    old = launch(args=["--js-flags=--no-enable-sse4-1"])
    try:
        error = refusal(
            Tab(old.new_page(), serve().url), "await new sippet.SippClient().add('m', {source: argument})", TINY
        )
        assert error.code == "unsupported_environment"
        assert error.details["feature"] == "simd"
    finally:
        old.close()


@pytest.mark.parametrize("engine", ["sippet", "wllama"])
@pytest.mark.parametrize("template", ["{% if %}", "{{ raise_exception('no') }}"])
def test_a_chat_template_that_can_not_be_read_is_named(tab: Tab, engine: str, template: str) -> None:
    body = """const client = new sippet.SippClient({wasmThreading: "single-thread", engine: argument.engine});
      const runtime = {context: {chatTemplate: argument.template}};
      await client.add("model", {source: argument.source, runtime});"""
    error = refusal(tab, body, {"engine": engine, "template": template, "source": TINY})
    assert (error.code, error.details.get("option")) == ("invalid_option", "chat_template"), str(error)
