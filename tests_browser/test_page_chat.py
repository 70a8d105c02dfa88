"""The chat page with the real host and a real model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from page_fixtures import BOOT, OpenPage, Watch
from playwright.sync_api import Page, expect
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


def test_a_file_of_ones_own_answers_without_being_uploaded(
    open_page: OpenPage, watches: dict[Page, Watch], tiny: ModelEntry
) -> None:
    page = open_page()
    page.locator("#welcome-picker input[type=file]").set_input_files(tiny.files[0].path)
    send(page, "What is the capital of France?")
    assert "Paris" in wait_for_answer(page)
    requests = watches[page].requests
    assert {request.method for request in requests} == {"GET"}
    assert not [request.url for request in requests if "/models/" in request.url]


def test_a_message_sent_before_there_is_a_model_is_answered_by_the_chosen_one(open_page: OpenPage) -> None:
    page = open_page()
    send(page, "What is the capital of France?")
    expect(page.get_by_role("status")).to_contain_text("Choose a model")
    expect(page.get_by_role("button", name="Chat", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    assert "Paris" in wait_for_answer(page)


def test_a_file_that_is_no_model_is_refused_and_the_page_goes_on(open_page: OpenPage, tmp_path: Path) -> None:
    wrong = tmp_path / "holiday.gguf"
    wrong.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(4096))
    page = open_page()
    page.locator("#welcome-picker input[type=file]").set_input_files(wrong)
    problem = page.get_by_role("alert").filter(has_text="Code")
    expect(problem).to_contain_text("invalid_model", timeout=BOOT)
    choose_listed(page)
    expect(problem).to_have_count(0)
    send(page, "What is the capital of France?")
    assert "Paris" in wait_for_answer(page)


def test_an_address_without_a_model_is_refused(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Address of a .gguf file").first.fill(f"{page.url}models/none/none.gguf")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="Code")).to_contain_text("model_not_found", timeout=BOOT)


def test_a_page_without_isolation_says_so_and_why(open_page: OpenPage, page_host: Callable[..., Running]) -> None:
    page = open_page(page_host(isolation=False).url)
    choose_listed(page)
    send(page, "What is the capital of France?")
    assert "Paris" in wait_for_answer(page)
    expect(page.locator("#status-text")).to_have_text("Ready · not isolated · 1 thread · CPU")
    page.locator("#status").click()
    expect(page.get_by_role("dialog")).to_contain_text("Cross-origin isolation")
    expect(page.locator(".reasons li").first).to_contain_text(re.compile("headers|COOP|Cross-Origin"))
