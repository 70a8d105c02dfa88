"""What rounding does to a model: its predictions, token by token, against those of the same weights unrounded.

llama.cpp and our kernels both round tokens to eight bits before they multiply them with quantised weights, each in its
own way, so neither can be the other's reference. The reference is a copy of the model whose matrices hold the very same
numbers as F16. The measure is the mean Kullback-Leibler divergence: the logarithm of what rounding does to the
perplexity of a text that follows the reference's own predictions, so 0.005 is half a percent; unlike the perplexity of
a given text, it settles within a hundred tokens.
"""

from __future__ import annotations

import json
import math
import statistics
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.requantise import requantise
from engine_browser import MODELS, EnginePage, engine_page
from llama_server import llama_server
from real_models import real_model

TINY = MODELS / "tiny-chat-f16.gguf"
FORMATS = ["F16", "Q8_0", "Q5_0", "Q4_1", "Q4_0"]
BUILDS = ["sippet-single-relaxed.wasm", "sippet-single-simd128.wasm"]
TINY_TEXT = (
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\nParis.<|im_end|>\n"
    "<|im_start|>user\nMy name is Anna.<|im_end|>\n<|im_start|>assistant\nNice to meet you, Anna!<|im_end|>\n"
)
TEXT = (
    "The first railways were built to carry coal from the mines to the water. Horses drew the wagons along wooden "
    "rails, and a single animal could move ten times what it could pull on a road. When engines replaced the horses, "
    "the rails had to be made of iron, because the weight of a locomotive broke the wood."
)
CANDIDATES = 1000

Predictions = list[dict[int, float]]
"""For each place of a text, the logarithms of the probabilities of the likeliest next tokens."""


def predictions(complete: Callable[[dict[str, Any]], list[dict[str, Any]]], tokens: list[int]) -> Predictions:
    """Ask for one token after each beginning of the text."""
    found = []
    for place in range(1, len(tokens)):
        body = {"prompt": tokens[:place], "n_predict": 1, "temperature": 0, "n_probs": CANDIDATES, "cache_prompt": True}
        (step,) = complete(body)
        found.append({each["id"]: each["logprob"] for each in step["top_logprobs"]})
    return found


def divergence(reference: Predictions, other: Predictions) -> float:
    """The mean over the places; candidates that only one of them has weigh too little to count."""
    return statistics.fmean(
        sum(math.exp(p[token]) * (p[token] - q[token]) for token in p.keys() & q.keys())
        for p, q in zip(reference, other, strict=True)
    )


def agreement(reference: Predictions, other: Predictions) -> float:
    """The share of places where both hold the same token likeliest."""
    return statistics.fmean(
        max(p, key=p.__getitem__) == max(q, key=q.__getitem__) for p, q in zip(reference, other, strict=True)
    )


class Engines:
    """Models by file name, in a page with our engine and in native servers."""

    def __init__(self, page: EnginePage, models: dict[str, Path]) -> None:
        self._page = page
        self._models = models

    def native(self, name: str, text: str) -> tuple[Predictions, list[int]]:
        """What llama.cpp's server predicts; the text's tokens."""
        with llama_server(self._models[name], n_parallel=1) as address:
            tokens = _post(f"{address}/tokenize", {"content": text, "add_special": True})["tokens"]
            url = f"{address}/completion"
            return predictions(lambda body: _post(url, body)["completion_probabilities"], tokens), tokens

    def ours(self, name: str, build: str, tokens: list[int]) -> Predictions:
        """What one of our builds predicts."""
        self._page("open", {"file": build, "files": [{"name": name, "url": f"/{name}"}]})
        self._page("call", "load", {"model": name, "n_ctx": 512})
        try:
            return predictions(self._complete, tokens)
        finally:
            self._page.restart()

    def _complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        result = self._page("run", "completion", body)
        assert result["state"] == "done", result
        found: list[dict[str, Any]] = result["chunks"][0]["choices"][0]["logprobs"]["content"]
        return found


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        found: dict[str, Any] = json.load(response)
        return found


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    folder = tmp_path_factory.mktemp("models")
    models = {"smollm2": real_model(), **{name: folder / f"{name}.gguf" for name in FORMATS}}
    for name in FORMATS:
        requantise(TINY, name, models[name], {"F32"})
    for name in [*models]:
        models[f"{name}-exact"] = folder / f"{name}-exact.gguf"
        requantise(models[name], "F16", models[f"{name}-exact"], {"F32"})
    with engine_page(models) as page:
        yield Engines(page, models)


def test_unrounded_weights_give_the_predictions_of_native(engines: Engines) -> None:
    native, tokens = engines.native("F16", TINY_TEXT)
    for build in BUILDS:
        ours = engines.ours("F16", build, tokens)
        assert divergence(native, ours) < 1e-5
        assert agreement(native, ours) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS[1:])
def test_rounding_costs_no_more_than_natives_in_each_format(engines: Engines, name: str) -> None:
    exact, tokens = engines.native(f"{name}-exact", TINY_TEXT)
    native, _ = engines.native(name, TINY_TEXT)
    ours = engines.ours(name, BUILDS[0], tokens)
    assert 0 < divergence(exact, ours) < 1.5 * divergence(exact, native) < 0.005
    assert agreement(exact, ours) > 0.9


@pytest.mark.slow
def test_rounding_costs_a_real_model_no_more_than_natives(engines: Engines) -> None:
    exact, tokens = engines.native("smollm2-exact", TEXT)
    native, _ = engines.native("smollm2", TEXT)
    for build in BUILDS:
        ours = engines.ours("smollm2", build, tokens)
        assert 0 < divergence(exact, ours) < 1.5 * divergence(exact, native) < 0.005, build
        assert agreement(exact, ours) > 0.85, build
