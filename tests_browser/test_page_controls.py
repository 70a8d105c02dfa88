"""The chat page's controls, nearly all without Python and without a model."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from page_fixtures import BOOT, STATIC, OpenPage, Watch
from playwright.sync_api import Page, expect
from sippet_host.models import ModelEntry


def choose_listed(page: Page) -> None:
    page.get_by_role("button", name="Chat", exact=True).click()


def test_the_page_takes_input_while_python_starts(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    box = page.get_by_label("Message", exact=True)
    expect(box).to_be_focused()
    page.keyboard.type("Hello")
    expect(box).to_have_value("Hello")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    expect(page.locator("#status-text")).to_contain_text("Starting Python")


def test_all_modules_of_the_page_are_fetched_at_once(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    announced = page.evaluate(
        "() => [...document.querySelectorAll('link[rel=modulepreload]')].map((link) => link.href)"
    )
    names = [url.rsplit("/", 1)[1] for url in announced] + ["chat.mjs"]
    assert sorted(names) == sorted(path.name for path in (STATIC / "js" / "page").glob("*.mjs"))


def test_nothing_is_downloaded_before_a_button_says_so(open_page: OpenPage, watches: dict[Page, Watch]) -> None:
    page = open_page()
    expect(page.locator("#status-text")).to_contain_text("No model yet", timeout=BOOT)
    assert not [request.url for request in watches[page].requests if "/models/" in request.url]
    expect(page.locator("#welcome-picker .model-facts")).to_contain_text("3.18 MB download")


def test_enter_sends_and_shift_enter_breaks_the_line(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    choose_listed(page)
    box = page.get_by_label("Message", exact=True)
    expect(box).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(box).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    expect(page.locator(".message.user .bubble")).to_have_text("one\ntwo")
    expect(box).to_have_value("")
    expect(box).to_be_focused()


def test_enter_that_ends_a_composition_does_not_send(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    choose_listed(page)
    box = page.get_by_label("Message", exact=True)
    box.fill("にほん")
    box.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    expect(box).to_have_value("にほん")
    box.dispatch_event("keydown", {"key": "Enter", "keyCode": 229})
    expect(box).to_have_value("にほん")
    box.dispatch_event("keydown", {"key": "Enter"})
    expect(box).to_have_value("")


def test_a_load_can_be_cancelled_and_the_waiting_message_too(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    choose_listed(page)
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant")).to_contain_text("Waiting for the model")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#progress")).to_be_hidden()
    expect(page.locator(".message.assistant")).to_contain_text("Stopped")
    expect(page.get_by_role("button", name="Model: Choose a model")).to_be_visible()


def test_escape_stops_a_waiting_answer(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    choose_listed(page)
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".message.assistant")).to_contain_text("Stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_dropped_file_is_loaded(open_page: OpenPage, tiny: ModelEntry) -> None:
    page = open_page(boot=False)
    transfer = page.evaluate_handle(
        "(name) => { const t = new DataTransfer(); t.items.add(new File(['GGUF'], name)); return t; }",
        tiny.files[0].path.name,
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#drop-veil")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.locator("#drop-veil")).to_be_hidden()
    expect(page.locator("#progress")).to_contain_text("tiny-chat-f16")


def test_an_address_that_is_none_is_explained_beside_its_field(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    field = page.get_by_label("Address of a .gguf file").first
    field.fill("ftp://example.org/model.gguf")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("only http and https")
    expect(field).to_be_focused()


def test_a_runtime_that_can_not_load_is_a_coded_error_with_a_way_on(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    page.unroute("**/js/sippet.mjs")
    page.route("**/js/runtime_worker.mjs", lambda route: route.fulfill(status=404, body=""))
    page.reload()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Code asset", timeout=30_000)
    expect(page.locator("#status-text")).to_contain_text("Python could not start")
    page.unroute("**/js/runtime_worker.mjs")
    alert.get_by_role("button", name="Try again").click()
    expect(page.locator("#status-text")).to_contain_text("No model yet", timeout=BOOT)
    expect(alert).to_have_count(0)


def test_the_model_dialog_gives_the_focus_back(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    button = page.get_by_role("button", name="Model: Choose a model")
    button.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(button).to_be_focused()


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_is_wider_than_the_window(open_page: OpenPage, width: int) -> None:
    page = open_page(boot=False, viewport={"width": width, "height": 640})
    choose_listed(page)
    page.keyboard.type("A word that does not break: " + "w" * 300)
    page.keyboard.press("Enter")
    expect(page.locator(".message.user")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    for part in page.locator("header button, #progress, #composer, .message, #status").all():
        box = part.bounding_box()
        assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= width + 0.5)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_about(open_page: OpenPage, scheme: str) -> None:
    page = open_page(boot=False, color_scheme=scheme)
    assert complaints(page) == []
    choose_listed(page)
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant")).to_be_visible()
    assert complaints(page) == []
    page.locator("#status").click()
    assert complaints(page) == []


def complaints(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{item['id']}: {item['help']}: {[node['html'] for node in item['nodes']]}" for item in found]


def test_the_appearance_can_be_chosen_and_stays(open_page: OpenPage) -> None:
    page = open_page(boot=False, color_scheme="light")
    paper = page.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Appearance").select_option("Dark")
    dark = page.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor")
    assert dark != paper
    page.reload()
    assert page.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor") == dark
