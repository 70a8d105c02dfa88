"""Native llama.cpp against the tiny model: a real engine in a real process."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gguf_builder import MODEL, STRING, TENSORS, gguf, value
from llama_server import MODELS, TINY, llama_server
from real_models import real_model
from sippet.capabilities import refusal
from sippet.client import SippClient
from sippet.config import RuntimeConfig
from sippet.endpoints import Gateway, LocalModel
from sippet.engines._native_params import HONOURED
from sippet.engines.native import NativeEngine
from sippet.errors import (
    Cancelled,
    ContextOverflow,
    EngineCrashed,
    InvalidModel,
    InvalidOption,
    ModelError,
    ModelNotFound,
    QueueFull,
    UnsupportedEnvironment,
    UnsupportedModel,
    UnsupportedOperation,
    UnsupportedOption,
)
from sippet.models.split import split_model
from sippet.platform._cpython import PathSource

PROJECTOR = MODELS / "mmproj-tiny-f16.gguf"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me a story."}]
LETTERS = 'root ::= "a" root'  # an answer that only a limit ends


def square(rgb: tuple[int, int, int], size: int = 64) -> bytes:
    """A PNG: a square of one colour on white."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    inside = range(size // 4, 3 * size // 4)
    rows = [
        b"\0" + b"".join(bytes(rgb) if x in inside and y in inside else b"\xff" * 3 for x in range(size))
        for y in range(size)
    ]
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    body = piece(b"IHDR", head) + piece(b"IDAT", zlib.compress(b"".join(rows))) + piece(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiny(**context: Any) -> LocalModel:
    return LocalModel(TINY, runtime={"context": {"n_threads": 1, **context}})


@asynccontextmanager
async def client_of(model: LocalModel) -> AsyncIterator[SippClient]:
    async with SippClient() as client:
        await client.add("it", model)
        yield client


def with_client(work: Callable[[SippClient], Awaitable[None]], **context: Any) -> None:
    async def main() -> None:
        async with client_of(tiny(**context)) as client:
            await work(client)

    asyncio.run(main())


def engine_of(client: SippClient) -> NativeEngine:
    engine = client._endpoints["it"].engine
    assert isinstance(engine, NativeEngine)
    return engine


def test_a_chat_is_answered_with_real_counts() -> None:
    async def work(client: SippClient) -> None:
        result = await client.chat(FRANCE, temperature=0)
        assert result.text == "The capital of France is Paris."
        assert result.finish_reason == "stop"
        assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (22, 15)
        assert result.timings.prefill_ms is not None and result.timings.tokens_per_second is not None

    with_client(work)


def test_it_tells_what_it_loaded() -> None:
    async def work(client: SippClient) -> None:
        info = client.endpoints[0].info
        assert info is not None
        assert (info.backend, info.threads, info.n_vocab, info.n_embd) == ("native", 1, 512, 128)
        assert (info.n_ctx, info.n_parallel, info.has_chat_template) == (512, 2, True)
        assert info.metadata["general.architecture"]

    with_client(work, n_parallel=2, n_ctx=512)


def test_the_stream_is_the_final_text_and_nothing_is_split() -> None:
    async def work(client: SippClient) -> None:
        for seed in range(8):
            run = client.query("é🙂 ", emit_tokens=True, temperature=2.0, seed=seed, max_tokens=40)
            text = "".join([batch.text async for batch in run.tokens])
            assert text == (await run).text
            text.encode()  # no half of a character

    with_client(work)


def test_the_same_weights_say_the_same_behind_a_server() -> None:
    async def main(url: str) -> None:
        async with client_of(tiny()) as client:
            await client.add("server", Gateway("tiny", url, server="llama.cpp"))
            for question in ("What is the capital of Spain?", "Count to five.", "Tell me a story."):
                messages = [{"role": "user", "content": question}]
                here, there = [
                    await client.chat(messages, endpoint=name, temperature=0, max_tokens=60)
                    for name in ("it", "server")
                ]
                assert here.text == there.text
                assert here.finish_reason == there.finish_reason
                assert here.usage.completion_tokens == there.usage.completion_tokens

    with llama_server() as url:
        asyncio.run(main(url))


def test_a_limit_gives_length_and_a_stop_text_gives_stop() -> None:
    async def work(client: SippClient) -> None:
        limited = await client.chat(FRANCE, temperature=0, max_tokens=4)
        assert (limited.finish_reason, limited.usage.completion_tokens) == ("length", 4)
        stopped = await client.chat(FRANCE, temperature=0, stop=" is")
        assert (stopped.finish_reason, stopped.text) == ("stop", "The capital of France")

    with_client(work)


def test_the_second_turn_computes_only_what_is_new() -> None:
    async def work(client: SippClient) -> None:
        first = await client.chat(FRANCE, temperature=0)
        turns = [*FRANCE, {"role": "assistant", "content": first.text}, {"role": "user", "content": "And of Italy?"}]
        second = await client.chat(turns, temperature=0, max_tokens=4)
        assert second.usage.cached_tokens >= first.usage.prompt_tokens

    with_client(work)


def test_a_grammar_and_a_schema_hold() -> None:
    async def work(client: SippClient) -> None:
        assert (await client.chat(FRANCE, grammar='root ::= "yes" | "no"')).text in ("yes", "no")
        schema = {"type": "object", "properties": {"ok": {"const": True}}, "required": ["ok"]}
        text = (await client.chat(FRANCE, json_schema=schema, max_tokens=200)).text
        assert "".join(text.split()) == '{"ok":true}'
        with pytest.raises(InvalidOption, match="grammar"):
            await client.chat(FRANCE, grammar="root ::= (")

    with_client(work)


def test_requests_share_the_model_and_keep_apart() -> None:
    async def work(client: SippClient) -> None:
        places = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
        asked = [[{"role": "user", "content": f"What is the capital of {place}?"}] for place in places]
        results = await asyncio.gather(*(client.chat(messages, temperature=0) for messages in asked * 3))
        for result, (place, city) in zip(results, list(places.items()) * 3, strict=True):
            assert result.text == f"The capital of {place} is {city}."

    with_client(work, n_parallel=3, n_ctx=1536)


def test_two_requests_are_computed_together() -> None:
    async def work(client: SippClient) -> None:
        long = client.chat(STORY, grammar=LETTERS, emit_tokens=True)
        async for _ in long.tokens:
            break
        short = await client.chat(FRANCE, temperature=0)
        assert short.text == "The capital of France is Paris."
        assert not long.done
        long.cancel()
        assert (await long).finish_reason == "cancelled"

    with_client(work, n_parallel=2, n_ctx=1024)


def test_a_full_queue_is_refused() -> None:
    async def main() -> None:
        model = LocalModel(TINY, runtime={"context": {"n_threads": 1}, "scheduler": {"max_queued_requests": 1}})
        async with client_of(model) as client:
            running, waiting = [client.chat(STORY, grammar=LETTERS) for _ in range(2)]
            await asyncio.sleep(0.05)
            with pytest.raises(QueueFull):
                await client.chat(FRANCE)
            running.cancel()
            waiting.cancel()

    asyncio.run(main())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processor time of a process from /proc")
def test_a_cancelled_answer_is_not_computed_further() -> None:
    def seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def work(client: SippClient) -> None:
        run = client.chat(STORY, grammar=LETTERS, emit_tokens=True)
        async for _ in run.tokens:
            break
        run.cancel("enough")
        result = await run
        assert result.finish_reason == "cancelled" and result.text.startswith("a")
        assert (await client.chat(FRANCE, temperature=0)).text == "The capital of France is Paris."
        before = seconds(engine_of(client).pid)
        await asyncio.sleep(0.5)
        assert seconds(engine_of(client).pid) - before < 0.25

    with_client(work)


def test_a_cancelled_prefill_ends_after_its_batch() -> None:
    async def main() -> None:
        runtime = {"context": {"n_ubatch": 8, "n_batch": 8, "n_ctx": 8192}}
        async with client_of(LocalModel(real_model(), runtime=runtime)) as client:
            run = client.query("one two three " * 2000, max_tokens=1)  # half a minute's work and more
            await asyncio.sleep(0.5)
            started = time.monotonic()
            run.cancel()
            result = await run
            assert (result.finish_reason, result.text) == ("cancelled", "")
            assert (await client.chat(FRANCE, temperature=0, max_tokens=4)).usage.completion_tokens == 4
            assert time.monotonic() - started < 10, "the next run waits for a batch, not for the rest of the prompt"

    asyncio.run(main())


def test_a_cancelled_embedding_computes_no_further_text() -> None:
    async def work(client: SippClient) -> None:
        texts = ["the red circle and the blue square " * 30] * 100
        started = time.monotonic()
        whole = await client.embed(texts)
        took = time.monotonic() - started
        run = client.embed(texts)
        await asyncio.sleep(took / 10)
        started = time.monotonic()
        run.cancel("enough")
        with pytest.raises(Cancelled, match="enough"):
            await run
        assert (await client.embed(texts[0])).embedding == pytest.approx(whole.embeddings[-1], abs=1e-4)
        assert time.monotonic() - started < took / 2

    with_client(work, embeddings=True, pooling="mean", n_parallel=2, n_ctx=1024)


def test_a_prompt_beyond_the_context_is_a_context_overflow() -> None:
    async def work(client: SippClient) -> None:
        with pytest.raises(ContextOverflow) as caught:
            await client.query("word " * 2000)
        assert caught.value.details["n_ctx"] == 512

    with_client(work)


def test_texts_and_tokens_are_translated_both_ways() -> None:
    async def work(client: SippClient) -> None:
        engine = engine_of(client)
        tokens = (await engine.call("tokenize", {"content": "Hello 🙂"}))["tokens"]
        assert (await engine.call("detokenize", {"tokens": tokens}))["content"] == "Hello 🙂"
        prompt = (await engine.call("template", {"messages": FRANCE}))["prompt"]
        assert prompt.endswith("<|im_start|>assistant\n")

    with_client(work)


def test_a_chat_model_can_embed_when_loaded_for_it() -> None:
    async def work(client: SippClient) -> None:
        found = await engine_of(client).call("embedding", {"input": ["red circle", "red circle", "Rome"]})
        first, same, other = [row["embedding"] for row in found["data"]]
        assert len(first) == 128
        assert sum(a * b for a, b in zip(first, same, strict=True)) == pytest.approx(1, abs=1e-4)
        assert sum(a * b for a, b in zip(first, other, strict=True)) < 0.999

    with_client(work, embeddings=True, pooling="mean")


@pytest.mark.parametrize("template", ["{% if %}", "{{ raise_exception('no') }}"])
def test_a_chat_template_that_can_not_be_read_is_named(template: str) -> None:
    with pytest.raises(InvalidOption, match=r"chat_template: [A-Z]") as caught:
        with_client(lambda client: asyncio.sleep(0), chat_template=template)
    assert caught.value.option == "chat_template"


def test_what_the_model_can_not_do_is_refused() -> None:
    async def work(client: SippClient) -> None:
        with pytest.raises(UnsupportedOperation):
            await engine_of(client).call("embedding", {"input": ["a"]})
        with pytest.raises(UnsupportedOperation):
            await engine_of(client).call("rerank", {"query": "a", "documents": ["b"]})

    with_client(work)


def test_two_models_run_side_by_side() -> None:
    async def work(client: SippClient) -> None:
        await client.add("other", tiny(chat_template="{{ messages[0].content }}"))
        plain = await client.chat(FRANCE, endpoint="other", temperature=0, max_tokens=4)
        assert plain.usage.prompt_tokens < 22
        await client.remove("other")
        assert (await client.chat(FRANCE, temperature=0)).text == "The capital of France is Paris."

    with_client(work)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_close_ends_the_process_and_removes_its_folder(temporary: Path) -> None:
    async def main() -> int:
        async with client_of(tiny()) as client:
            assert entries(temporary)
            return engine_of(client).pid

    pid = asyncio.run(main())
    assert not entries(temporary)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_close_during_an_answer_cancels_it() -> None:
    async def main() -> None:
        async with client_of(tiny()) as client:
            run = client.chat(STORY, grammar=LETTERS, emit_tokens=True)
            async for _ in run.tokens:
                break
        assert (await run).finish_reason == "cancelled"

    asyncio.run(main())


def test_a_cancelled_load_leaves_nothing_behind(temporary: Path) -> None:
    async def main() -> None:
        async with SippClient() as client:
            loading = asyncio.ensure_future(client.add("it", tiny()))
            while not entries(temporary):  # noqa: ASYNC110 (nothing tells of a folder)
                await asyncio.sleep(0.001)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            assert client.state == "ready" and not client.endpoints

    asyncio.run(main())
    assert not entries(temporary)


def test_the_loop_runs_on_while_a_model_loads() -> None:
    async def main() -> None:
        async with SippClient() as client:
            loading = asyncio.ensure_future(client.add("it", tiny()))
            turns = 0
            while not loading.done():
                await asyncio.sleep(0.001)
                turns += 1
            await loading
            assert turns > 20

    asyncio.run(main())


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_crash_is_reported_and_the_model_can_be_added_again() -> None:
    async def work(client: SippClient) -> None:
        run = client.chat(STORY, grammar=LETTERS, emit_tokens=True)
        async for _ in run.tokens:
            break
        os.kill(engine_of(client).pid, signal.SIGSEGV)
        with pytest.raises(EngineCrashed):
            await run
        with pytest.raises(EngineCrashed):
            await client.chat(FRANCE)
        await client.add("it", tiny())
        assert (await client.chat(FRANCE, temperature=0)).text == "The capital of France is Paris."

    with_client(work)


def load_failure(model: LocalModel) -> ModelError:
    async def main() -> ModelError:
        async with SippClient() as client:
            with pytest.raises(ModelError) as caught:
                await client.add("it", model)
            return caught.value

    return asyncio.run(main())


def test_bad_files_are_told_apart(tmp_path: Path) -> None:
    def file(name: str, data: bytes) -> LocalModel:
        (tmp_path / name).write_bytes(data)
        return LocalModel(tmp_path / name)

    whole = TINY.read_bytes()
    assert isinstance(load_failure(LocalModel(tmp_path / "none.gguf")), ModelNotFound)
    assert isinstance(load_failure(file("text.gguf", b"hello" * 100)), InvalidModel)
    assert isinstance(load_failure(file("half.gguf", whole[: len(whole) // 2])), InvalidModel)
    strange = {**MODEL, "general.architecture": value(STRING, "strange")}
    strange |= {key.replace("llama.", "strange."): item for key, item in MODEL.items() if key.startswith("llama.")}
    failure = load_failure(file("strange.gguf", gguf(strange, TENSORS)))
    assert isinstance(failure, UnsupportedModel) and "strange" in failure.message
    assert isinstance(load_failure(file("hollow.gguf", gguf(MODEL, TENSORS))), InvalidModel)


def test_every_field_of_the_configuration_is_honoured_or_refused_as_the_table_says() -> None:
    for group in dataclasses.fields(RuntimeConfig):
        assert callable(group.default_factory)
        for item in dataclasses.fields(group.default_factory()):
            honoured = item.name in HONOURED.get(group.name, {})
            assert honoured == (refusal("native", "native", item) is None), f"{group.name}.{item.name}"


def test_a_field_for_a_gpu_is_refused_where_the_processor_computes() -> None:
    async def main() -> None:
        async with SippClient() as client:
            for group, values in {"placement": {"n_gpu_layers": 4}, "multimodal": {"projector_on_gpu": True}}.items():
                runtime = {"context": {"n_threads": 1}, group: values}
                with pytest.raises(UnsupportedOption, match=next(iter(values))):
                    await client.add("it", LocalModel(TINY, backend="cpu", runtime=runtime))

    asyncio.run(main())


def test_an_image_is_seen() -> None:
    async def main() -> None:
        model = LocalModel(TINY, projector=PROJECTOR, runtime={"context": {"n_threads": 1}})
        async with client_of(model) as client:
            info = client.endpoints[0].info
            assert info is not None and info.has_vision
            for colour, rgb in {"red": (255, 0, 0), "blue": (0, 0, 255)}.items():
                ask = [{"role": "user", "content": "What is in the image?"}]
                result = await client.chat(ask, media=[square(rgb)], temperature=0)
                assert colour in result.text and "square" in result.text

    asyncio.run(main())


def test_a_model_without_a_projector_refuses_images() -> None:
    async def work(client: SippClient) -> None:
        assert client.endpoints[0].info and client.endpoints[0].info.has_vision is False
        with pytest.raises(UnsupportedOption, match="media"):
            await client.chat(FRANCE, media=[square((255, 0, 0))])

    with_client(work)


def test_shards_are_one_model_whatever_their_names(tmp_path: Path) -> None:
    async def main() -> None:
        parts = await split_model(PathSource(TINY), tmp_path, max_bytes=600_000)
        renamed = [part.rename(tmp_path / f"{chr(122 - n)}.part") for n, part in enumerate(parts)]
        assert len(renamed) > 2
        async with client_of(LocalModel(renamed, runtime={"context": {"n_threads": 1}})) as client:
            assert (await client.chat(FRANCE, temperature=0)).text == "The capital of France is Paris."

    asyncio.run(main())


def test_options_of_the_browser_are_refused() -> None:
    async def main() -> None:
        async with SippClient(execution_mode="worker") as client:
            with pytest.raises(UnsupportedOption, match="execution_mode"):
                await client.add("it", tiny())
        async with SippClient() as client:
            with pytest.raises(UnsupportedEnvironment):
                await client.add("it", LocalModel(TINY, backend="webgpu"))

    asyncio.run(main())


def test_without_the_wheel_it_says_what_to_install() -> None:
    program = (
        "import asyncio\n"
        "from sippet.client import SippClient\n"
        "from sippet.endpoints import LocalModel\n"
        "from sippet.errors import UnsupportedEnvironment\n"
        "async def main():\n"
        "    try:\n"
        f"        await SippClient().add('it', LocalModel({str(TINY)!r}))\n"
        "    except UnsupportedEnvironment as error:\n"
        "        print(error.details['feature'], error)\n"
        "asyncio.run(main())\n"
    )
    where = os.pathsep.join(path for path in sys.path if path.endswith("browser_runtime"))
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env={**os.environ, "PYTHONPATH": where}, capture_output=True, text=True
    )
    assert "native_engine" in done.stdout and "sippet[native]" in done.stdout, done.stderr
