"""The README's examples, run as they stand."""

from __future__ import annotations

import re

from hosting import ROOT, Serve
from playwright.sync_api import Page
from tab import Tab

README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(code)


def test_the_javascript_example_answers(page: Page, serve: Serve) -> None:
    tab = Tab(page, serve().url)
    code = example("js").replace("import {SippClient} from", "const {SippClient} = await import(", 1)
    tab.run(code.replace('sippet.mjs";', 'sippet.mjs");', 1))
    assert "Tokyo" in page.inner_text("body")
    assert re.search(r"^(stop|length) \d+$", "\n".join(tab.console), re.MULTILINE)


def test_the_python_example_answers(page: Page, serve: Serve) -> None:
    tab = Tab(page, serve().url)
    printed = tab.run(
        """const {loadPython} = await import("/static/js/runtime.mjs");
           const python = await loadPython();
           const lines = [];
           python.setStdout({batched: (line) => lines.push(line)});
           await python.runPythonAsync(argument);
           return lines.join("\\n");""",
        example("python"),
    )
    assert "Tokyo" in printed
    assert re.search(r"(stop|length) \d+$", printed.strip())
