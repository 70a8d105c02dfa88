"""What the pages of a failed test showed and said, for its report: a browser's window can't be looked at afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Error, Page
from python_tab import PythonTab
from tab import Tab

LIMIT = 5_000
"""Milliseconds to ask a page that may have ended."""


def evidence(arguments: dict[str, Any]) -> str:
    """Addresses, visible text and console of all pages that a test's arguments lead to."""
    pages = {page for value in arguments.values() for page in pages_of(value)}
    return "\n\n".join(described(page) for page in pages)


def pages_of(value: object) -> Iterator[Page]:
    match value:
        case Page():
            yield value
        case Tab() | PythonTab():
            yield value.page
        case BrowserContext():
            yield from value.pages
        case Browser():
            for context in value.contexts:
                yield from context.pages


def described(page: Page) -> str:
    try:
        text = page.locator("body").inner_text(timeout=LIMIT)
        console = [f"{message.type}: {message.text}" for message in page.console_messages()]
        errors = [str(error) for error in page.page_errors()]
    except Error as error:
        return f"{page.url}\n{error}"
    return "\n".join([page.url, text, *console[-20:], *errors[-20:]])
