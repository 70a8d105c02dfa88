"""A model of more than 2 GiB in a tab: sizes and offsets that don't fit into 31 bits."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hosting import ROOT
from large_model import write_large_model
from sippet.models.gguf import read_header
from sippet.platform._cpython import PathSource
from tab import TINY, Tab

SMALL = ROOT / "tests_py" / "models" / "tiny-chat-f16.gguf"

ASK = """
  const file = document.querySelector("#picked")?.files[0];
  const client = new sippet.SippClient({engine: "sippet"});
  await client.add("it", {source: file ?? argument, runtime: {context: {nCtx: 256}}});
  const {text} = await client.query("The capital of France", {temperature: 0, maxTokens: 12});
  await client.close();
  return {text, size: file?.size ?? 0};
"""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    with ThreadPoolExecutor() as thread:  # Playwright's loop runs in this one
        header = thread.submit(asyncio.run, read_header(PathSource(SMALL))).result()
    write_large_model(SMALL, header, tmp_path / "large.gguf")
    return tmp_path / "large.gguf"


@pytest.mark.slow
def test_a_model_beyond_two_gibibytes_is_read_where_it_is_and_says_what_it_should(tab: Tab, large: Path) -> None:
    expected = tab.run(ASK, TINY)["text"]
    tab.run("document.body.append(Object.assign(document.createElement('input'), {type: 'file', id: 'picked'}))")
    tab.page.set_input_files("#picked", large)
    found = tab.run(ASK)
    assert found["size"] == large.stat().st_size > 2 << 30
    assert found["text"] == expected
