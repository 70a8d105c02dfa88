"""The API reference is current, and what it shows runs."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llama_server import TINY
from scripted_engine import ScriptedEngine, engines
from sippet import EngineInfo, LocalModel, SippClient
from sippet.models.store import ModelStore
from sippet.simple import DEFAULT_MODEL

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "browser_runtime" / "REFERENCE.md").read_text()
SECTIONS = re.split(r"^#+ (?=[^\n]*$)", PAGE, flags=re.MULTILINE)
EXAMPLES = [
    (section.partition("\n")[0], code) for section in SECTIONS for code in re.findall(r"```python\n([^`]*)```", section)
]


def test_the_reference_is_current() -> None:
    done = subprocess.run([sys.executable, "tools/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_operation_has_an_example() -> None:
    shown = " ".join(title for title, _ in EXAMPLES)
    for name, item in vars(SippClient).items():
        if inspect.isfunction(item) and not name.startswith("_"):
            assert f"SippClient.{name}(" in shown, name


def run(code: str, names: dict[str, Any]) -> Any:
    """Run an example, which may await."""
    compiled = compile(code, "<example>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return eval(compiled, names)


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title.partition("(")[0] for title, _ in EXAMPLES])
def test_an_example_runs(title: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPPET_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY, tmp_path / "model.gguf")
    names: dict[str, Any] = {"SippClient": SippClient, "LocalModel": LocalModel}
    if "sippet.sync" in title:
        run(code, names)
        return

    async def main() -> None:
        store = ModelStore()
        for name in ("tiny-chat-f16", DEFAULT_MODEL):
            await store.add(TINY, id=name)
        async with SippClient() as client:
            names["client"] = client
            if "SippClient.add" not in title:
                embeds = {"embeddings": True, "n_ctx": 1024}
                await client.add("chat", LocalModel("tiny-chat-f16", runtime={"context": embeds}))
            waiting = run(code, names)
            if waiting is not None:
                await waiting

    if "rerank" in title:  # no reranker is small enough to come with the tests
        rows = [{"index": index, "relevance_score": score} for index, score in enumerate((-1.0, 2.0))]
        info = EngineInfo("wasm", "cpu", pooling="rank", embeds=True)
        with engines(ScriptedEngine(lambda body: [{"results": rows}], info)):
            asyncio.run(main())
        return
    asyncio.run(main())
