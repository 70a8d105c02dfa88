"""``sippet bench``: what it measures, in which order, and what it makes of the values."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _lockfile import read_lock
from click.testing import CliRunner
from sippet.errors import EngineCrashed, EngineError
from sippet_host import cli_bench
from sippet_host.bench.cases import Case, Prompt, context_size, make_prompt, parse_case
from sippet_host.bench.machine import describe_machine
from sippet_host.bench.markdown import render
from sippet_host.bench.native import NativeSubject
from sippet_host.bench.pages import OldWllama, SippetBuild, Transformers, Wllama
from sippet_host.bench.results import Key, Result, Values, report
from sippet_host.bench.rounds import MOST_REPEATS, Measurement, Plan, rotated
from sippet_host.bench.subjects import Job, Session, Subject, Timings
from sippet_host.bench.weights import Weights, read_weights
from sippet_host.errors import BenchUnavailable, ConfigurationError
from sippet_host.hashcache import HashCache
from sippet_host.models import load_model

ROOT = Path(__file__).parents[1]
TINY = Path(__file__).parent / "models/tiny-chat-f16.gguf"
FIELDS = [
    "engine", "variant", "model", "sha256", "threads", "test", "median", "min", "max", "unit", "ratio_to_native",
    "ratio_to_wllama",
]  # fmt: skip
WEIGHTS = Weights("m", Path("m.gguf"), "ab" * 32, {number: f"word{number}" for number in range(50)}, False)


class Scripted(Subject):
    """An engine whose speed is given, and that notes what is asked of it."""

    def __init__(self, engine: str, speed: float, diary: list[str], fails: Exception | None = None) -> None:
        self.engine, self.variant = engine, ""
        self.speed, self.diary, self.fails = speed, diary, fails
        self.prompts: list[Prompt] = []

    def missing(self, weights: Weights) -> str | None:
        return None

    def computes_with(self, threads: int) -> bool:
        return threads <= 2

    async def open(self, job: Job, browsers: object) -> Session:
        self.diary.append(f"{self.engine}×{job.threads}")
        return _ScriptedSession(self, job)


class _ScriptedSession(Session):
    def __init__(self, subject: Scripted, job: Job) -> None:
        self._subject = subject
        self.cold_ms = 200.0
        self.warm_ms = 100.0 if job.warm else None

    async def complete(self, prompt: Prompt, tokens: int) -> Timings:
        if self._subject.fails:
            raise self._subject.fails
        self._subject.prompts.append(prompt)
        speed = self._subject.speed
        return Timings(len(prompt), len(prompt) / speed * 1e3, tokens, (tokens - 1) / speed * 1e3)

    def peak_memory(self) -> float | None:
        return 12.5

    async def close(self) -> None:
        self._subject.diary.append(f"{self._subject.engine} closed")


@pytest.fixture(autouse=True)
def brief_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sippet_host.bench.rounds.WARM_UP_SECONDS", 0)


def measure(subjects: list[Subject], cases: list[str], threads: tuple[int, ...] = (1,), rounds: int = 1) -> Measurement:
    plan = Plan([WEIGHTS], subjects, threads, [parse_case(name) for name in cases], rounds)
    measurement = Measurement(plan, None, lambda line: None)
    asyncio.run(measurement.run())
    return measurement


@pytest.mark.parametrize(
    ("name", "kind", "tokens", "unit"),
    [
        ("pp128", "prefill", 128, "tokens/s"),
        ("tg64", "decode", 64, "tokens/s"),
        ("load_cold", "load_cold", 0, "ms"),
        ("load_warm", "load_warm", 0, "ms"),
        ("peak_memory", "peak_memory", 0, "MB"),
    ],
)
def test_a_test_is_named_as_llama_bench_names_it(name: str, kind: str, tokens: int, unit: str) -> None:
    case = parse_case(name)
    assert (case.kind, case.tokens, case.unit) == (kind, tokens, unit)


@pytest.mark.parametrize("name", ["pp", "pp0", "pp-1", "tg1x", "load", "pp123456"])
def test_an_unknown_test_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(repr(name))):
        parse_case(name)


def test_the_context_holds_the_longest_prompt_and_its_answer() -> None:
    assert context_size([parse_case("pp512")]) == 768
    assert context_size([parse_case("pp255")]) == 256
    assert context_size([parse_case("tg64"), parse_case("load_cold")]) == 256


def test_a_prompt_is_the_same_for_the_same_seed_only() -> None:
    first = make_prompt(WEIGHTS, 100, "pp100 1")
    assert len(first) == 100
    assert first == make_prompt(WEIGHTS, 100, "pp100 1")
    assert first.tokens != make_prompt(WEIGHTS, 100, "pp100 2").tokens
    assert first.text.split() == [f"word{number}" for number in first.tokens]


def test_an_engine_that_adds_a_start_token_to_texts_gets_one_word_less() -> None:
    weights = Weights("m", Path("m.gguf"), "ab" * 32, WEIGHTS.words, adds_start=True)
    made = make_prompt(weights, 10, "x")
    assert (len(made.tokens), len(made.text.split())) == (10, 9)


def test_prompts_are_made_of_the_words_among_a_models_tokens(tmp_path: Path) -> None:
    weights = read_weights(load_model(TINY, HashCache(tmp_path / "hashes.json")))
    assert weights.name == "tiny-chat-f16"
    assert weights.sha256.startswith("f4318e02")
    assert "the" in weights.words.values()
    assert not weights.adds_start


def test_a_model_without_words_is_refused(tmp_path: Path) -> None:
    projector = load_model(TINY.with_name("mmproj-tiny-f16.gguf"), HashCache(tmp_path / "hashes.json"))
    with pytest.raises(ConfigurationError, match="no words"):
        read_weights(projector)


def test_timings_give_tokens_a_second_and_leave_the_first_token_to_the_prefill() -> None:
    timings = Timings.of({"prompt_n": 128, "prompt_ms": 500, "predicted_n": 65, "predicted_ms": 1600}, 128, 65)
    assert (timings.prefill, timings.decode) == (256, 40)


@pytest.mark.parametrize(("prompt_n", "predicted_n"), [(1, 65), (100, 65), (128, 64), (140, 65)])
def test_a_prompt_that_was_cached_or_an_answer_that_ended_early_is_no_measurement(
    prompt_n: int, predicted_n: int
) -> None:
    values = {"prompt_n": prompt_n, "prompt_ms": 1, "predicted_n": predicted_n, "predicted_ms": 1}
    with pytest.raises(EngineError, match="128 tokens of prompt and 65 of answer"):
        Timings.of(values, 128, 65)


def test_engines_take_turns_in_every_round_and_another_one_begins_each() -> None:
    diary: list[str] = []
    measure([Scripted(name, 10, diary) for name in "abc"], ["pp8"], rounds=2)
    assert diary == [
        "a×1", "a closed", "b×1", "b closed", "c×1", "c closed",
        "b×1", "b closed", "c×1", "c closed", "a×1", "a closed",
    ]  # fmt: skip


def test_rotation_keeps_the_order() -> None:
    assert rotated([1, 2, 3], 4) == [2, 3, 1]
    assert rotated([], 1) == []


@pytest.mark.parametrize(("seconds", "times"), [(0, 1), (60, MOST_REPEATS)])
def test_engines_compute_the_same_prompts_and_never_one_twice(
    monkeypatch: pytest.MonkeyPatch, seconds: float, times: int
) -> None:
    monkeypatch.setattr("sippet_host.bench.rounds.REPEAT_SECONDS", seconds)  # what takes longer is not repeated
    first, second = Scripted("a", 10, []), Scripted("b", 20, [])
    measure([first, second], ["pp16", "tg4"], rounds=3)
    assert first.prompts == second.prompts
    assert len({prompt.tokens for prompt in first.prompts}) == len(first.prompts) == 3 * (1 + 2 * times)


def test_an_engine_is_not_asked_for_threads_that_it_has_not() -> None:
    diary: list[str] = []
    found = measure([Scripted("a", 10, diary)], ["pp8"], threads=(1, 2, 4))
    assert [entry for entry in diary if "closed" not in entry] == ["a×1", "a×2"]
    assert found.notes == {}


def test_an_engine_that_fails_is_closed_left_out_and_noted_and_the_others_go_on() -> None:
    diary: list[str] = []
    bad = Scripted("bad", 10, diary, fails=EngineCrashed("The engine ended."))
    found = measure([bad, Scripted("good", 10, diary)], ["pp8"], rounds=2)
    assert diary.count("bad×1") == diary.count("bad closed") == 1
    assert diary.count("good×1") == 2
    assert found.notes["bad, 1 thread", "m"].startswith("failed: The engine ended.")


def test_an_engine_that_is_not_here_is_noted_once() -> None:
    found = measure([OldWllama(Path("nowhere")), Scripted("a", 1, [])], ["pp8"], threads=(1, 2), rounds=2)
    assert list(found.notes) == [("wllama-2.4.0", "m")]


def test_an_engine_without_timings_is_no_measurement() -> None:
    with pytest.raises(EngineError, match="no timings"):
        Timings.of(None, 1, 1)


def test_ratios_are_of_medians_of_the_same_model_threads_and_test() -> None:
    native, wllama = Scripted("native", 100, []), Scripted("wllama", 5, [])
    found = measure([Scripted("ours", 50, []), wllama, native], ["pp8", "tg4", "load_cold", "load_warm"], (1, 2), 3)
    rows = found.values.results(native, wllama)
    ours = [row for row in rows if row.engine == "ours"]
    assert [(row.threads, row.test) for row in ours[:4]] == [(1, t) for t in ("pp8", "tg4", "load_cold", "load_warm")]
    assert ours[0].median == pytest.approx(50)
    assert ours[0].ratio_to_native == pytest.approx(0.5)
    assert ours[0].ratio_to_wllama == pytest.approx(10)
    assert [row.median for row in ours[2:4]] == [200, 100]


def test_the_median_and_the_spread_are_of_all_rounds() -> None:
    values, subject = Values(), Scripted("a", 1, [])
    for value in (3.0, 1.0, 2.0, 10.0):
        values.add(Key(subject, WEIGHTS, 1, Case("load_cold", "load_cold")), value)
    (row,) = values.results(Scripted("native", 1, []), Scripted("wllama", 1, []))
    assert (row.median, row.min, row.max, row.unit) == (2.5, 1.0, 10.0, "ms")
    assert (row.ratio_to_native, row.ratio_to_wllama) == (None, None)


def rows_of(*subjects: Subject) -> list[Result]:
    found = measure(list(subjects), ["pp8", "tg4", "peak_memory"], threads=(1, 2))
    return found.values.results(subjects[-1], subjects[-2])


def test_the_json_has_these_fields_and_no_others() -> None:
    document = report({"cpu": "x"}, None, rows_of(Scripted("wllama", 5, []), Scripted("native", 3.123456789, [])))
    assert list(document) == ["machine", "browser", "results"]
    assert all(list(row) == FIELDS for row in document["results"])
    assert document["results"][3]["median"] == 3.1235
    json.dumps(document)


def test_the_machine_is_described_with_what_native_code_uses() -> None:
    machine = describe_machine()
    assert list(machine) == ["cpu", "cores", "memory_gb", "system", "python", "load_average", "native"]
    assert "=" in machine["native"]
    assert machine["cores"] >= 1


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables of a text, as rows of cells."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()] for block in blocks
    ]


def test_the_markdown_has_a_table_of_values_and_one_of_ratios() -> None:
    rows = rows_of(Scripted("wllama", 5, []), Scripted("native", 100, []))
    text = render(describe_machine(), {"name": "chromium", "version": "1.2"}, rows, {("x", "m"): "not here"}, 3)
    values, ratios = tables(text)
    assert values[0] == ["engine", "threads", "pp8 (tokens/s)", "tg4 (tokens/s)", "peak_memory (MB)"]
    assert values[2] == ["wllama", "1", "5.0 (5.0 to 5.0)", "5.0 (5.0 to 5.0)", "12.5 (12.5 to 12.5)"]
    assert ratios[3] == ["native", "1", "1.00 · 20.0", "1.00 · 20.0", "1.00 · 1.00"]
    assert "3 interleaved rounds" in text
    assert "chromium 1.2" in text
    assert "- x, m: not here" in text


def test_without_a_yardstick_there_is_no_table_of_ratios() -> None:
    rows = measure([Scripted("a", 1, [])], ["pp8"]).values.results(Scripted("n", 1, []), Scripted("w", 1, []))
    assert len(tables(render(describe_machine(), None, rows, {}, 1))) == 1


KNOWN: list[Subject] = [
    SippetBuild("single", "simd128"),
    SippetBuild("pthread", "relaxed"),
    Wllama(),
    OldWllama(Path("nowhere")),
    Transformers(Path("nowhere"), Path("nowhere")),
    NativeSubject(),
]


def test_an_engine_is_chosen_with_all_its_builds_or_one_alone() -> None:
    assert [subject.name for subject in cli_bench.choose(KNOWN, ["sippet"])] == [
        "sippet-single-simd128",
        "sippet-pthread-relaxed",
    ]
    assert [subject.name for subject in cli_bench.choose(KNOWN, ["native", "wllama-2.4.0"])] == [
        "wllama-2.4.0",
        "native",
    ]
    with pytest.raises(ConfigurationError, match=r"'x'.*transformers\.js"):
        cli_bench.choose(KNOWN, ["native", "x"])


def test_the_single_thread_builds_are_measured_with_one_thread() -> None:
    assert [SippetBuild("single", "relaxed").computes_with(threads) for threads in (1, 2)] == [True, False]
    assert [SippetBuild("pthread", "relaxed").computes_with(threads) for threads in (1, 2)] == [True, True]


def test_other_engines_say_what_they_lack(tmp_path: Path) -> None:
    assert "tools/dev.py bench" in str(OldWllama(tmp_path).missing(WEIGHTS))
    assert "no ONNX weights" in str(Transformers(tmp_path, tmp_path).missing(WEIGHTS))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    assert "package is not in" in str(Transformers(tmp_path, tmp_path).missing(WEIGHTS))
    (tmp_path / OldWllama.folder).mkdir()
    assert OldWllama(tmp_path).missing(WEIGHTS) is None


def test_the_other_engines_are_pinned_where_the_command_looks_for_them() -> None:
    packages = read_lock(ROOT / "tools" / "bench" / "peers.lock.json").packages
    assert {package.name: package.version for package in packages}["@wllama/wllama"] == OldWllama.variant
    assert {package.name: package.version for package in packages}["@huggingface/transformers"] == Transformers.variant
    assert {file.to.split("/")[0] for package in packages for file in package.files} == {
        OldWllama.folder,
        Transformers.folder,
    }
    assert all(package.integrity.startswith("sha512-") for package in packages)
    assert all(len(file.sha256) == 64 and file.size for package in packages for file in package.files)


Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("SIPPET_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: CliRunner().invoke(cli_bench.bench, [*map(str, arguments)])


def test_the_native_engine_is_measured_without_a_browser(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    tests = ["pp32", "tg8", "load_cold", "load_warm", "peak_memory"]
    done = run(
        TINY, "--engines", "native", "--threads", "1", "--tests", ",".join(tests), "--rounds", 2, "--json", target
    )
    assert done.exit_code == 0, done.output
    document = json.loads(target.read_text())
    assert document["browser"] is None
    rows = document["results"]
    assert [row["test"] for row in rows] == tests
    assert all(list(row) == FIELDS for row in rows)
    assert all(0 < row["min"] <= row["median"] <= row["max"] for row in rows)
    assert {(row["engine"], row["model"], row["ratio_to_native"]) for row in rows} == {("native", "tiny-chat-f16", 1.0)}
    assert tables(done.stdout)[0][0] == ["engine", "threads", *(f"{row['test']} ({row['unit']})" for row in rows)]


@pytest.mark.parametrize("threads", ["", "0", "1,x", "1.5"])
def test_a_wrong_number_of_threads_is_refused(run: Run, threads: str) -> None:
    done = run(TINY, "--threads", threads)
    assert isinstance(done.exception, ConfigurationError)
    assert "--threads" in str(done.exception)


def test_where_nothing_can_be_measured_it_says_why(run: Run) -> None:
    done = run(TINY, "--engines", "transformers.js", "--tests", "pp8")
    assert isinstance(done.exception, BenchUnavailable)
    assert "no ONNX weights" in str(done.exception)


def test_without_playwright_it_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright.async_api", None)
    done = run(TINY, "--engines", "sippet", "--tests", "pp8")
    assert isinstance(done.exception, BenchUnavailable)
    assert done.exception.code == "bench_unavailable"
    assert "sippet-host[bench]" in str(done.exception)


def test_a_browser_that_does_not_start_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIPPET_CHROMIUM", str(tmp_path / "none"))
    done = run(TINY, "--engines", "sippet", "--tests", "pp8")
    assert isinstance(done.exception, BenchUnavailable)
    assert "SIPPET_CHROMIUM" in str(done.exception)


def test_the_readmes_tables_are_such_as_the_command_prints() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Speed\n")[2].partition("\n## ")[0]
    assert "tools/dev.py bench" in section
    found = tables(section)
    assert found
    for table in found:
        assert table[0][:2] == ["engine", "threads"]
        names = [parse_case(cell.split(" ")[0]).name for cell in table[0][2:]]
        is_values = "(" in table[0][2]
        assert is_values == all(
            cell == f"{name} ({parse_case(name).unit})" for cell, name in zip(table[0][2:], names, strict=True)
        )
        pattern = r"[\d.]+ \([\d.]+ to [\d.]+\)|–" if is_values else r"(?:[\d.]+|–) · (?:[\d.]+|–)|–"
        for row in table[2:]:
            assert len(row) == len(table[0])
            assert row[1].isdecimal()
            assert all(re.fullmatch(pattern, cell) for cell in row[2:]), row
