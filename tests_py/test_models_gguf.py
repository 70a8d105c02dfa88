"""The GGUF header reader: real files, a corpus of bad ones, and thousands of mutations."""

from __future__ import annotations

import asyncio
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from gguf_builder import ARRAY, BOOL, F32, I32, MODEL, STRING, TENSORS, U8, U32, U64, T, gguf, string, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_models import real_model
from sippet.errors import InvalidModel, UnsupportedModel
from sippet.models._ggml import GGML_TYPES
from sippet.models.checks import check_model, check_shards
from sippet.models.gguf import KEEP_IN_ALL, BytesSource, read_array, read_header
from sippet.models.header import ArrayRef, GgufHeader

MODELS = Path(__file__).parent / "models"
TINY = (MODELS / "tiny-chat-f16.gguf").read_bytes()
PROJECTOR = (MODELS / "mmproj-tiny-f16.gguf").read_bytes()
REASONS = {"not_gguf", "wrong_version", "big_endian", "truncated", "corrupt", "absurd_header"}


class Stream:
    """A source of unknown length that notes what was read of it, and may give less than asked."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self.size = None
        self.data, self.most, self.reads = data, most, []

    async def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + min(length, self.most)]


def read(data: bytes) -> GgufHeader:
    return asyncio.run(read_header(BytesSource(data)))


def refused(data: bytes) -> str:
    """The reason why the file is refused, by size known and by size unknown alike."""
    with pytest.raises(InvalidModel) as caught:
        read(data)
    error = caught.value
    assert error.hint and error.message.endswith(".")
    return str(error.details["reason"])


def checked(keys: dict[str, bytes], tensors: tuple[T, ...] = TENSORS) -> None:
    check_model(read(gguf(keys, tensors)))


def test_a_real_model_is_described() -> None:
    header = read(TINY)
    check_model(header, {"llama"})
    assert (header.version, header.alignment, header.architecture, header.quantization) == (3, 32, "llama", "F16")
    assert (header.context_length, header.parameters, header.license) == (512, 853_120, "cc0-1.0")
    assert (header.vocabulary, header.data_offset, header.file_size) == (512, 14_560, len(TINY))
    assert header.chat_template is not None and "im_start" in header.chat_template
    assert (header.split_number, header.split_count, header.hyper("attention.head_count_kv")) == (0, 1, 2)
    first = header.tensors[0]
    assert (first.name, first.type_name, first.offset) == ("token_embd.weight", "F16", 0)
    assert first.dims == (128, 512) and first.nbytes == first.elements * 2 == 131_072


def test_long_arrays_stay_in_the_file_until_they_are_asked_for() -> None:
    path = real_model()

    async def main() -> None:
        with path.open("rb") as file:

            class Source:
                size = path.stat().st_size
                total = 0

                async def read(self, offset: int, length: int) -> bytes:
                    self.total += length
                    file.seek(offset)
                    return file.read(length)

            source = Source()
            header = await read_header(source)
            assert source.total < header.data_offset + (1 << 20)
            assert (header.quantization, header.parameters, header.vocabulary) == ("Q4_1", 134_515_008, 49_152)
            tokens = header.metadata["tokenizer.ggml.tokens"]
            assert isinstance(tokens, ArrayRef) and len(tokens) == 49_152
            texts = await read_array(source, tokens)
            assert texts[1] == "<|im_start|>" and len(texts) == 49_152
            kinds = header.metadata["tokenizer.ggml.token_type"]
            assert isinstance(kinds, ArrayRef)
            assert set(await read_array(source, kinds)) == {1, 3}

    asyncio.run(main())


def test_only_the_header_is_read_and_in_steps() -> None:
    source = Stream(TINY + bytes(50 << 20))
    header = asyncio.run(read_header(source))
    assert header.file_size == len(TINY)
    assert source.reads == [(0, 24), (0, 65536)]


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_source_may_give_less_than_asked(most: int) -> None:
    data = gguf(MODEL, TENSORS)
    assert asyncio.run(read_header(Stream(data, most))) == read(data)


@pytest.mark.parametrize("longest", [5, 47, 48, 60, 300])
@pytest.mark.parametrize("count", [63, 64, 65, 5000])
def test_strings_of_every_length_are_stepped_over(longest: int, count: int) -> None:
    texts = [chr(number % 3).encode() * (number * 7 % (longest + 1)) for number in range(count)]
    keys = {**MODEL, "x": value(ARRAY, (STRING, texts)), "y": value(U32, 7)}
    data = gguf(keys, TENSORS)
    for source in (Stream(data), Stream(data, 700)):  # also where a read ends inside a string
        header = asyncio.run(read_header(source))
        assert header.integer("y") == 7
        assert header.file_size == len(data)


def test_a_long_number_array_is_stepped_over_without_reading_it() -> None:
    keys = {**MODEL, "x": value(ARRAY, (F32, [0.0] * 1_000_000)), "y": value(U32, 7)}
    source = Stream(gguf(keys, TENSORS))
    header = asyncio.run(read_header(source))
    assert header.integer("y") == 7
    assert sum(length for _, length in source.reads) < 1_000_000


def test_short_arrays_are_values_and_long_ones_are_not() -> None:
    header = read(gguf({"a": value(ARRAY, (U8, [1, 2])), "b": value(ARRAY, (BOOL, [True] * 1025))}))
    assert header.metadata["a"] == (1, 2)
    assert isinstance(header.metadata["b"], ArrayRef)


def test_version_2_and_another_alignment_are_read() -> None:
    keys = {**MODEL, "general.alignment": value(U32, 64)}
    header = read(gguf(keys, TENSORS, version=2, alignment=64))
    assert (header.version, header.alignment, [t.offset for t in header.tensors]) == (2, 64, [0, 384, 640])


def test_the_last_tensor_needs_no_padding_behind_it() -> None:
    data = gguf(MODEL, (T("a", (3,), 0),))
    assert read(data[:-20]).file_size == len(data) - 20
    assert refused(data[:-21]) == "truncated"


def test_quantization_is_counted_where_the_file_does_not_name_it() -> None:
    assert read(gguf(MODEL, TENSORS)).quantization == "F16"
    assert read(gguf({**MODEL, "general.file_type": value(U32, 15)}, TENSORS)).quantization == "Q4_K_M"


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"<!DOCTYPE html><title>404</title>", "web page"),
        (b'\n {"error": "no"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"tjgg" + bytes(100), "old GGML"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"hello, world", ""),
        (b"\0", ""),
        (b"FUGG" + bytes(100), ""),
    ],
)
def test_another_kind_of_file_is_named(data: bytes, looks_like: str) -> None:
    with pytest.raises(InvalidModel) as caught:
        read(data)
    assert caught.value.details["reason"] == "not_gguf"
    assert looks_like in caught.value.message


HUGE = 1 << 63
TENSOR_HEAD = string("t") + struct.pack("<I", 1)


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("truncated", b""),
        ("truncated", b"G"),
        ("truncated", b"GGUF"),
        ("truncated", gguf(MODEL, TENSORS)[:20]),
        ("truncated", gguf(MODEL, TENSORS)[:100]),
        ("truncated", gguf(MODEL, TENSORS)[:-33]),
        ("wrong_version", gguf(version=0)),
        ("wrong_version", gguf(version=1)),
        ("wrong_version", gguf(version=4)),
        ("wrong_version", gguf(version=2**32 - 1)),
        ("big_endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(100)),
        ("absurd_header", gguf(n_keys=HUGE)),
        ("absurd_header", gguf(n_tensors=HUGE)),
        ("absurd_header", gguf(n_keys=2**64 - 1, n_tensors=2**64 - 1)),
        ("truncated", gguf(n_keys=60_000)[:24]),
        ("truncated", gguf(n_tensors=100_000)[:24]),
        ("corrupt", gguf(n_keys=60_000)),
        ("absurd_header", gguf([("k", struct.pack("<IQ", STRING, HUGE))])),
        ("absurd_header", gguf([("k", struct.pack("<IIQ", ARRAY, F32, 1 << 62))])),
        ("absurd_header", gguf([("k", struct.pack("<IIQ", ARRAY, STRING, 1 << 62))])),
        ("truncated", gguf([("k", struct.pack("<IIQ", ARRAY, F32, 1 << 20))])),
        ("truncated", gguf([("k", struct.pack("<IIQ", ARRAY, STRING, 1 << 20))])),
        ("absurd_header", gguf([("k", struct.pack("<IIQ", ARRAY, STRING, 2000) + struct.pack("<Q", HUGE) * 2000)])),
        ("corrupt", gguf([("k", struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", U8, 0))])),
        ("corrupt", gguf([("k", struct.pack("<IIQ", ARRAY, 13, 1))])),
        ("corrupt", gguf([("k", struct.pack("<I", 13) + bytes(20))])),
        ("corrupt", gguf([("k", value(U8, 1)), ("k", value(U8, 2))])),
        ("corrupt", gguf([("", value(U8, 1))])),
        ("corrupt", gguf([(b"\xff\xfe", value(U8, 1))])),  # type: ignore[list-item]
        ("corrupt", gguf({"general.alignment": value(U32, 0)}, TENSORS)),
        ("corrupt", gguf({"general.alignment": value(U32, 3)}, TENSORS)),
        ("corrupt", gguf({"general.alignment": value(I32, -32)}, TENSORS)),
        ("corrupt", gguf({"general.alignment": value(STRING, "32")}, TENSORS)),
        ("absurd_header", gguf({"general.alignment": value(U32, 1 << 31)}, TENSORS)),
        ("corrupt", gguf(MODEL, (T("a"), T("a")))),
        ("corrupt", gguf(MODEL, (T("a", (1, 1, 1, 1, 1)),))),
        ("corrupt", gguf(MODEL, (T("a", kind=4, nbytes=8),))),
        ("corrupt", gguf(MODEL, (T("a", kind=43, nbytes=8),))),
        ("corrupt", gguf(MODEL, (T("a", kind=2**32 - 1, nbytes=8),))),
        ("corrupt", gguf(MODEL, (T("a", (33,), 2),))),
        ("corrupt", gguf(MODEL, (T("a"), T("b", offset=0)))),
        ("corrupt", gguf(MODEL, (T("a", offset=32),))),
        ("corrupt", gguf(MODEL, (T("a", offset=2**64 - 32),))),
        ("absurd_header", gguf(MODEL, (T("a", (2**32, 2**32), nbytes=0),))),
        ("absurd_header", gguf(MODEL, (T("a", (2**63, 0), nbytes=0),))),
        ("absurd_header", gguf(MODEL, (T("a", (2**64 - 1,), nbytes=0),))),
        ("absurd_header", gguf(MODEL, (T("x" * 64),))),
        ("truncated", gguf(MODEL, (T("a", (2**40,), nbytes=0),))),
    ],
)
def test_bad_files_are_refused_with_a_reason(reason: str, data: bytes) -> None:
    assert refused(data) == reason


def test_a_file_cut_anywhere_is_truncated() -> None:
    data = gguf(MODEL, (T("weight", (8,), 0),))
    for cut in range(len(data)):
        assert refused(data[:cut]) == "truncated"


def test_a_stream_cut_anywhere_in_its_header_is_truncated() -> None:
    data = gguf(MODEL, TENSORS)
    for cut in range(read(data).data_offset - 32):
        with pytest.raises(InvalidModel) as caught:
            asyncio.run(read_header(Stream(data[:cut])))
        assert caught.value.details["reason"] == "truncated"


def test_a_header_without_end_stops_at_the_limit() -> None:
    class Endless:
        size = None

        async def read(self, offset: int, length: int) -> bytes:
            head = gguf([("k", struct.pack("<IIQ", ARRAY, STRING, 1 << 22))])[:-8]
            block = struct.pack("<Q", 1 << 10) + bytes(1 << 10)
            if offset == 0:
                return head + block * (length // len(block))
            start = (offset - len(head)) % len(block)
            return (block * (length // len(block) + 2))[start : start + length]

    tracemalloc.start()
    begun = time.perf_counter()
    with pytest.raises(InvalidModel) as caught:
        asyncio.run(read_header(Endless()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.details["reason"] in REASONS
    assert time.perf_counter() - begun < 20
    assert peak < 64 << 20


def test_a_file_of_zeros_after_the_counts_is_refused_at_once() -> None:
    tracemalloc.start()
    assert refused(b"GGUF" + struct.pack("<IQQ", 3, 1 << 17, 1 << 16) + bytes(1 << 20)) == "corrupt"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_projector_and_an_adapter_are_not_models() -> None:
    for data, reason in (
        (PROJECTOR, "projector"),
        (gguf({**MODEL, "general.type": value(STRING, "adapter")}, TENSORS), "adapter"),
    ):
        with pytest.raises(UnsupportedModel) as caught:
            check_model(read(data))
        assert caught.value.details["reason"] == reason


def test_an_architecture_that_the_engine_lacks_is_named() -> None:
    with pytest.raises(UnsupportedModel, match="'llama'") as caught:
        check_model(read(TINY), {"gemma3", "qwen3"})
    assert caught.value.details == {"reason": "architecture", "architecture": "llama"}


@pytest.mark.parametrize(
    ("reason", "key", "raw"),
    [
        ("corrupt", "general.architecture", None),
        ("corrupt", "general.architecture", value(U32, 1)),
        ("corrupt", "llama.block_count", None),
        ("corrupt", "llama.block_count", value(U32, 0)),
        ("absurd_header", "llama.block_count", value(U32, 513)),
        ("corrupt", "llama.block_count", value(STRING, "2")),
        ("corrupt", "llama.embedding_length", value(BOOL, True)),
        ("absurd_header", "llama.embedding_length", value(U32, 2**32 - 1)),
        ("corrupt", "llama.context_length", value(I32, -1)),
        ("no_tokenizer", "tokenizer.ggml.model", None),
        ("shard_order", "split.no", value(U32, 2)),
    ],
)
def test_a_model_without_usable_hyperparameters_is_refused(reason: str, key: str, raw: bytes | None) -> None:
    checked(MODEL)
    keys = {**MODEL, key: raw} if raw else {k: v for k, v in MODEL.items() if k != key}
    with pytest.raises(InvalidModel) as caught:
        checked(keys)
    assert caught.value.details["reason"] == reason


def test_a_vocabulary_alone_is_not_a_model() -> None:
    with pytest.raises(InvalidModel) as caught:
        checked(MODEL, ())
    assert caught.value.details["reason"] == "no_tensors"


def test_many_short_arrays_are_not_all_kept() -> None:
    arrays = {f"a{number}": value(ARRAY, (I32, range(1024))) for number in range(300)}
    header = read(gguf({**MODEL, **arrays}, TENSORS))
    kept = [isinstance(header.metadata[name], tuple) for name in arrays]
    assert kept == sorted(kept, reverse=True) and sum(kept) == KEEP_IN_ALL // 1024 - 1
    assert all(len(header.metadata[name]) == 1024 for name in arrays)  # type: ignore[arg-type]


def shard(number: int, count: int, total: int, *names: str) -> GgufHeader:
    keys = {"split.no": value(2, number), "split.count": value(2, count), "split.tensors.count": value(I32, total)}
    return read(gguf({**MODEL, **keys}, [T(name) for name in names]))


def test_shards_must_be_whole_in_order_and_of_one_model() -> None:
    one, two, three = shard(0, 3, 3, "a"), shard(1, 3, 3, "b"), shard(2, 3, 3, "c")
    check_shards([one, two, three])
    check_shards([read(TINY)])
    for headers, reason in (
        ([one], "shard_missing"),
        ([one, three], "shard_missing"),
        ([one, two, shard(2, 4, 3, "c")], "shard_missing"),
        ([read(TINY), one], "shard_missing"),
        ([one, three, two], "shard_order"),
        ([two, one, three], "shard_order"),
        ([one, two, two], "shard_order"),
        ([one, two, shard(2, 3, 3, "b")], "corrupt"),
        ([one, two, shard(2, 3, 3, "c", "d")], "corrupt"),
        ([read(gguf({**MODEL, "split.count": value(U64, 10**12)}, TENSORS))], "absurd_header"),
    ):
        with pytest.raises(InvalidModel) as caught:
            check_shards(headers)
        assert caught.value.details["reason"] == reason, headers


def assert_sound(header: GgufHeader, size: int) -> None:
    """What must be true of every header that was accepted, whatever the bytes were."""
    assert header.version in (2, 3)
    assert header.alignment & (header.alignment - 1) == 0 < header.alignment
    assert header.data_offset % header.alignment == 0 or not header.tensors
    position = 0
    for tensor in header.tensors:
        assert tensor.kind in GGML_TYPES and len(tensor.dims) <= 4
        assert tensor.offset == position
        position += -(-tensor.nbytes // header.alignment) * header.alignment
        assert header.data_offset + tensor.offset + tensor.nbytes <= size
    assert len({tensor.name for tensor in header.tensors}) == len(header.tensors)
    assert header.file_size <= size
    for item in header.metadata.values():
        assert isinstance(item, (int, float, bool, str, tuple, ArrayRef))
        if isinstance(item, ArrayRef):
            assert item.offset + item.nbytes <= header.data_offset + header.alignment
    try:
        check_model(header)
    except (InvalidModel, UnsupportedModel):
        return
    assert 1 <= (header.integer(f"{header.architecture}.block_count") or 0) <= 512


INTERESTING = [0, 1, 2, 3, 8, 9, 13, 31, 33, 0x7F, 0xFF, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63]


def mutate(data: bytearray, end: int, rng: random.Random) -> bytes:
    """One to four changes to the header, of the kinds that parsers trip over."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(end)
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                struct.pack_into("<I", data, min(at, len(data) - 4), rng.choice(INTERESTING) & 0xFFFFFFFF)
            case 3:
                struct.pack_into("<Q", data, min(at, len(data) - 8), rng.choice(INTERESTING) & (2**64 - 1))
            case 4:
                length = rng.randint(1, 64)
                other = rng.randrange(end)
                data[at : at + length] = data[other : other + length]
            case _:
                del data[at : at + rng.randint(1, 16)]
    return bytes(data)


@pytest.mark.parametrize(("name", "rounds"), [("tiny", 2500), ("projector", 2000), ("built", 4000), ("smollm2", 60)])
def test_mutated_headers_are_refused_or_sound(name: str, rounds: int) -> None:
    if name == "smollm2":
        path = real_model()
        with path.open("rb") as file:
            whole = file.read(4 << 20)
        size = path.stat().st_size
    else:
        whole = {"tiny": TINY, "projector": PROJECTOR, "built": gguf(MODEL, TENSORS)}[name]
        size = len(whole)
    end = 2_000_000 if name == "smollm2" else asyncio.run(read_header(BytesSource(whole))).data_offset
    rng = random.Random(20261122)
    refusals = 0

    async def run() -> None:
        nonlocal refusals
        for _ in range(rounds):
            data = mutate(bytearray(whole), min(end, len(whole)), rng)

            class Source(BytesSource):
                pass

            source = Source(data)
            source.size = size + len(data) - len(whole)
            try:
                header = await read_header(source)
            except InvalidModel as error:
                assert error.details["reason"] in REASONS
                refusals += 1
            else:
                assert_sound(header, source.size)

    asyncio.run(run())
    assert refusals > rounds // 10


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=400), keys=st.integers(0, 5), tensors=st.integers(0, 5))
def test_random_bytes_after_a_good_start_are_refused_or_sound(data: bytes, keys: int, tensors: int) -> None:
    whole = b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + data
    try:
        header = read(whole)
    except InvalidModel as error:
        assert error.details["reason"] in REASONS
    else:
        assert_sound(header, len(whole))


KEY = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
SCALAR = st.one_of(
    st.integers(0, 255).map(lambda n: value(U8, n)),
    st.integers(-(2**31), 2**31 - 1).map(lambda n: value(I32, n)),
    st.booleans().map(lambda n: value(BOOL, n)),
    st.text(max_size=30).map(lambda t: value(STRING, t.encode("utf-8", "replace"))),
    st.lists(st.integers(0, 2**32 - 1), max_size=5).map(lambda n: value(ARRAY, (U32, n))),
)


@settings(max_examples=300, deadline=None)
@given(
    keys=st.dictionaries(KEY.filter(lambda k: k != "general.alignment"), SCALAR, max_size=6),
    shapes=st.lists(
        st.tuples(st.sampled_from(sorted(GGML_TYPES)), st.integers(0, 3), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    ),
    version=st.sampled_from([2, 3]),
)
def test_every_sound_file_is_read_back_as_it_was_written(
    keys: dict[str, bytes], shapes: list[tuple[int, int, list[int]]], version: int
) -> None:
    tensors = [
        T(f"t{index}", (rows * GGML_TYPES[kind].block_elements, *rest), kind)
        for index, (kind, rows, rest) in enumerate(shapes)
    ]
    data = gguf(keys, tensors, version=version)
    header = read(data)
    assert list(header.metadata) == list(keys)
    for key, (start, end) in header.spans.items():
        assert data[start:end] == string(key) + keys[key]
    assert [(t.name, t.dims, t.kind) for t in header.tensors] == [(t.name, tuple(t.dims), t.kind) for t in tensors]
    assert_sound(header, len(data))
