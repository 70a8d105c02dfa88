"""The chat page with the real host and a real model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from page_fixtures import BOOT, DROP_PICTURE, OpenPage, Watch
from playwright.sync_api import Browser, Page, expect
from sippet_host.models import ModelEntry
from sippet_host.server import Running

pytestmark = pytest.mark.slow


def choose_listed(page: Page) -> None:
    page.get_by_role("button", name="Chat", exact=True).click()


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def wait_for_answer(page: Page, number: int = 1) -> str:
    expect(page.locator(".message.assistant .stats")).to_have_count(number, timeout=BOOT)
    return page.locator(".message.assistant .answer").all_inner_texts()[-1]


def test_a_listed_model_answers_and_everything_stays_here(open_page: OpenPage) -> None:
    page = open_page()
    choose_listed(page)
    send(page, "What is the capital of France?")
    assert "Paris" in wait_for_answer(page)
    stats = page.locator(".message.assistant .stats").inner_text()
    assert re.fullmatch(r"[\d.]+ tokens/s · first token after [\d.]+ m?s · \d+ tokens?", stats)
    expect(page.locator("#status-text")).to_have_text(re.compile(r"^Ready · isolated · \d+ threads? · CPU$"))
    assert page.evaluate("() => crossOriginIsolated")
    send(page, "What is the capital of Italy?")
    assert "Rome" in wait_for_answer(page, 2)


def test_a_message_sent_before_there_is_a_model_is_answered_by_the_chosen_one(open_page: OpenPage) -> None:
    page = open_page()
    send(page, "What is the capital of France?")
    expect(page.get_by_role("status")).to_contain_text("Choose a model")
    expect(page.get_by_role("button", name="Chat", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    assert "Paris" in wait_for_answer(page)


def test_bad_models_are_refused_and_a_file_of_ones_own_then_answers_without_being_uploaded(
    open_page: OpenPage, watches: dict[Page, Watch], tiny: ModelEntry, tmp_path: Path
) -> None:
    wrong = tmp_path / "holiday.gguf"
    wrong.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(4096))
    page = open_page()
    file = page.locator("#welcome-picker input[type=file]")
    file.set_input_files(wrong)
    problem = page.get_by_role("alert").filter(has_text="Code")
    expect(problem).to_contain_text("invalid_model", timeout=BOOT)
    page.get_by_label("Address of a .gguf file").first.fill(f"{page.url}models/none/none.gguf")
    page.keyboard.press("Enter")
    expect(problem).to_contain_text("model_not_found", timeout=BOOT)
    before = len(watches[page].requests)
    file.set_input_files(tiny.files[0].path)
    expect(problem).to_have_count(0)
    send(page, "What is the capital of France?")
    assert "Paris" in wait_for_answer(page)
    assert {request.method for request in watches[page].requests} == {"GET"}
    assert not [request.url for request in watches[page].requests[before:] if "/models/" in request.url]


def test_stop_keeps_what_was_said_and_frees_the_engine(
    open_page: OpenPage, page_host: Callable[..., Running], smollm2: ModelEntry
) -> None:
    page = open_page(page_host(models=(smollm2,)).url)
    choose_listed(page)
    page.keyboard.press("Control+,")
    page.get_by_label("Temperature").fill("0")
    page.keyboard.press("Escape")
    send(page, "Tell me a long story about a ship.")  # at the tiny model's speed it would have ended by itself
    answer = page.locator(".message.assistant")
    expect(answer.locator(".answer")).not_to_be_empty(timeout=BOOT)
    page.keyboard.press("Escape")
    expect(answer).to_contain_text("Stopped.")
    expect(answer.locator(".answer")).not_to_be_empty()
    page.keyboard.press("Control+,")
    page.get_by_role("button", name="Back to the model’s defaults").click()
    page.get_by_label("Temperature").fill("0")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New chat").click()
    send(page, "What is the capital of France?")
    expect(page.locator(".message.assistant .stats")).to_have_count(1, timeout=BOOT)
    assert "Paris" in page.locator(".message.assistant .answer").inner_text()


def test_a_page_without_isolation_says_so_and_why(open_page: OpenPage, page_host: Callable[..., Running]) -> None:
    page = open_page(page_host(isolation=False).url)
    choose_listed(page)
    send(page, "What is the capital of France?")
    assert "Paris" in wait_for_answer(page)
    expect(page.locator("#status-text")).to_have_text("Ready · not isolated · 1 thread · CPU")
    page.locator("#status").click()
    expect(page.get_by_role("dialog")).to_contain_text("Cross-origin isolation")
    expect(page.locator(".reasons li").first).to_contain_text(re.compile("headers|COOP|Cross-Origin"))


def test_a_kept_model_answers_without_being_fetched_again(open_page: OpenPage, watches: dict[Page, Watch]) -> None:
    page = open_page()
    page.locator("#welcome-picker").get_by_role("button", name=re.compile("^Keep .* on this device$")).click()
    badge = page.locator("#welcome-picker .badge.kept")
    expect(badge).to_have_text("On this device", timeout=BOOT)
    page.reload()
    expect(badge).to_have_text("On this device", timeout=BOOT)
    before = len(watches[page].requests)
    choose_listed(page)
    send(page, "What is the capital of France?")
    assert "Paris" in wait_for_answer(page)
    assert not [request.url for request in watches[page].requests[before:] if "/models/" in request.url]
    page.get_by_role("button", name="New chat").click()
    page.reload()
    expect(badge).to_have_text("On this device", timeout=BOOT)
    page.locator("#welcome-picker").get_by_role("button", name=re.compile("^Remove .* from this device$")).click()
    expect(badge).to_have_count(0, timeout=BOOT)


def test_a_model_that_sees_is_shown_a_picture(open_page: OpenPage, tiny: ModelEntry) -> None:
    page = open_page()
    page.evaluate(DROP_PICTURE)
    expect(page.get_by_role("status")).to_contain_text("reads text only")
    model = tiny.files[0].path
    page.locator("#welcome-picker input[type=file]").set_input_files([model.with_name("mmproj-tiny-f16.gguf"), model])
    expect(page.get_by_role("button", name="Add images")).to_be_visible(timeout=BOOT)
    page.evaluate(DROP_PICTURE)
    expect(page.get_by_role("button", name="Remove image 1")).to_be_visible()
    send(page, "What is in the image?")
    assert re.search(r"red circle", wait_for_answer(page))
    page.reload()
    picture = page.locator(".message.user canvas")
    expect(picture).to_have_attribute("width", "128")
    assert picture.evaluate("(canvas) => [...canvas.getContext('2d').getImageData(64, 64, 1, 1).data]")[0] > 200


def test_firefox_runs_the_page_too(open_page: OpenPage, firefox: Browser) -> None:
    page = open_page(engine=firefox)
    choose_listed(page)
    send(page, "What is the capital of France?")
    assert "Paris" in wait_for_answer(page)
    page.reload()
    expect(page.locator(".message.assistant .answer")).to_contain_text("Paris")


def kept_contexts(page: Page) -> list[str]:
    """Files with what a model computed of conversations."""
    return page.evaluate("""async () => {
      const found = [];
      const walk = async (folder, path) => {
        for await (const [name, handle] of folder.entries()) {
          if (handle.kind === "directory") await walk(handle, `${path}${name}/`);
          else if (path.includes("contexts/")) found.push(path + name);
        }
      };
      await walk(await navigator.storage.getDirectory(), "");
      return found;
    }""")


def wait_for_kept_context(page: Page) -> None:
    page.wait_for_function("() => JSON.parse(localStorage.getItem('sippet.contexts') ?? '[]').length === 1")


def cached_tokens(page: Page) -> list[tuple[int, int]]:
    """Of each answer of the conversation that is kept: tokens of its prompt, and those that were known already."""
    return page.evaluate("""() => new Promise((resolve) => {
      indexedDB.open("sippet").onsuccess = ({target}) => {
        target.result.transaction("conversations").objectStore("conversations").getAll().onsuccess = ({target}) => {
          const stats = target.result[0].messages.flatMap((message) => message.stats ?? []);
          resolve(stats.map(({promptTokens, cachedTokens}) => [promptTokens, cachedTokens]));
        };
      };
    })""")


@pytest.fixture
def kept_talk(open_page: OpenPage) -> Page:
    """A page whose conversation is kept on this device."""
    page = open_page()
    choose_listed(page)
    send(page, "My name is Tom.")
    wait_for_answer(page)
    wait_for_kept_context(page)
    return page


def test_after_a_reload_a_conversation_goes_on_without_being_read_again(kept_talk: Page) -> None:
    page = kept_talk
    page.reload()
    page.locator("#model-button").click()
    page.get_by_role("dialog").get_by_role("button", name="Chat", exact=True).click()
    send(page, "What is my name?")
    wait_for_answer(page, 2)
    page.wait_for_function("() => !document.querySelector('.message.assistant[aria-busy=true]')")
    (first, _), (second, cached) = cached_tokens(page)
    assert first <= cached < second, "only what is new was computed"


def test_what_was_kept_of_a_conversation_goes_with_it(kept_talk: Page) -> None:
    page = kept_talk
    assert len(kept_contexts(page)) == 1
    page.get_by_role("button", name="My name is Tom.", exact=True).hover()
    page.get_by_role("button", name="Delete My name is Tom.", exact=True).click()
    page.wait_for_function("() => localStorage.getItem('sippet.contexts') === '[]'")
    assert kept_contexts(page) == []
