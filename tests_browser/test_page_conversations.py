"""Conversations in the browser: kept, found, renamed, deleted, branched, exported and imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from page_fixtures import BOOT, OpenPage
from playwright.sync_api import Page, Route, expect


def message(id: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "parent": parent, "role": role, "text": text, "created": 1_700_000_000_000, **more}


def conversation(id: str, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "format": "sippet-conversation", "version": 1, "id": id, "name": "", "systemPrompt": "",
        "created": 1_700_000_000_000, "updated": 1_700_000_000_000, "head": messages[-1]["id"],
        "messages": list(messages), **more,
    }  # fmt: skip


BREAD = conversation(
    "bread", message("b1", None, "user", "How long does dough rest?"), message("b2", "b1", "assistant", "One *hour*.")
)
CATS = conversation("cats", message("c1", None, "user", "Name a cat"), message("c2", "c1", "assistant", "Whiskers"))


def import_file(page: Page, folder: Path, data: Any, name: str = "chats.json") -> None:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    page.locator("#import-file").set_input_files(path)


def import_all(page: Page, folder: Path, *conversations: dict[str, Any]) -> None:
    import_file(page, folder, {"format": "sippet-export", "version": 1, "conversations": conversations})
    expect(page.get_by_role("status")).to_contain_text("imported")


def titles(page: Page) -> list[str]:
    return page.locator("#conversations .entry").all_inner_texts()


def act(page: Page, action: str, title: str) -> None:
    """Uses one of the buttons that come forward under the pointer."""
    page.get_by_role("button", name=title, exact=True).hover()
    page.get_by_role("button", name=f"{action} {title}", exact=True).click()


def test_conversations_outlive_a_reload_and_the_browsers_back_returns(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    import_all(page, tmp_path, BREAD, CATS)
    expect(page.locator(".message.assistant em")).to_have_text("hour")
    page.get_by_role("button", name="Name a cat", exact=True).click()
    expect(page.locator(".message.assistant")).to_contain_text("Whiskers")
    page.reload()
    expect(page.locator(".message.assistant")).to_contain_text("Whiskers")
    expect(page.locator("#conversations [aria-current]")).to_have_text("Name a cat")
    page.go_back()
    expect(page.locator(".message.assistant")).to_contain_text("One hour.")


def test_search_looks_into_the_messages(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    import_all(page, tmp_path, BREAD, CATS)
    page.keyboard.press("Control+k")
    expect(page.get_by_label("Search conversations")).to_be_focused()
    page.keyboard.type("whiskers NAME")
    expect(page.locator("#conversations .entry")).to_have_text(["Name a cat"])
    page.keyboard.type(" dog")
    expect(page.locator("#no-conversations")).to_have_text("Nothing found.")


def test_a_conversation_is_renamed_and_the_name_can_be_given_up(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    import_all(page, tmp_path, BREAD, CATS)
    act(page, "Rename", "Name a cat")
    page.keyboard.type("Pets")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Name a cat", exact=True)).to_be_visible()
    act(page, "Rename", "Name a cat")
    page.keyboard.type("Pets")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pets", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Pets", exact=True)).to_be_visible()


def test_a_deleted_conversation_can_be_brought_back_at_once(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    import_all(page, tmp_path, BREAD)
    act(page, "Delete", "How long does dough rest?")
    expect(page.locator("#conversations .entry")).to_have_count(0)
    expect(page.get_by_role("heading", name="A chat that stays in this tab")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".message.assistant")).to_contain_text("One hour.")
    act(page, "Delete", "How long does dough rest?")
    expect(page.locator("#conversations .entry")).to_have_count(0)  # then it is gone from the database, too
    page.reload()
    expect(page.locator("#no-conversations")).to_be_visible()


def test_a_deleted_message_can_be_brought_back_at_once(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    import_all(page, tmp_path, BREAD)
    page.locator(".message.assistant").get_by_role("button", name="Delete message and what follows").click()
    expect(page.locator(".message.assistant")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".message.assistant")).to_contain_text("One hour.")
    page.reload()
    expect(page.locator(".message.assistant")).to_contain_text("One hour.")


def test_variants_of_an_answer_are_shown_one_at_a_time(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    again = message("c3", "c1", "assistant", "Tom")
    after = message("c4", "c3", "user", "Why Tom?")
    import_all(page, tmp_path, conversation("cats", *CATS["messages"], again, after))
    expect(page.locator(".message")).to_have_count(3)
    expect(page.locator(".variant")).to_have_text("2 of 2")
    page.get_by_role("button", name="Previous variant").click()
    expect(page.locator(".message.assistant .answer")).to_have_text("Whiskers")
    expect(page.locator(".message")).to_have_count(2)
    expect(page.get_by_role("button", name="Next variant")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".message")).to_have_count(3)


def test_markdown_that_comes_late_leaves_the_focus_where_it_is(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    import_all(page, tmp_path, BREAD)
    late: list[Route] = []
    page.route("**/marked.esm.js", lambda route: late.append(route))
    with page.expect_request("**/marked.esm.js"):
        page.reload()
    answer = page.locator(".message.assistant")
    expect(answer.locator(".answer")).to_have_text("One *hour*.")
    answer.get_by_role("button", name="Copy message").focus()
    for route in late:
        route.continue_()
    expect(answer.locator(".answer em")).to_have_text("hour")
    expect(answer.get_by_role("button", name="Copy message")).to_be_focused()


def test_what_is_exported_can_be_imported_elsewhere(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    import_all(page, tmp_path, BREAD, CATS)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export", exact=True).click()
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    other = open_page(boot=False)
    import_file(other, tmp_path, saved.read_text(), "again.json")
    expect(other.locator("#conversations .entry")).to_have_count(2)
    assert sorted(titles(other)) == sorted(titles(page))
    import_file(other, tmp_path, saved.read_text(), "again.json")
    expect(other.locator("#conversations .entry")).to_have_count(4)


def test_the_shown_messages_can_be_saved_as_markdown(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    import_all(page, tmp_path, {**BREAD, "systemPrompt": "Be brief."})
    page.keyboard.press("Control+,")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as Markdown").click()
    assert download.value.suggested_filename == "how-long-does-dough-rest.md"
    assert download.value.path().read_text(encoding="utf-8") == (
        "# How long does dough rest?\n\n## Instructions\n\nBe brief.\n\n"
        "## You\n\nHow long does dough rest?\n\n## Assistant\n\nOne *hour*.\n"
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("no json", "it is not JSON"),
        ({"a": 1}, "it is not a Sippet conversation"),
        ({**BREAD, "version": 9}, "a text is missing"),
        ({**BREAD, "messages": "x"}, "not a list"),
        (conversation("x", message("m", "m", "user", "hi")), "follows one that does not exist"),
        (conversation("x", message("m", None, "system", "hi")), "no known role"),
        (conversation("../x", message("m", None, "user", "hi")), "no valid id"),
        (conversation("x", {**message("m", None, "user", "hi"), "text": {"toString": 1}}), "a text is missing"),
        (conversation("x", message("m", None, "user", "a"), message("m", None, "user", "b")), "two messages"),
        (conversation("x", message("m", None, "user", "a", images=["https://evil.example/x.png"])), "not PNG or JPEG"),
    ],
)
def test_a_file_that_is_no_export_changes_nothing(open_page: OpenPage, tmp_path: Path, data: Any, why: str) -> None:
    page = open_page(boot=False)
    import_file(page, tmp_path, data)
    expect(page.get_by_role("alert")).to_contain_text(why)
    assert titles(page) == []


def test_a_hostile_import_is_inert(open_page: OpenPage, tmp_path: Path) -> None:
    attack = "<img src=x onerror='self.hacked=1'><script>self.hacked=1</script>"
    page = open_page(boot=False)
    error = {"code": attack[:40], "message": attack, "hint": attack}
    hostile = conversation(
        "h",
        message("h1", None, "user", attack),
        message("h2", "h1", "assistant", f"{attack}\n\n![x](https://evil.example/?q=1) [y](javascript:self.hacked=1)",
                model=attack, finish=attack[:40], reasoning=attack, error=error,
                stats={"tokensPerSecond": attack, "completionTokens": None}),
        name=attack, systemPrompt=attack, __proto__={"polluted": True}, extra=attack,
    )  # fmt: skip
    import_all(page, tmp_path, hostile)
    expect(page.locator(".message .problem")).to_be_visible()
    expect(page.locator("#chat-title")).to_have_text(attack)
    page.locator("#settings-button").click()
    expect(page.locator("#system-prompt")).to_have_value(attack)
    assert page.evaluate("() => [self.hacked, ({}).polluted, document.querySelectorAll('main img').length]") == [
        None,
        None,
        1,  # the page's own, hidden one
    ]


def test_another_tab_sees_what_this_one_does(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False)
    import_all(page, tmp_path, BREAD, CATS)
    second = open_page(boot=False, context=page.context)
    expect(second.locator("#conversations .entry")).to_have_count(2)
    act(page, "Delete", "Name a cat")
    expect(second.locator("#conversations .entry")).to_have_text(["How long does dough rest?"])


def test_the_sampling_of_a_model_is_remembered_and_reset(open_page: OpenPage) -> None:
    page = open_page(boot=False)
    page.get_by_role("button", name="Chat", exact=True).click()
    page.keyboard.press("Control+,")
    field = page.get_by_label("Temperature")
    expect(field).to_have_attribute("placeholder", "default")
    expect(page.get_by_label("Longest answer")).to_have_attribute("placeholder", "1024")
    field.fill("1.5")
    page.get_by_label("Instructions for this conversation").fill("Answer in rhymes.")
    page.get_by_label("Use these for new conversations too").check()
    page.reload()
    page.get_by_role("button", name="Chat", exact=True).click()
    page.get_by_role("button", name="Settings").click()
    expect(field).to_have_value("1.5")
    expect(page.get_by_label("Instructions for this conversation")).to_have_value("Answer in rhymes.")
    page.get_by_role("button", name="Back to the model’s defaults").click()
    expect(field).to_have_value("")
    field.fill("9")
    field.blur()
    expect(field).to_have_attribute("aria-invalid", "true")


@pytest.mark.slow
def test_an_edited_message_and_another_answer_are_variants_and_are_kept(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Chat", exact=True).click()
    page.keyboard.type("What is the capital of France?")
    page.keyboard.press("Enter")
    answer = page.locator(".message.assistant .answer")
    stats = page.locator(".message.assistant .stats")
    expect(stats).to_be_visible(timeout=BOOT)
    expect(page.locator("#context")).to_be_visible()
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".message.assistant .variant")).to_have_text("2 of 2", timeout=BOOT)
    page.get_by_label("Message", exact=True).focus()
    page.keyboard.press("ArrowUp")
    page.get_by_label("Edit the message").fill("What is the capital of Italy?")
    page.keyboard.press("Enter")
    expect(page.locator(".message.user .variant")).to_have_text("2 of 2")
    expect(stats).to_be_visible(timeout=BOOT)
    expect(answer).to_contain_text("Rome")
    page.locator(".message.user").get_by_role("button", name="Previous variant").click()
    expect(answer).to_contain_text("Paris")
    page.reload()
    expect(answer).to_contain_text("Paris")
    expect(page.locator(".message.user .variant")).to_have_text("1 of 2")


def test_the_view_follows_the_end_until_the_reader_scrolls_up(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(boot=False, viewport={"width": 800, "height": 500})
    expect(page.get_by_role("button", name="To the latest message")).to_be_hidden()
    import_all(page, tmp_path, conversation("long", message("a", None, "user", "line\n" * 60)))
    scroller = page.locator("#scroller")
    expect(page.get_by_role("button", name="To the latest message")).to_be_hidden()
    assert scroller.evaluate("(node) => node.scrollTop") > 0
    scroller.hover()
    page.mouse.wheel(0, -400)
    back = page.get_by_role("button", name="To the latest message")
    expect(back).to_be_visible()
    top = scroller.evaluate("(node) => node.scrollTop")
    page.locator("#transcript").evaluate("(list) => list.append(Object.assign(document.createElement('li'), "
                                         "{textContent: 'more', className: 'message'}))")  # fmt: skip
    expect(page.get_by_text("more", exact=True)).to_be_attached()
    assert scroller.evaluate("(node) => node.scrollTop") == top
    back.click()
    expect(back).to_be_hidden()
    assert scroller.evaluate("(node) => node.scrollHeight - node.scrollTop - node.clientHeight") < 2
