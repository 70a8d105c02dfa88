"""Vectors and scores of real encoders on the engines of a tab, held against numpy's."""

from __future__ import annotations

import sys

import pytest
from hosting import ROOT, Serve
from playwright.sync_api import Page
from sippet_host.models import load_model
from tab import Tab

sys.path.append(str(ROOT / "tests_py"))
sys.path.append(str(ROOT / "tools"))

import numpy
from bert import tokens_of, vector_of
from encoder_cases import QUESTIONS, TEXTS, shuffled
from encoders import Encoder, Kind, gguf_file, minilm, reranker

pytestmark = pytest.mark.slow

EMBED = """
  const client = new sippet.SippClient({engine: argument.engine});
  try {
    await client.add("it", {source: argument.source});
    const result = await client.embed(argument.texts);
    const tokens = argument.engine === "sippet" ? await client.tokenize(argument.texts[2]) : null;
    return {...result, tokens};
  } finally {
    await client.close();
  }
"""
RERANK = """
  const client = new sippet.SippClient({engine: argument.engine});
  try {
    await client.add("it", {source: argument.source});
    const found = {};
    for (const [question, documents] of Object.entries(argument.questions)) {
      found[question] = (await client.rerank(question, documents)).ranking.map(({document}) => document);
    }
    return found;
  } finally {
    await client.close();
  }
"""


def served(page: Page, serve: Serve, encoder: Encoder, kind: Kind) -> tuple[Tab, str]:
    """A tab, and the address of the encoder's file in it."""
    entry = load_model(gguf_file(encoder, kind))
    return Tab(page, serve(models=(entry,)).url), entry.describe()["url"]


@pytest.mark.parametrize("engine", ["sippet", "wllama"])
@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_vectors_are_the_references(page: Page, serve: Serve, kind: Kind, engine: str) -> None:
    model = minilm()
    tab, source = served(page, serve, model, kind)
    result = tab.run(EMBED, {"engine": engine, "source": source, "texts": list(TEXTS)})
    assert (result["dimensions"], result["pooling"]) == (384, "mean")
    for text, vector in zip(TEXTS, result["embeddings"], strict=True):
        assert numpy.dot(vector, vector_of(model, text)) >= 0.999, text  # both are of length 1
    if result["tokens"]:
        assert result["tokens"][1:-1] == tokens_of(model, TEXTS[2])


@pytest.mark.parametrize("engine", ["sippet", "wllama"])
def test_a_reranker_orders_as_the_reference_does(page: Page, serve: Serve, engine: str) -> None:
    tab, source = served(page, serve, reranker(), "Q8_0")
    questions = {question: shuffled(question) for question in QUESTIONS}
    found = tab.run(RERANK, {"engine": engine, "source": source, "questions": questions})
    assert found == {question: list(documents) for question, documents in QUESTIONS.items()}
