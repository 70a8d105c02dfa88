"""A tab under test: a page of the host, and JavaScript that runs in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from page_fixtures import BOOT
from playwright.sync_api import Page

TINY = "/models/tiny-chat-f16/tiny-chat-f16.gguf"
SMOLLM2 = "/models/smollm2-135m-instruct-q4_1/SmolLM2-135M-Instruct.Q4_1.gguf"

# Errors cross to the test as data. `state` lives as long as the page, so that a test can go on where it stopped.
_WRAPPED = """async (argument) => {
  const sippet = await import("/static/js/sippet.mjs");
  const state = (globalThis.testState ??= {});
  try {
    return {value: (await (async () => {%s})()) ?? null};
  } catch (error) {
    return {error: error.toJSON?.() ?? {code: null, message: String(error?.stack ?? error)}};
  }
}"""

GENERATE = """
  const {options, descriptor, prompt, request} = argument;
  const client = new sippet.SippClient(options);
  try {
    const ref = await client.add("model", descriptor);
    const run = client.query(prompt, {emitTokens: true, temperature: 0, ...request});
    let streamed = "";
    for await (const {text} of run.tokens) streamed += text;
    return {...(await run), streamed, info: {...ref.info, metadata: null}};
  } finally {
    await client.close();
  }
"""
"""Adds a model, generates greedily from a raw prompt, streams, and closes."""


class TabError(Exception):
    """What was thrown in the page; ``code`` is the error's, or ``None`` where it was no SippError."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(fields))
        self.code = fields.get("code")
        self.message = str(fields.get("message", ""))
        self.hint = str(fields.get("hint", ""))
        self.details = fields.get("details") or {}


class Tab:
    """One page of the host."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.console: list[str] = []
        page.set_default_timeout(BOOT)
        page.on("console", lambda message: self.console.append(message.text))
        page.goto(url)

    def run(self, body: str, argument: Any = None) -> Any:
        """Run the body of an async function in the page; it sees ``argument``, ``sippet`` (the module) and ``state``.

        Raises:
            TabError: it threw.
        """
        result = self.page.evaluate(_WRAPPED % body, argument)
        if "error" in result:
            raise TabError(result["error"])
        return result["value"]

    def generate(
        self,
        prompt: str,
        *,
        source: str = SMOLLM2,
        options: Mapping[str, Any] | None = None,
        descriptor: Mapping[str, Any] | None = None,
        **request: Any,
    ) -> dict[str, Any]:
        """See :data:`GENERATE`. Returns the result in JavaScript's names, with ``streamed`` and ``info``."""
        argument = {
            "options": dict(options or {}),
            "descriptor": {"source": source, **(descriptor or {})},
            "prompt": prompt,
            "request": request,
        }
        result: dict[str, Any] = self.run(GENERATE, argument)
        return result
