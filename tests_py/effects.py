"""For every option a call that it must change: run on native llama.cpp by ``test_effects.py``, and on the WebAssembly
engines inside a browser by ``tests_browser/test_tab_effects.py``. An option that changes nothing is dead, and must be
refused by name instead.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sippet import LocalModel, RuntimeConfig, SippClient, SippError
from sippet._fields import Backend
from sippet.capabilities import refusal
from sippet.options import SamplingOptions

Probe = Callable[[SippClient], Awaitable[Any]]
Options = Mapping[str, Any]

STORY = [{"role": "user", "content": "Tell me a story."}]
ENDLESS: Options = {"temperature": 0, "logit_bias": {"2": -100}}
"""Greedy, and the token that ends an answer is forbidden."""


FLAT = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7, "max_tokens": 24}
SAMPLING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature": ({}, {"temperature": 0.01}),
    "seed": ({}, {"seed": 8}),
    "top_k": ({}, {"top_k": 1}),
    "top_p": ({}, {"top_p": 0.01}),
    "min_p": ({}, {"min_p": 0.9}),
    "repeat_penalty": ({}, {"repeat_penalty": 5.0}),
    "presence_penalty": ({}, {"presence_penalty": 2.0}),
    "frequency_penalty": ({}, {"frequency_penalty": 2.0}),
    "logit_bias": ({}, {"logit_bias": {str(token): -100.0 for token in range(300, 512)}}),
    "samplers": ({"top_k": 1}, {"samplers": ["temperature"]}),
    "repeat_last_n": ({"repeat_penalty": 5.0}, {"repeat_last_n": 1}),
    "typical_p": ({}, {"typical_p": 0.05}),
    "top_n_sigma": ({}, {"top_n_sigma": 0.05}),
    "xtc_probability": ({"xtc_threshold": 0.01}, {"xtc_probability": 1.0}),
    "xtc_threshold": ({"xtc_probability": 1.0, "xtc_threshold": 0.01}, {"xtc_threshold": 0.5}),
    "dynatemp_range": ({}, {"dynatemp_range": 2.0}),
    "dynatemp_exponent": ({"dynatemp_range": 3.0, "dynatemp_exponent": 0.1}, {"dynatemp_exponent": 9.0}),
    "dry_multiplier": ({"temperature": 0.0, "max_tokens": 80}, {"dry_multiplier": 50.0}),
    "dry_base": (
        {"temperature": 0.0, "max_tokens": 80, "dry_multiplier": 3.0, "dry_allowed_length": 1, "dry_base": 1.0},
        {"dry_base": 90.0},
    ),
    "dry_allowed_length": ({"temperature": 0.0, "max_tokens": 80, "dry_multiplier": 50.0}, {"dry_allowed_length": 60}),
    "dry_penalty_last_n": ({"temperature": 0.0, "max_tokens": 80, "dry_multiplier": 50.0}, {"dry_penalty_last_n": 0}),
    "dry_sequence_breakers": (
        {"temperature": 0.0, "max_tokens": 80, "dry_multiplier": 50.0},
        {"dry_sequence_breakers": [" ", "o", "e", "a"]},
    ),
    "mirostat": ({}, {"mirostat": 2}),
    "mirostat_tau": ({"mirostat": 2, "mirostat_tau": 9.0}, {"mirostat_tau": 0.1}),
    "mirostat_eta": ({"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.01}, {"mirostat_eta": 1.0}),
    "min_keep": ({"top_p": 0.01}, {"min_keep": 200}),
    "ignore_eos": ({"temperature": 0.0}, {"ignore_eos": True}),
}
"""Sampling option → a start, and a change to it that must change what is sampled."""

PROMPTS = {"ignore_eos": "Count to 5."}


async def sampling(client: SippClient) -> dict[str, list[str]]:
    """For each sampling option the text without it, again without it, and with it."""
    found = {}
    for name, (base, change) in SAMPLING.items():
        talk = [{"role": "user", "content": PROMPTS.get(name, "Tell me a story.")}]
        options = [{**FLAT, **base}, {**FLAT, **base}, {**FLAT, **base, **change}]
        found[name] = [(await client.chat(talk, **each)).text for each in options]
    return found


# What shows that a field of RuntimeConfig has an effect.


async def info(client: SippClient) -> Any:
    known = client.endpoints[0].info
    assert known is not None
    facts = dataclasses.asdict(known)
    return {name: facts[name] for name in ("n_ctx", "n_parallel", "threads", "pooling", "embeds", "has_chat_template")}


async def numbers(client: SippClient, messages: Any = STORY) -> Any:
    """Log-probabilities: every change of the arithmetic shows in them."""
    result = await client.chat(messages, **ENDLESS, max_tokens=12, logprobs=1)
    assert len(result.logprobs) == 12
    return [entry.logprob for entry in result.logprobs]


async def batches(client: SippClient) -> Any:
    """The same after a prompt of several batches, whose sums are rounded differently."""
    return await numbers(client, [{"role": "user", "content": "Tell me a story. " * 20}])


async def prompt(client: SippClient) -> Any:
    return (await client.chat(STORY, max_tokens=1)).usage.prompt_tokens


async def vector(client: SippClient) -> Any:
    return (await client.embed("the red circle")).embedding


async def long_prompt(client: SippClient) -> Any:
    """A prompt that is longer than half of the context."""
    try:
        return (await client.query("a cat " * 170, max_tokens=1)).finish_reason
    except SippError as error:
        return error.code


async def full_context(client: SippClient) -> Any:
    result = await client.chat(STORY, **ENDLESS, max_tokens=400)
    return [result.finish_reason, result.usage.completion_tokens, result.text]


async def cached(client: SippClient) -> Any:
    await client.chat(STORY, temperature=0, max_tokens=1)
    return (await client.chat(STORY, temperature=0, max_tokens=1)).usage.cached_tokens


async def moved(client: SippClient) -> Any:
    """How much is reused of a prompt whose beginning is gone."""
    text = "One day the cat saw a small boat near the sea. The cat lived in a red house. Count to ten. " * 2
    await client.query("The end. Tom has a blue ball and a green hat. " + text, max_tokens=1)
    return (await client.query("The end. " + text, max_tokens=1)).usage.cached_tokens


async def order(client: SippClient) -> Any:
    """Whether a short request ends while a long one that is generating goes on."""
    long = client.chat(STORY, emit_tokens=True, max_tokens=1500, **ENDLESS)
    await anext(aiter(long.tokens))
    begun = time.perf_counter()
    await client.chat(STORY, max_tokens=1).response
    # Of a long one that has ended, a busy Python may still have tokens to read: that takes less than making them did.
    await asyncio.wait([asyncio.ensure_future(long.response)], timeout=(time.perf_counter() - begun) / 2)
    together = not long.done
    long.cancel()
    await long.response
    return "together" if together else "one by one"


async def crowd(client: SippClient) -> Any:
    runs = [client.chat(STORY, max_tokens=5).response for _ in range(4)]
    results = await asyncio.gather(*runs, return_exceptions=True)
    return [getattr(result, "code", "answered") for result in results]


async def rest(client: SippClient) -> Any:
    await asyncio.sleep(0.3)
    return client._endpoints["it"].engine is None


async def metrics(client: SippClient) -> Any:
    told: list[bool] = []
    client.subscribe(lambda event: told.append("metrics" in event.data))
    await client.chat(STORY, max_tokens=1)
    return any(told)


CONTEXT: Options = {"n_ctx": 256, "n_threads": 1}
YARN: Options = {"rope_scaling": "yarn", "rope_freq_scale": 0.5, "yarn_orig_ctx": 64}
EMBEDS: Options = {"embeddings": True, "pooling": "mean"}
SHIFT: Options = {"context_shift": True}

RUNTIME: Mapping[str, tuple[Probe, Options, Options]] = {
    "context.n_ctx": (info, {}, {"context": {"n_ctx": 512}}),
    "context.n_batch": (batches, {}, {"context": {"n_batch": 256}}),
    "context.n_ubatch": (batches, {}, {"context": {"n_ubatch": 256}}),
    "context.n_parallel": (info, {}, {"context": {"n_parallel": 2}}),
    "context.n_threads": (info, {}, {"context": {"n_threads": 2}}),
    "context.flash_attention": (numbers, {"context": {"flash_attention": "enabled"}},
                                {"context": {"flash_attention": "disabled"}}),
    "context.kv_unified": (long_prompt, {"context": {"n_ctx": 512, "n_parallel": 2, "kv_unified": False}},
                           {"context": {"kv_unified": True}}),
    "context.cache_type_k": (numbers, {}, {"context": {"cache_type_k": "q8_0"}}),
    "context.cache_type_v": (numbers, {"context": {"flash_attention": "enabled"}},
                             {"context": {"cache_type_v": "q8_0"}}),
    "context.rope_scaling": (numbers, {"context": {"rope_freq_scale": 0.5}}, {"context": {"rope_scaling": "none"}}),
    "context.rope_freq_base": (numbers, {}, {"context": {"rope_freq_base": 500.0}}),
    "context.rope_freq_scale": (numbers, {}, {"context": {"rope_freq_scale": 0.5}}),
    "context.yarn_orig_ctx": (numbers, {"context": YARN}, {"context": {"yarn_orig_ctx": 512}}),
    "context.yarn_ext_factor": (numbers, {"context": YARN}, {"context": {"yarn_ext_factor": 0.5}}),
    "context.yarn_attn_factor": (numbers, {"context": {**YARN, "yarn_ext_factor": 0.0}},
                                 {"context": {"yarn_attn_factor": 2.0}}),
    "context.yarn_beta_fast": (numbers, {"context": {**YARN, "yarn_ext_factor": 1.0}},
                               {"context": {"yarn_beta_fast": 2.0}}),
    "context.yarn_beta_slow": (numbers, {"context": {**YARN, "yarn_ext_factor": 1.0}},
                               {"context": {"yarn_beta_slow": 20.0}}),
    "context.embeddings": (info, {}, {"context": {"embeddings": True}}),
    "context.pooling": (vector, {"context": EMBEDS}, {"context": {"pooling": "cls"}}),
    "context.chat_template": (prompt, {}, {"context": {"chat_template": "{{ messages[0].content }}"}}),
    "scheduler.max_queued_requests": (crowd, {}, {"scheduler": {"max_queued_requests": 1}}),
    "scheduler.max_running_requests": (order, {"context": {"n_parallel": 2}, "cache": SHIFT},
                                       {"scheduler": {"max_running_requests": 1}}),
    "scheduler.continuous_batching": (order, {"context": {"n_parallel": 2}, "cache": SHIFT},
                                      {"scheduler": {"continuous_batching": False}}),
    "cache.prompt_cache": (cached, {}, {"cache": {"prompt_cache": False}}),
    "cache.context_shift": (full_context, {}, {"cache": SHIFT}),
    "cache.n_keep": (full_context, {"cache": SHIFT}, {"cache": {"n_keep": 16}}),
    "cache.n_cache_reuse": (moved, {}, {"cache": {"n_cache_reuse": 4}}),
    "residency.unload_after": (rest, {}, {"residency": {"unload_after": 0.02}}),
    "observability.runtime_metrics": (metrics, {}, {"observability": {"runtime_metrics": True}}),
    "placement.n_gpu_layers": (info, {}, {"placement": {"n_gpu_layers": 1}}),
    "placement.main_gpu": (info, {}, {"placement": {"main_gpu": 1}}),
    "placement.split_mode": (info, {}, {"placement": {"split_mode": "row"}}),
    "placement.tensor_split": (info, {}, {"placement": {"tensor_split": [1.0]}}),
    "multimodal.projector_on_gpu": (info, {}, {"multimodal": {"projector_on_gpu": True}}),
}  # fmt: skip
"""Group and field → what shows its effect, with which configuration, and what is changed in it."""

UNSEEN: Mapping[str, str] = {
    "context.n_threads_batch": "only how fast a prefill is",
    "context.warmup": "only how fast the first request is",
    "context.swa_full": "the tiny model has no sliding-window layers",
    "multimodal.image_min_tokens": "every picture has the tiny projector's one size",
    "multimodal.image_max_tokens": "every picture has the tiny projector's one size",
    **{f"sampling.{item.name}": "SAMPLING has it" for item in dataclasses.fields(SamplingOptions)},
}
"""What no probe can see with the tiny model, and why."""


async def runtime(source: Any, client_options: Options, names: tuple[str, ...] = tuple(RUNTIME)) -> dict[str, Any]:
    """What became of each field: ``changed``, ``same``, or the code and the option of the error that refused it."""
    found: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name in names:
        probe, base, change = RUNTIME[name]
        start = merged({"context": CONTEXT}, base)
        key = f"{probe.__name__} {start}"
        try:
            if key not in plain:
                plain[key] = await observed(source, client_options, start, probe)
            then = await observed(source, client_options, merged(start, change), probe)
            found[name] = "same" if then == plain[key] else "changed"
        except SippError as error:
            group, _, field = name.partition(".")
            found[name] = [error.code, error.details.get("option")]
            if field != error.details.get("option") and group in change:  # the start was refused: ask for this alone
                found[name] = await refusal_of(source, client_options, change)
    return found


async def refusal_of(source: Any, client_options: Options, runtime: Options) -> Any:
    try:
        await observed(source, client_options, runtime, info)
    except SippError as error:
        return [error.code, error.details.get("option")]
    return "same"


async def observed(source: Any, client_options: Options, runtime: Options, probe: Probe) -> Any:
    async with SippClient(**client_options) as client:
        await client.add("it", LocalModel(source, runtime=runtime))
        return await probe(client)


def merged(base: Options, change: Options) -> dict[str, Any]:
    """Two configurations as one: the second one's fields win."""
    return {group: {**base.get(group, {}), **change.get(group, {})} for group in {**base, **change}}


def every_field() -> dict[str, dataclasses.Field[Any]]:
    """Group and name of each field of RuntimeConfig."""
    return {
        f"{group.name}.{item.name}": item
        for group in dataclasses.fields(RuntimeConfig)
        for item in dataclasses.fields(getattr(RuntimeConfig(), group.name))
    }


GPU_ONLY = ("placement.n_gpu_layers", "placement.main_gpu", "placement.split_mode", "placement.tensor_split",
            "multimodal.projector_on_gpu")  # fmt: skip
"""Refused wherever the processor computes."""


def verdicts(engine: str, backend: Backend) -> dict[str, Any]:
    """What :func:`runtime` must find on an engine that computes on the processor, by the capability table."""
    fields = every_field()
    refused = {name for name in RUNTIME if name in GPU_ONLY or refusal(engine, backend, fields[name])}
    return {name: ["unsupported_option", name.partition(".")[2]] if name in refused else "changed" for name in RUNTIME}
