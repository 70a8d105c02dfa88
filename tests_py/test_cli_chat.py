"""``sippet chat`` and ``query`` as processes of their own, on the tiny model."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_server import TINY, llama_server

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
LOCAL = [str(TINY), "--threads", "1", "--temperature", "0"]
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIPPET")}
    return kept | {"SIPPET_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "COLUMNS": "100"}


@pytest.fixture
def call(environment: dict[str, str]) -> Call:
    def call(*arguments: str, text: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sippet_host", *arguments]
        options: dict[str, Any] = {"input": text, "capture_output": True, "text": True, "timeout": 60}
        return subprocess.run(command, env=environment | extra, **options)

    return call


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A grammar that never lets an answer end."""
    file = tmp_path / "endless.gbnf"
    file.write_text('root ::= "ab" root')
    return file


def test_one_question_gives_its_answer(call: Call) -> None:
    done = call("chat", *LOCAL, "-p", FRANCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, PARIS + "\n", "")


def test_standard_input_is_one_message(call: Call) -> None:
    assert call("chat", *LOCAL, text=FRANCE + "\n").stdout == PARIS + "\n"
    empty = call("chat", *LOCAL)
    assert empty.returncode == 2 and "empty" in empty.stderr


def test_several_prompts_are_one_conversation(call: Call) -> None:
    done = call("chat", *LOCAL, "-p", "My name is Tom.", "-p", "What is my name?", "--json")
    first, second = [json.loads(line) for line in done.stdout.splitlines()]
    assert second["usage"]["cached_tokens"] >= first["usage"]["prompt_tokens"]
    assert "Tom" in second["text"]


def test_json_has_the_counts_and_the_reason(call: Call) -> None:
    found = json.loads(call("chat", *LOCAL, "-p", FRANCE, "--json", "-n", "4").stdout)
    assert found["finish_reason"] == "length"
    assert found["usage"] == {"prompt_tokens": 22, "cached_tokens": 0, "completion_tokens": 4}


def test_a_query_continues_its_prompt_and_nothing_else(call: Call) -> None:
    prompt = f"<|im_start|>user\n{FRANCE}<|im_end|>\n<|im_start|>assistant\n"
    options = ["-m", *LOCAL]
    assert call("query", prompt, *options).stdout == PARIS + "\n"
    assert call("query", "-", *options, text=prompt + "\n").stdout == PARIS + "\n"


def test_a_schema_holds(call: Call, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"enum": ["red", "blue"]}')
    done = call("chat", *LOCAL, "-p", FRANCE, "--json-schema", str(tmp_path / "s.json"))
    assert json.loads(done.stdout) in ("red", "blue")
    (tmp_path / "s.json").write_text("{")
    assert call("chat", *LOCAL, "-p", FRANCE, "--json-schema", str(tmp_path / "s.json")).returncode == 2


def test_texts_become_vectors(call: Call) -> None:
    options = ["--model", str(TINY), "--threads", "1"]
    lines = call("embed", "red circle", "Rome", *options).stdout.splitlines()
    vectors = [[float(number) for number in line.split()] for line in lines]
    assert [len(vector) for vector in vectors] == [128, 128]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-4)
    found = json.loads(call("embed", "--json", *options, text="red circle\nRome\n").stdout)
    assert found["embeddings"][1] == pytest.approx(vectors[1], abs=1e-5)
    assert found["dimensions"] == 128 and found["usage"]["prompt_tokens"] > 0
    assert call("embed", "x").returncode == 2


def test_a_server_is_asked_with_the_key_of_the_environment(call: Call) -> None:
    with llama_server(api_keys=["key-of-the-test"]) as url:
        options = ["--endpoint", url, "--temperature", "0", "-p", FRANCE]
        assert call("chat", *options, SIPPET_API_KEY="key-of-the-test").stdout == PARIS + "\n"
        refused = call("chat", *options, SIPPET_API_KEY="another-key")
    assert refused.returncode == 1
    assert "[authentication_failed]" in refused.stderr and "another-key" not in refused.stderr


def test_failures_have_their_codes(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model at all")
    cases = {
        (str(tmp_path / "none.gguf"), "-p", "x"): (1, "[model_not_found]"),
        (str(tmp_path / "bad.gguf"), "-p", "x"): (1, "[invalid_model]"),
        (*LOCAL, "-p", "word " * 3000): (1, "[context_overflow]"),
        (*LOCAL, "--top-p", "7", "-p", "x"): (1, "[invalid_option]"),
        (*LOCAL, "--endpoint", "http://127.0.0.1:9", "-p", "x"): (2, "--endpoint"),
        ("--provider", "openai", "-p", "x"): (2, "--target"),
        ("--endpoint", "http://127.0.0.1:9", "-p", "x"): (1, "[remote_unavailable]"),
    }
    for arguments, (code, text) in cases.items():
        done = call("chat", *arguments)
        assert done.returncode == code and text in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_ctrl_c_ends_one_answer_with_what_has_come(environment: dict[str, str], endless: Path) -> None:
    command = [sys.executable, "-m", "sippet_host", "query", "x", "-m", *LOCAL, "--grammar", str(endless)]
    with subprocess.Popen(command, env=environment, **PIPES) as process:
        assert process.stdout is not None
        text = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        text += process.stdout.read()
        assert process.wait(30) == 130 or len(text) > 900  # unless it ran into the end of the context first
        assert process.stderr is not None and process.stderr.read() == ""
    assert ("ab" * 600).startswith(text.strip())


class Terminal:
    """A process at a terminal of its own."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        import pty

        self.master, side = pty.openpty()
        command = [sys.executable, "-m", "sippet_host", *arguments]
        self.process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, env=environment, start_new_session=True, close_fds=True
        )
        os.close(side)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str) -> str:
        """Read until ``text`` has come; what came before it."""
        end = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 1)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*arguments: str) -> Terminal:
        opened.append(Terminal(list(arguments), environment))
        return opened[-1]

    yield open_one
    for one in opened:
        one.process.kill()
        one.process.wait()
        os.close(one.master)


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_conversation_at_a_terminal(terminal: Callable[..., Terminal]) -> None:
    session = terminal("chat", *LOCAL)
    session.expect("> ")
    session.type("My name is Tom.\n")
    session.expect("> ")
    session.type("What is my name?\n")
    session.expect("Tom")
    session.expect("> ")
    session.type("/clear\n")
    session.expect("> ")
    session.type("word " * 600 + "\n")
    session.expect("[context_overflow]")
    session.expect("> ")
    session.type(FRANCE + "\n")
    session.expect(PARIS)
    session.expect("> ")
    session.type("\x04")
    assert session.process.wait(30) == 0


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_ctrl_c_stops_the_answer_and_keeps_the_session(terminal: Callable[..., Terminal], endless: Path) -> None:
    session = terminal("chat", *LOCAL, "--grammar", str(endless))
    session.expect("> ")
    session.type("Go\n")
    session.expect("abab")
    os.killpg(session.process.pid, signal.SIGINT)  # as a terminal does, to everything in front
    session.expect("> ")
    session.type("Again\n")
    session.expect("abab")
    session.expect("> ")
    session.type("/exit\n")
    assert session.process.wait(30) == 0


def test_a_model_is_left_alone_by_wrong_options(call: Call) -> None:
    assert call("chat", "--nonsense").returncode == 2
    assert call("query").returncode == 2
