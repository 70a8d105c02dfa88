"""The same calls in every place: coroutines that use a client and tell, as plain JSON values, what came of it.

They run on native llama.cpp, against real servers (``test_parity.py``), and inside Pyodide in a browser on the
WebAssembly engines (``tests_browser/test_tab_parity.py``). What they tell must be the same everywhere.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any, Literal

from pictures import picture
from sippet import SippClient, SippError

Scenario = Callable[[SippClient], Awaitable[Any]]
Kind = Literal["local", "remote"]

TEXT = "text"
"""The endpoint with the tiny pair: it chats, sees, and can't embed."""
VECTORS = "vectors"
"""The endpoint with the same weights, loaded for embedding."""

RUNTIME = {"context": {"n_ctx": 1024, "n_parallel": 2, "n_threads": 1}}
EMBEDDING = {"context": {"n_ctx": 512, "n_parallel": 2, "n_threads": 1, "embeddings": True, "pooling": "mean"}}

SCENARIOS: dict[str, Scenario] = {}
ONLY: dict[str, tuple[Kind, str]] = {}
"""Scenario → the one kind of endpoint that can do it, and the option that the other kind refuses by name."""


TOOLS = ("a_forced_tool_is_called", "python_functions_are_called")
"""What llama-server leaves to the template: the tiny model's has no tools, which only Sippet itself makes up for."""


NO_TOKENIZER = ("texts_become_tokens_and_back", "a_template_makes_the_prompt")
"""What OpenAI's API has no operation for, and llama-server has."""


def scenario(work: Scenario) -> Scenario:
    SCENARIOS[work.__name__] = work
    return work


def only(kind: Kind, option: str) -> Callable[[Scenario], Scenario]:
    def decorate(work: Scenario) -> Scenario:
        ONLY[work.__name__] = (kind, option)
        return scenario(work)

    return decorate


async def run(client: SippClient, kind: Kind) -> dict[str, Any]:
    """What each scenario tells on a client that has the endpoints ``text`` and ``vectors``.

    A scenario of the other kind alone must be refused by the option's name.
    """
    found: dict[str, Any] = {}
    for name, work in SCENARIOS.items():
        try:
            found[name] = await work(client)
        except SippError as error:
            found[name] = refusal(error)
        home, option = ONLY.get(name, (kind, ""))
        if home != kind:
            assert found[name] == {"error": "unsupported_option", "option": option}, (name, found[name])
            del found[name]
    return found


def compare(expected: Mapping[str, Any], found: Mapping[str, Any], without: Collection[str] = ()) -> list[str]:
    """Where two places differ, besides the scenarios ``without``."""
    names = [name for name in SCENARIOS if name not in without and (name not in ONLY or name in {*expected} & {*found})]
    return [line for name in names for line in differences(expected.get(name), found.get(name), name)]


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Where two values differ; numbers with a fraction may differ by a little, as kernels round differently."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted({*expected, *found}):
            yield from differences(expected.get(key), found.get(key), f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (a, b) in enumerate(zip(expected, found, strict=True)):
            yield from differences(a, b, f"{where}[{number}]")
    elif isinstance(expected, float) and isinstance(found, float):
        if not math.isclose(expected, found, rel_tol=0.02, abs_tol=0.02):
            yield f"{where}: {found} instead of {expected}"
    elif expected != found:
        yield f"{where}: {found!r} instead of {expected!r}"


def refusal(error: SippError) -> dict[str, Any]:
    found = {"error": error.code}
    return {**found, "option": error.details["option"]} if "option" in error.details else found


def types(value: Any) -> Any:
    """The types of a result's fields."""
    if dataclasses.is_dataclass(value):
        return {item.name: types(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return type(value).__name__


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


GREEDY = {"endpoint": TEXT, "temperature": 0}
FRANCE = ask("What is the capital of France?")
STORY = ask("Tell me a story.")


@scenario
async def a_chat_is_answered(client: SippClient) -> Any:
    result = await client.chat(FRANCE, **GREEDY)
    usage = result.usage
    # What is cached depends on what ran before.
    return [result.text, result.finish_reason, result.endpoint, usage.prompt_tokens, usage.completion_tokens]


@scenario
async def a_result_has_these_types(client: SippClient) -> Any:
    found = [types(await client.chat(FRANCE, **GREEDY)), types(await client.embed("a", endpoint=VECTORS))]
    del found[1]["pooling"]  # no server tells it
    return found


@scenario
async def a_raw_prompt_is_continued(client: SippClient) -> Any:
    prompt = "<|im_start|>user\nCount to 5.<|im_end|>\n<|im_start|>assistant\n"
    result = await client.query(prompt, max_tokens=30, **GREEDY)
    return [result.text, result.finish_reason, result.usage.completion_tokens]


@scenario
async def a_limit_gives_length(client: SippClient) -> Any:
    result = await client.chat(STORY, max_tokens=3, **GREEDY)
    return [result.text, result.finish_reason, result.usage.completion_tokens]


@scenario
async def a_stop_text_gives_stop_and_is_left_out(client: SippClient) -> Any:
    results = [await client.chat(FRANCE, stop=stop, **GREEDY) for stop in (" is", ["of F", "Paris"])]
    return [[result.text, result.finish_reason] for result in results]


@scenario
async def the_stream_is_the_final_text(client: SippClient) -> Any:
    run = client.chat(STORY, max_tokens=40, emit_tokens=True, **GREEDY)
    batches = [batch async for batch in run.tokens]
    result = await run
    return ["".join(batch.text for batch in batches) == result.text, result.text]


@scenario
async def several_readers_ask_at_once(client: SippClient) -> Any:
    questions = ["What is the capital of France?", "What is the capital of Italy?", "Count to 5.", "Count to 3."]
    results = await asyncio.gather(*(client.chat(ask(question), **GREEDY).response for question in questions))
    return [result.text for result in results]


@scenario
async def a_cancelled_run_keeps_its_text(client: SippClient) -> Any:
    endless = {**GREEDY, "max_tokens": 400, "logit_bias": {"2": -100}}  # 2 ends an answer
    whole = await client.chat(STORY, **endless)
    for _ in range(10):  # on a busy machine all of it may have come over a network before a cancel gets there
        run = client.chat(STORY, emit_tokens=True, **endless)
        async for _ in run.tokens:
            run.cancel("enough")
        result = await run
        if result.finish_reason == "cancelled":
            break
    partial = 0 < len(result.text) <= len(whole.text) and whole.text.startswith(result.text)
    after = await client.chat(FRANCE, **GREEDY)
    return [result.finish_reason, result.cancel_reason, partial, result.usage.completion_tokens < 400, after.text]


@scenario
async def a_seed_repeats_and_another_differs(client: SippClient) -> Any:
    flat = {"endpoint": TEXT, "temperature": 3.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 30}
    texts = [(await client.chat(STORY, seed=seed, **flat)).text for seed in (1, 1, 2)]
    return [texts[0] == texts[1], texts[1] == texts[2]]


@scenario
async def a_bias_forbids_tokens(client: SippClient) -> Any:
    first = await client.chat(FRANCE, max_tokens=1, logprobs=1, **GREEDY)
    token = first.logprobs[0].id
    biased = await client.chat(FRANCE, max_tokens=1, logit_bias={str(token): -100}, **GREEDY)
    return [first.text, token, biased.text]


@scenario
async def log_probabilities_are_told(client: SippClient) -> Any:
    result = await client.chat(FRANCE, max_tokens=3, logprobs=2, **GREEDY)
    return [[entry.token, entry.logprob, [token for token, _ in entry.top][:1]] for entry in result.logprobs]


@scenario
async def a_penalty_changes_the_text(client: SippClient) -> Any:
    texts = [(await client.chat(STORY, max_tokens=24, repeat_penalty=value, **GREEDY)).text for value in (1.0, 5.0)]
    return [texts[0] == texts[1], texts[0]]


@scenario
async def an_image_is_seen(client: SippClient) -> Any:
    said = []
    for shape, colour in (("circle", "red"), ("square", "blue")):
        parts = [{"type": "image", "image": picture(shape, colour)}, {"type": "text", "text": "What is in the image?"}]
        said.append((await client.chat([{"role": "user", "content": parts}], max_tokens=30, **GREEDY)).text)
    return said


@scenario
async def texts_become_vectors(client: SippClient) -> Any:
    result = await client.embed(["the red circle", "count to ten", "the red circle"], endpoint=VECTORS)
    a, _, c = result.embeddings
    close = sum(x * y for x, y in zip(a, c, strict=True)) > 0.999
    return [result.dimensions, result.normalized, result.usage.prompt_tokens, close, *result.embeddings]


@scenario
async def a_cancelled_embedding_frees_the_engine(client: SippClient) -> Any:
    run = client.embed(["the red circle and the blue square " * 10] * 200, endpoint=VECTORS)
    await asyncio.sleep(0.01)
    run.cancel("enough")
    found = []
    try:
        await run
    except SippError as error:
        found.append(error.code)
    return [*found, (await client.embed("the red circle", endpoint=VECTORS)).embedding]


@scenario
async def texts_become_tokens_and_back(client: SippClient) -> Any:
    text = "The capital of France: 巴黎 🗼"
    tokens = await client.tokenize(text, endpoint=TEXT)
    special = [await client.tokenize("<|im_end|>", parse_special=flag, endpoint=TEXT) for flag in (True, False)]
    return [tokens, await client.detokenize(tokens, endpoint=TEXT), special]


@scenario
async def a_template_makes_the_prompt(client: SippClient) -> Any:
    return await client.apply_template([{"role": "system", "content": "Be brief."}, *ask("Hi")], endpoint=TEXT)


@scenario
async def a_forced_tool_is_called(client: SippClient) -> Any:
    parameters = {"type": "object", "properties": {"colour": {"enum": ["red"]}}, "required": ["colour"]}
    tool = {"type": "function", "function": {"name": "paint", "description": "Paint it.", "parameters": parameters}}
    result = await client.chat(ask("Paint it."), tools=[tool], tool_choice="required", max_tokens=120, **GREEDY)
    calls = [[call["type"], call["function"]["name"], bool(call["id"])] for call in result.tool_calls]
    return [result.finish_reason, calls, result.text]


@scenario
async def python_functions_are_called(client: SippClient) -> Any:
    called = []

    def noon() -> str:
        """The time."""
        called.append("noon")
        return "It is noon."

    result = await client.run_tools(
        ask("What time is it?"), [noon], endpoint=TEXT, tool_choice="required", max_steps=2, temperature=0,
        max_tokens=100,
    )  # fmt: skip
    told = [[message["role"], message["content"]] for message in result.messages[:3]]
    return [called[:1], told, result.endpoint, len(result.steps)]


@scenario
async def a_prompt_beyond_the_context_is_refused(client: SippClient) -> Any:
    return await client.chat(ask("many words " * 2000), **GREEDY)


@scenario
async def a_text_beyond_the_context_is_not_embedded(client: SippClient) -> Any:
    return await client.embed(["short", "many words " * 2000], endpoint=VECTORS)


@scenario
async def what_is_no_image_is_refused(client: SippClient) -> Any:
    parts = [{"type": "image", "image": b"no picture"}, {"type": "text", "text": "?"}]
    return await client.chat([{"role": "user", "content": parts}], **GREEDY)


@scenario
async def a_text_model_does_not_rerank(client: SippClient) -> Any:
    return await client.rerank("capital", ["Paris", "Rome"], endpoint=TEXT)


@scenario
async def a_text_model_does_not_embed(client: SippClient) -> Any:
    return await client.embed("Paris", endpoint=TEXT)


WRONG: list[tuple[str, Mapping[str, Any]]] = [
    ("chat", {"messages": []}),
    ("chat", {"messages": FRANCE, "endpoint": "nowhere"}),
    ("tokenize", {"text": "x", "endpoint": None}),  # two endpoints could serve
    ("chat", {"messages": FRANCE, "temprature": 1}),
    ("chat", {"messages": FRANCE, "temperature": "hot"}),
    ("chat", {"messages": FRANCE, "top_p": 2}),
    ("chat", {"messages": FRANCE, "stop": [""]}),
    ("chat", {"messages": FRANCE, "max_tokens": 0}),
    ("chat", {"messages": FRANCE, "tool_choice": "required"}),
    ("query", {"prompt": 5}),
    ("embed", {"input": []}),
    ("rerank", {"query": "x", "documents": "y", "top_n": 0}),
    ("tokenize", {"text": 5}),
    ("detokenize", {"tokens": "x"}),
]


@scenario
async def wrong_calls_are_refused(client: SippClient) -> Any:
    found = []
    for name, arguments in WRONG:
        try:
            found.append(repr(await getattr(client, name)(**{"endpoint": TEXT, **arguments})))
        except SippError as error:
            found.append(refusal(error))
    return found


@scenario
async def a_run_without_emit_tokens_does_not_stream(client: SippClient) -> Any:
    run = client.chat(FRANCE, **GREEDY)
    try:
        return repr(run.tokens)
    except SippError as error:
        return [refusal(error), (await run).text]


@scenario
async def events_tell_what_happens(client: SippClient) -> Any:
    events: list[str] = []
    end = client.subscribe(lambda event: events.append(event.type))
    await client.chat(FRANCE, **GREEDY)
    try:
        await client.chat(ask("many words " * 2000), **GREEDY)
    except SippError:
        end()
    return events


@only("local", "json_schema")
async def an_answer_follows_a_schema(client: SippClient) -> Any:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    run = client.chat(ask("Give me JSON for Tom, age 7."), json_schema=schema, max_tokens=60, **GREEDY)
    return (await run).parsed


@only("local", "grammar")
async def an_answer_follows_a_grammar(client: SippClient) -> Any:
    return (await client.chat(FRANCE, grammar='root ::= "Lyon" | "Nice"', **GREEDY)).text


@only("local", "grammar")
async def a_wrong_grammar_is_refused(client: SippClient) -> Any:
    return await client.chat(FRANCE, grammar="root ::= nothing-like-this", **GREEDY)


@only("local", "context_key")
async def a_second_turn_computes_only_what_is_new(client: SippClient) -> Any:
    talk = ask("My name is Tom.")
    first = await client.chat(talk, context_key="parity", max_tokens=20, **GREEDY)
    talk += [{"role": "assistant", "content": first.text}, *ask("What is my name?")]
    second = await client.chat(talk, context_key="parity", max_tokens=20, **GREEDY)
    other = await client.chat(talk, context_key="parity-other", max_tokens=20, **GREEDY)
    known = first.usage.prompt_tokens + first.usage.completion_tokens - 2
    return [second.text, second.usage.cached_tokens >= known, other.text, other.usage.cached_tokens]


@only("local", "ignore_eos")
async def an_answer_goes_on_where_eos_is_ignored(client: SippClient) -> Any:
    result = await client.chat(FRANCE, ignore_eos=True, max_tokens=30, **GREEDY)
    return [result.finish_reason, result.usage.completion_tokens]


@only("local", "media")
async def media_are_added_to_the_last_message(client: SippClient) -> Any:
    run = client.chat(ask("What color is it?"), media=[picture("circle", "green")], max_tokens=20, **GREEDY)
    return (await run).text


@only("remote", "endpoint_options")
async def further_options_are_sent(client: SippClient) -> Any:
    run = client.chat(FRANCE, endpoint_options={"user": "somebody"}, **GREEDY)
    return (await run).text
