"""Vectors and scores of real encoders on native llama.cpp, held against numpy's; ``test_tab_encoders.py`` does the
same in a tab."""

from __future__ import annotations

import asyncio

import numpy
import pytest
from bert import score_of, tokens_of, vector_of
from encoder_cases import QUESTIONS, TEXTS, shuffled
from encoders import Kind, gguf_file, minilm, reranker
from sippet import LocalModel, SippClient

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_vectors_are_the_references(kind: Kind) -> None:
    model = minilm()

    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", LocalModel(gguf_file(model, kind)))
            result = await client.embed(TEXTS)
            assert (result.dimensions, result.pooling) == (384, "mean")
            for text, vector in zip(TEXTS, result.embeddings, strict=True):
                assert numpy.dot(vector, vector_of(model, text)) >= 0.999, text  # both are of length 1
            for text in TEXTS:
                assert (await client.tokenize(text))[1:-1] == tokens_of(model, text)

    asyncio.run(main())


def test_a_reranker_orders_as_the_reference_does() -> None:
    model = reranker()

    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", LocalModel(gguf_file(model, "Q8_0")))
            for question, documents in QUESTIONS.items():
                scores = [score_of(model, question, document) for document in documents]
                assert scores == sorted(scores, reverse=True), "the reference ranks them so"
                result = await client.rerank(question, shuffled(question))
                assert [entry.document for entry in result.ranking] == list(documents)
                best = await client.rerank(question, shuffled(question), top_n=1)
                assert [entry.index for entry in best.ranking] == [1]

    asyncio.run(main())
