"""The memory plan, held against what llama.cpp said it allocated (b11549, CPU, each number from its log)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from gguf_builder import ARRAY, BOOL, F32, MODEL, STRING, U32, T, gguf, value
from sippet.config import ContextConfig
from sippet.errors import ModelTooLarge
from sippet.models.fitting import fitted_context, require_memory
from sippet.models.gguf import BytesSource, read_header
from sippet.models.header import GgufHeader
from sippet.models.plan import BYTES_PER_MERGE, MemoryLimit, memory_limit, plan_memory
from sippet.platform.base import Environment

MIB = 1 << 20
ROOMY = MemoryLimit(1 << 50, "nothing")


def model(architecture: str, vocabulary: int, **numbers: Any) -> GgufHeader:
    """A header with these hyperparameters and no weights to speak of."""
    keys = {
        "general.architecture": value(STRING, architecture),
        "tokenizer.ggml.model": value(STRING, "gpt2"),
        "tokenizer.ggml.tokens": value(ARRAY, (STRING, [""] * vocabulary)),
    }
    for name, number in numbers.items():
        raw = value(ARRAY, number) if isinstance(number, tuple) else value(U32, number)
        keys[f"{architecture}.{name.replace('__', '.')}"] = raw
    return asyncio.run(read_header(BytesSource(gguf(keys, [T("token_embd.weight", (32,), F32)]))))


def smollm2() -> GgufHeader:
    return model(
        "llama",
        49152,
        block_count=30,
        context_length=8192,
        embedding_length=576,
        feed_forward_length=1536,
        attention__head_count=9,
        attention__head_count_kv=3,
    )


def gemma3() -> GgufHeader:
    return model(
        "gemma3",
        262144,
        block_count=18,
        context_length=32768,
        embedding_length=640,
        feed_forward_length=2048,
        attention__head_count=4,
        attention__head_count_kv=1,
        attention__key_length=256,
        attention__value_length=256,
        attention__sliding_window=512,
    )


@pytest.mark.parametrize(
    ("header", "config", "kv_cache", "compute"),
    [
        (smollm2, {"n_ctx": 4096, "n_ubatch": 512}, 90.00, 18.83),
        (smollm2, {"n_ctx": 2048, "n_ubatch": 512}, 45.00, 16.83),
        (smollm2, {"n_ctx": 4096, "n_ubatch": 64}, 90.00, 2.52),
        (smollm2, {"n_ctx": 1000, "n_ubatch": 128}, 22.50, 4.10),
        (smollm2, {"n_ctx": 4096, "n_ubatch": 512, "n_parallel": 4}, 90.00, 16.39),
        (smollm2, {"n_ctx": 4096, "n_ubatch": 512, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}, 47.81, 18.86),
        (smollm2, {"n_ctx": 4096, "n_ubatch": 512, "flash_attention": "disabled"}, 90.00, 87.70),
        (smollm2, {"n_ctx": 4096, "n_ubatch": 64, "flash_attention": "disabled"}, 90.00, 11.13),
        (gemma3, {"n_ctx": 4096, "n_ubatch": 512}, 27.00, 24.28),
        (gemma3, {"n_ctx": 8192, "n_ubatch": 512}, 39.00, 28.28),
        (gemma3, {"n_ctx": 4096, "n_ubatch": 64}, 23.25, 3.88),
        (gemma3, {"n_ctx": 4096, "n_ubatch": 512, "flash_attention": "disabled"}, 27.00, 55.27),
    ],
)
def test_cache_and_buffers_are_what_llama_cpp_allocates(
    header: Any, config: dict[str, Any], kv_cache: float, compute: float
) -> None:
    plan = plan_memory([header()], ContextConfig(**config), limit=ROOMY)
    assert plan.kv_cache / MIB == pytest.approx(kv_cache, abs=0.01)
    assert plan.compute / MIB == pytest.approx(compute, rel=0.1)


def test_weights_are_counted_over_all_files() -> None:
    one = asyncio.run(read_header(BytesSource(gguf(MODEL, [T("a", (256,), 12), T("b", (3,), 0)]))))
    two = asyncio.run(read_header(BytesSource(gguf({}, [T("c", (64,), 8)]))))
    assert plan_memory([one, two], limit=ROOMY).weights == 144 + 12 + 68


def test_the_context_is_the_models_own_up_to_4096_unless_given() -> None:
    assert plan_memory([smollm2()], limit=ROOMY).n_ctx == 4096
    assert plan_memory([model("llama", 3, context_length=128, block_count=1)], limit=ROOMY).n_ctx == 128
    assert plan_memory([smollm2()], ContextConfig(n_ctx=6000), limit=ROOMY).n_ctx == 6000


def test_layers_may_differ_in_their_heads() -> None:
    same = {"block_count": 4, "embedding_length": 64, "attention__head_count": 4, "context_length": 256}
    even = model("llama", 3, **same, attention__head_count_kv=2)
    uneven = model("llama", 3, **same, attention__head_count_kv=(U32, [4, 0, 4, 0]))
    assert plan_memory([even], limit=ROOMY).kv_cache == plan_memory([uneven], limit=ROOMY).kv_cache


def test_a_files_own_window_pattern_is_followed() -> None:
    shape = {"block_count": 4, "embedding_length": 64, "attention__head_count": 4, "attention__head_count_kv": 4}
    whole = model("llama", 3, **shape, context_length=8192)
    window = {"attention__sliding_window": 256, "context_length": 8192}
    half = model("llama", 3, **shape, **window, attention__sliding_window_pattern=(BOOL, [True, False] * 2))
    config = ContextConfig(n_ctx=8192, n_ubatch=256)
    full = plan_memory([whole], config, limit=ROOMY).kv_cache
    assert plan_memory([half], config, limit=ROOMY).kv_cache == full // 2 + full // 2 * 512 // 8192
    everything = ContextConfig(n_ctx=8192, n_ubatch=256, swa_full=True)
    assert plan_memory([half], everything, limit=ROOMY).kv_cache == full


def test_the_verdict_names_what_fits() -> None:
    header = smollm2()
    needs = plan_memory([header], limit=ROOMY).total
    assert plan_memory([header], limit=MemoryLimit(needs, "it")).verdict == "fits"
    plan = plan_memory([header], limit=MemoryLimit(needs - 1, "it"))
    assert plan.verdict == "fits_smaller" and 3000 < plan.max_n_ctx < 4096
    with pytest.raises(ModelTooLarge, match=f"n_ctx to {plan.max_n_ctx} or less") as caught:
        plan.require()
    assert caught.value.details["needs"] == needs
    smaller = plan_memory([header], ContextConfig(n_ctx=plan.max_n_ctx), limit=plan.limit)
    smaller.require()
    assert smaller.total <= plan.limit.nbytes


def test_what_never_fits_is_refused_with_both_numbers() -> None:
    plan = plan_memory([smollm2()], limit=MemoryLimit(20 * MIB, "a small device"))
    assert (plan.verdict, plan.max_n_ctx) == ("too_large", 0)
    with pytest.raises(ModelTooLarge, match=r"needs \d+ MB, and a small device leaves 21 MB"):
        plan.require()


def test_memory_that_is_taken_counts() -> None:
    header = smollm2()
    limit = MemoryLimit(plan_memory([header], limit=ROOMY).total, "it")
    assert plan_memory([header], limit=limit, extra=1).verdict == "fits_smaller"


def test_the_limit_is_the_tightest_one() -> None:
    assert memory_limit().nbytes < 4 << 30
    assert memory_limit(device_memory=4 << 30).nbytes == 2 << 30
    assert "4.3 GB" in memory_limit(device_memory=4 << 30).reason
    assert memory_limit(wasm=False, device_memory=64 << 30).nbytes == 64 << 30
    assert memory_limit(wasm=False).nbytes >= 1 << 62
    small = memory_limit(device_memory=8 << 30, wasm_memory=1 << 30)
    assert (small.nbytes, small.reason) == (1 << 30, "the memory that this browser gives WebAssembly")
    assert memory_limit(wasm_memory=4 << 30) == memory_limit()


def test_what_other_models_take_is_the_devices_and_not_webassemblys() -> None:
    alone, beside = memory_limit(device_memory=6 << 30), memory_limit(device_memory=6 << 30, taken=1 << 30)
    assert (alone.nbytes, beside.nbytes) == (3 << 30, 2 << 30)
    assert "beside models that take 1.1 GB" in beside.reason
    assert memory_limit(device_memory=1 << 40, taken=1 << 30) == memory_limit(device_memory=1 << 40)
    assert memory_limit(device_memory=1 << 30, taken=1 << 30, wasm=False).nbytes == 0


def test_the_merges_of_a_vocabulary_count() -> None:
    keys = {**MODEL, "tokenizer.ggml.merges": value(ARRAY, (STRING, ["a b"] * 2000))}
    with_merges = asyncio.run(read_header(BytesSource(gguf(keys, [T("token_embd.weight", (32,), F32)]))))
    without = asyncio.run(read_header(BytesSource(gguf(MODEL, [T("token_embd.weight", (32,), F32)]))))
    more = plan_memory([with_merges], limit=ROOMY).overhead - plan_memory([without], limit=ROOMY).overhead
    assert more == 2000 * BYTES_PER_MERGE


def test_an_embedding_models_batch_is_its_whole_context() -> None:
    embedder = model("llama", 3, context_length=2048, block_count=1, embedding_length=64, pooling_type=1)
    context = fitted_context(ContextConfig(), embedder)
    assert (context.n_ctx, context.n_ubatch, context.embeddings) == (2048, 2048, True)


def test_a_model_that_does_not_fit_this_place_is_refused_before_it_is_loaded() -> None:
    phone = Environment("browser", device_memory=512 << 20)
    with pytest.raises(ModelTooLarge, match="a device with 537 MB of memory leaves 268 MB"):
        require_memory([smollm2()], ContextConfig(n_ctx=32768), phone, [gemma3()])
    assert require_memory([smollm2()], ContextConfig(n_ctx=512), phone).verdict == "fits"
