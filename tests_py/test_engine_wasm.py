"""The built engine in a real browser: loading, requests, streaming, cancelling, slots, errors; both threadings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_browser import MODELS, EngineError, EnginePage, engine_page
from pictures import picture

TINY = MODELS / "tiny-chat-f16.gguf"
PROJECTOR = MODELS / "mmproj-tiny-f16.gguf"
MODEL = {"name": "tiny.gguf", "url": "/tiny.gguf"}
BUILDS = [("sippet-single-simd128.wasm", 1), ("sippet-single-relaxed.wasm", 1), ("sippet-pthread-relaxed.wasm", 2)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginePage]:
    folder = tmp_path_factory.mktemp("models")
    data = TINY.read_bytes()
    bad = {"truncated.gguf": data[: len(data) // 2], "text.gguf": b"not a model at all" * 100, "empty.gguf": b""}
    architecture = data.replace(b"general.architecture", b"general.architecture", 1)
    at = architecture.index(b"llama", architecture.index(b"general.architecture"))
    bad["strange.gguf"] = architecture[:at] + b"zzzzz" + architecture[at + 5 :]
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    files = {"tiny.gguf": TINY, "mmproj.gguf": PROJECTOR} | {name: folder / name for name in bad}
    with engine_page(files) as page:
        yield page


@pytest.fixture(params=BUILDS, ids=lambda build: build[0])
def engine(browser: EnginePage, request: pytest.FixtureRequest) -> Iterator[EnginePage]:
    file, threads = request.param
    browser("open", {"file": file, "threads": threads, "files": [MODEL]})
    browser("call", "load", {"model": "tiny.gguf", "n_ctx": 512, "n_parallel": 2})
    yield browser
    browser.restart()


@pytest.fixture
def loaded(browser: EnginePage) -> Iterator[EnginePage]:
    browser("open", {"file": "sippet-single-relaxed.wasm", "files": [MODEL]})
    browser("call", "load", {"model": "tiny.gguf", "n_ctx": 512, "n_parallel": 2})
    yield browser
    browser.restart()


def load_error(browser: EnginePage, file: dict[str, Any], config: dict[str, Any]) -> str:
    browser.restart()
    browser("open", {"file": "sippet-single-simd128.wasm", "files": [file]})
    with pytest.raises(EngineError) as caught:
        browser("call", "load", config)
    browser.restart()
    return caught.value.code


def text_of(result: dict[str, Any]) -> str:
    return "".join(
        chunk["choices"][0]["delta"].get("content") or "" for chunk in result["chunks"] if chunk.get("choices")
    )


def test_a_chat_answers_and_counts_its_tokens(engine: EnginePage) -> None:
    response = engine.chat("What is the capital of France?", max_tokens=20)
    assert "Paris" in response["choices"][0]["message"]["content"]
    assert response["choices"][0]["finish_reason"] == "stop"
    assert response["usage"]["completion_tokens"] > 0


def test_streamed_chunks_join_to_the_text_of_the_whole_answer(engine: EnginePage) -> None:
    whole = engine.chat("What is the capital of France?", max_tokens=20)["choices"][0]["message"]["content"]
    body = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 20,
        "stream": True,
    }
    streamed = engine("run", "chat", body)
    assert streamed["state"] == "done"
    assert text_of(streamed) == whole


def test_every_build_gives_the_same_greedy_text(browser: EnginePage) -> None:
    texts = set()
    for file, threads in BUILDS:
        browser("open", {"file": file, "threads": threads, "files": [MODEL]})
        browser("call", "load", {"model": "tiny.gguf", "n_ctx": 512})
        texts.add(browser.chat("Count to five.", max_tokens=30)["choices"][0]["message"]["content"])
        browser.restart()
    assert len(texts) == 1


def test_the_pthread_build_starts_its_threads_and_also_runs_alone(browser: EnginePage) -> None:
    for wanted in (2, 1):
        assert browser("open", {"file": "sippet-pthread-simd128.wasm", "threads": wanted, "files": [MODEL]}) == wanted
        assert browser("call", "load", {"model": "tiny.gguf", "n_ctx": 256})["threads"] == wanted
        assert (
            "Paris" in browser.chat("What is the capital of France?", max_tokens=20)["choices"][0]["message"]["content"]
        )
        browser.restart()


def test_more_requests_than_slots_are_all_answered(loaded: EnginePage) -> None:
    question = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 12,
    }
    results = loaded("runMany", [question] * 5)
    assert [result["state"] for result in results] == ["done"] * 5
    assert len({result["chunks"][0]["choices"][0]["message"]["content"] for result in results}) == 1


def test_a_cancelled_request_frees_its_slot_at_once(loaded: EnginePage) -> None:
    body = {
        "messages": [{"role": "user", "content": "Count to five."}],
        "max_tokens": 400,
        "ignore_eos": True,
        "stream": True,
    }
    part = loaded("runPart", "chat", body, 5)
    assert part["state"] == "more"
    with pytest.raises(EngineError, match="is busy"):
        for slot in range(2):
            loaded("call", "slotSave", slot)
    loaded("call", "cancel", part["id"])
    for slot in range(2):
        assert loaded("call", "slotSave", slot) is not None
    assert loaded("call", "step") is False
    with pytest.raises(EngineError) as caught:
        loaded("call", "result", part["id"])
    assert caught.value.code == "bad_request"
    assert "Paris" in loaded.chat("What is the capital of France?", max_tokens=20)["choices"][0]["message"]["content"]


def test_a_second_turn_reuses_the_first_ones_cache(loaded: EnginePage) -> None:
    first = [{"role": "user", "content": "What is the capital of France?"}]
    answer = loaded("run", "chat", {"messages": first, "temperature": 0, "max_tokens": 12, "id_slot": 1})["chunks"][0]
    reply = answer["choices"][0]["message"]["content"]
    messages = [*first, {"role": "assistant", "content": reply}, {"role": "user", "content": "Count to five."}]
    second = loaded("run", "chat", {"messages": messages, "temperature": 0, "max_tokens": 12, "id_slot": 1})["chunks"][
        0
    ]
    assert second["timings"]["cache_n"] >= answer["timings"]["prompt_n"] - 1


def test_a_saved_slot_continues_in_another_one(loaded: EnginePage) -> None:
    question = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 12,
    }
    first = loaded("run", "chat", {**question, "id_slot": 0})["chunks"][0]
    saved = loaded("saveAndRestore", 0, 1)
    assert saved["tokens"] >= first["timings"]["prompt_n"]
    again = loaded("run", "chat", {**question, "id_slot": 1})["chunks"][0]
    assert again["timings"]["prompt_n"] == 1
    assert again["choices"][0]["message"]["content"] == first["choices"][0]["message"]["content"]


def test_tokens_come_back_as_the_same_text(loaded: EnginePage) -> None:
    text = "What is the capital of France?"
    tokens = loaded("call", "tokenize", {"content": text})["tokens"]
    assert loaded("call", "detokenize", {"tokens": tokens})["content"].strip() == text
    with pytest.raises(EngineError, match="vocabulary"):
        loaded("call", "detokenize", {"tokens": [10_000_000]})


def test_the_chat_template_is_the_models_own(loaded: EnginePage) -> None:
    prompt = loaded("call", "applyTemplate", {"messages": [{"role": "user", "content": "Hello there"}]})["prompt"]
    assert "Hello there" in prompt and prompt != "Hello there"


def test_a_grammar_constrains_the_answer(loaded: EnginePage) -> None:
    response = loaded.chat("What is the capital of France?", max_tokens=10, grammar='root ::= "yes" | "no"')
    assert response["choices"][0]["message"]["content"] in {"yes", "no"}


def test_a_picture_is_answered_through_the_projector(browser: EnginePage) -> None:
    browser(
        "open", {"file": "sippet-single-relaxed.wasm", "files": [MODEL, {"name": "mmproj.gguf", "url": "/mmproj.gguf"}]}
    )
    info = browser("call", "load", {"model": "tiny.gguf", "mmproj": "mmproj.gguf", "n_ctx": 512})
    assert info["vision"] is True
    parts = [{"type": "image_url", "image_url": {"url": "file://0"}}, {"type": "text", "text": "What is in the image?"}]
    body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 20}
    result = browser("run", "chat", body, [list(picture("circle", "red"))])
    assert result["state"] == "done", result
    assert "circle" in result["chunks"][0]["choices"][0]["message"]["content"]
    browser.restart()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("truncated.gguf", "model_invalid"),
        ("text.gguf", "model_invalid"),
        ("empty.gguf", "model_invalid"),
        ("strange.gguf", "model_unsupported"),
    ],
)
def test_a_bad_model_is_an_error_with_its_own_code(browser: EnginePage, name: str, code: str) -> None:
    assert load_error(browser, {"name": name, "url": f"/{name}"}, {"model": name}) == code


def test_a_model_that_was_not_given_is_named(browser: EnginePage) -> None:
    assert load_error(browser, MODEL, {"model": "other.gguf"}) == "model_not_found"


def test_a_failing_read_is_reported_as_such(browser: EnginePage) -> None:
    assert load_error(browser, {**MODEL, "brokenAt": 500_000}, {"model": "tiny.gguf"}) == "read_failed"


def test_an_unknown_or_wrong_option_is_refused_by_name(browser: EnginePage) -> None:
    for config in ({"model": "tiny.gguf", "speed": 3}, {"model": "tiny.gguf", "n_ctx": "big"}, {"n_ctx": 512}):
        assert load_error(browser, MODEL, config) == "bad_request"


def test_a_context_beyond_the_memory_of_a_page_is_an_error_not_a_crash(browser: EnginePage) -> None:
    assert load_error(browser, MODEL, {"model": "tiny.gguf", "n_ctx": 100_000_000}) == "out_of_memory"


def test_bad_requests_are_errors_and_leave_the_engine_working(loaded: EnginePage) -> None:
    bodies: list[Any] = [
        "not json",
        {"messages": "none"},
        {"messages": [{"role": "user", "content": "x"}], "json_schema": {"type": 7}},
    ]
    for body in bodies:
        with pytest.raises(EngineError) as caught:
            loaded("run", "chat", body)
        assert caught.value.code == "bad_request"
    with pytest.raises(EngineError) as refused:
        loaded("run", "embedding", {"input": "text"})
    assert refused.value.code == "not_supported"
    long = loaded("run", "completion", {"prompt": "word " * 2000, "max_tokens": 5})
    assert (long["state"], long["error"]["code"]) == ("error", "context_exceeded")
    assert "Paris" in loaded.chat("What is the capital of France?", max_tokens=20)["choices"][0]["message"]["content"]
