"""``sippet models``, as people call it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer, in_a_thread
from sippet.models.registry import DEFAULT_MODEL
from sippet_host import cli as commands

FILES = Path(__file__).parent / "models"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setenv("SIPPET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            commands.main(["models", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copy(FILES / "tiny-chat-f16.gguf", tmp_path))


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A server of models in a thread."""
    with in_a_thread(ModelServer({path.name: path.read_bytes() for path in FILES.glob("*.gguf")})) as models:
        yield models


def test_a_manifest_is_written_beside_the_model_and_verifies_it(call: Call, tiny: Path) -> None:
    status, out, _ = call("manifest", tiny, "--chunk-size", "100k")
    assert (status, out) == (0, f"{tiny.with_name('manifest.json')}\n")
    assert json.loads(tiny.with_name("manifest.json").read_bytes())["id"] == "tiny-chat-f16"
    assert call("verify", tiny)[:2] == (0, "18 chunks checked, 0 damaged.\n")
    with tiny.open("r+b") as file:
        file.seek(450_000)
        file.write(b"damage")
    status, out, _ = call("verify", tiny)
    assert status == 1 and "tiny-chat-f16.gguf: chunk 4 is damaged." in out
    assert json.loads(call("verify", tiny, "--json")[1])["bad"] == [["tiny-chat-f16.gguf", 4]]


def test_a_file_that_has_grown_is_not_the_one_of_the_manifest(call: Call, tiny: Path) -> None:
    call("manifest", tiny)
    with tiny.open("ab") as file:
        file.write(b"\0")
    assert call("verify", tiny)[0] == 1


def test_a_model_is_pulled_listed_verified_and_removed(call: Call, server: ModelServer) -> None:
    status, out, _ = call(
        "pull", server.url + "tiny-chat-f16.gguf", "--projector", server.url + "mmproj-tiny-f16.gguf", "--id", "pair"
    )
    assert (status, out) == (0, "pair  3.2 MB  llama F16  tiny-chat-f16\n")
    assert call("list")[1] == out
    (model,) = json.loads(call("list", "--json")[1])
    assert (model["id"], model["projector"]["size"], model["chat_template"]) == ("pair", 1_456_768, True)
    assert call("verify", "pair")[:2] == (0, "7 chunks checked, 0 damaged.\n")
    assert call("rm", "pair")[:2] == (0, "Removed pair: 3.2 MB freed.\n")
    assert call("list")[1] == ""


def test_a_server_that_does_not_answer_is_told_of_while_it_is_asked_again(call: Call, server: ModelServer) -> None:
    server.refuse = [503, 503]
    status, _, err = call("pull", server.url + "tiny-chat-f16.gguf")
    assert status == 0
    told = [line for line in err.splitlines() if "Trying again" in line]
    assert len(told) == 2 and all(server.url in line and "503" in line for line in told)
    assert "Downloading" not in err  # what gets on has the bar


def test_a_path_and_its_shards_can_be_pulled(call: Call, tiny: Path, tmp_path: Path) -> None:
    status, out, _ = call("split", tiny, "--max-size", "0.5M", "-o", tmp_path / "shards")
    assert status == 0
    shards = out.split()
    assert len(shards) == 4 and shards[0].endswith("tiny-chat-f16-00001-of-00004.gguf")
    assert call("pull", shards[0])[:2] == (0, "tiny-chat-f16  1.7 MB  llama F16  tiny-chat-f16\n")
    assert call("join", shards[0], "-o", tmp_path / "whole.gguf")[0] == 0
    assert (tmp_path / "whole.gguf").read_bytes() == tiny.read_bytes()


def test_a_plan_needs_the_header_alone(call: Call, server: ModelServer) -> None:
    status, out, _ = call("plan", server.url + "tiny-chat-f16.gguf", "--ctx", "256")
    assert status == 0
    assert "tiny-chat-f16: llama F16, 853,120 parameters" in out
    assert "Fits: needs" in out and "context of 256 tokens" in out
    found = json.loads(call("plan", FILES / "tiny-chat-f16.gguf", "--json")[1])
    assert (found["memory"]["verdict"], found["memory"]["n_ctx"]) == ("fits", 512)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["rm", "nothing"], "model_not_found"),
        (["verify", "nothing"], "model_not_found"),
        (["verify", FILES / "tiny-chat-f16.gguf"], "model_not_found"),
        (["pull", "nothing.gguf"], "model_not_found"),
        (["pull", __file__], "invalid_model"),
        (["pull", FILES / "mmproj-tiny-f16.gguf"], "unsupported_model"),
        (["pull", DEFAULT_MODEL], "download_failed"),
        (["pull", "http://127.0.0.1:9/x.json"], "remote_unavailable"),
        (["manifest", __file__], "invalid_model"),
        (["manifest", "nothing.gguf"], "model_not_found"),
        (["split", FILES / "tiny-chat-f16.gguf"], "configuration"),
        (["join", "a-00001-of-00002.gguf", "-o", "x.gguf"], "model_not_found"),
    ],
)
def test_a_failure_exits_with_1_and_one_coded_line(call: Call, arguments: list[Any], code: str) -> None:
    status, out, err = call(*arguments)
    assert (status, out) == (1, "")
    assert f"Error [{code}]: " in err.splitlines()[-1]


HOSTILE = [
    "", ".", "/", "..", "folder", "nothing.gguf", "dangling.gguf", "loop.gguf", "x" * 300 + ".gguf",
    "x" * 300 + "-00001-of-00002.gguf", "~nobody-of-that-name/x.gguf", "\udcff.gguf", "/dev/null", "m.gguf/x.gguf",
    "http://", "http://[::1/x.gguf", "http://[x]/x.gguf", "http://127.0.0.1:99999/x.gguf", "http://127.0.0.1:0/x.gguf",
    "http://a..b/x.gguf", "http://\u2100/x.gguf", "http://\udcff/x.gguf", "ftp://127.0.0.1/x.gguf",
]  # fmt: skip


@pytest.fixture
def hostile_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tiny.parent
    monkeypatch.chdir(folder)
    (folder / "folder").mkdir()
    (folder / "dangling.gguf").symlink_to("gone")
    (folder / "loop.gguf").symlink_to("loop.gguf")
    tiny.rename(folder / "m.gguf")
    return folder


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    "arguments",
    [
        ["pull", "HERE"],
        ["pull", "m.gguf", "--projector", "HERE"],
        ["plan", "HERE"],
        ["plan", "m.gguf", "--projector", "HERE"],
        ["verify", "HERE"],
        ["verify", "m.gguf", "--manifest", "HERE"],
        ["rm", "HERE"],
        ["manifest", "HERE"],
        ["manifest", "m.gguf", "-o", "m.gguf/HERE"],
        ["manifest", "m.gguf", "--projector", "HERE"],
        ["split", "HERE", "--max-size", "1M"],
        ["split", "m.gguf", "--max-size", "1M", "-o", "m.gguf/HERE"],
        ["join", "HERE", "-o", "out.gguf"],
        ["join", "m.gguf", "-o", "m.gguf/HERE"],
    ],
)
@pytest.mark.usefixtures("hostile_folder")
def test_whatever_is_named_gets_a_coded_line(call: Call, arguments: list[str], hostile: str) -> None:
    status, out, err = call(*(part.replace("HERE", hostile) for part in arguments))
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("Error ["), err


@pytest.mark.parametrize(
    "arguments",
    [
        ["manifest", "m.gguf", "-o", "m.gguf"],
        ["manifest", "m.gguf", "-o", "linked.gguf"],
        ["manifest", "m.gguf", "--projector", "mmproj-tiny-f16.gguf", "-o", "mmproj-tiny-f16.gguf"],
        ["split", "m-00001-of-00001.gguf", "--max-size", "1G"],
        ["join", "m.gguf", "-o", "m.gguf"],
        ["join", "m.gguf", "-o", "linked.gguf"],
        ["join", "m.gguf", "-o", "folder"],
        ["join", "m.gguf", "-o", "pipe"],
    ],
)
def test_nothing_is_written_over_what_is_read(call: Call, hostile_folder: Path, arguments: list[str]) -> None:
    shutil.copy(FILES / "mmproj-tiny-f16.gguf", hostile_folder)
    shutil.copy(hostile_folder / "m.gguf", hostile_folder / "m-00001-of-00001.gguf")
    (hostile_folder / "linked.gguf").symlink_to("m.gguf")
    os.mkfifo(hostile_folder / "pipe")
    before = {path: path.is_file() and path.read_bytes() for path in hostile_folder.iterdir()}
    status, _, err = call(*arguments)
    assert status == 1 and err.splitlines()[-1].startswith("Error ["), err
    assert {path: path.is_file() and path.read_bytes() for path in hostile_folder.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_with_the_output_that_it_concerns(call: Call, tiny: Path) -> None:
    status, _, err = call("manifest", tiny, "-o", "/dev/full")
    assert status == 1
    assert "Error [storage]: /dev/full can't be written: No space left on device." in err


def test_a_plan_takes_what_pull_takes(call: Call, server: ModelServer, tiny: Path, tmp_path: Path) -> None:
    first, *_ = call("split", tiny, "--max-size", "0.5M", "-o", tmp_path / "shards")[1].split()
    call("manifest", tiny, "--id", "served")
    server.files["näm e.gguf"] = tiny.read_bytes()
    server.files["manifest.json"] = tiny.with_name("manifest.json").read_bytes()
    for source in (tiny, first, *(server.url + name for name in ("näm e.gguf", "n%C3%A4m%20e.gguf", "manifest.json"))):
        status, out, err = call("plan", source)
        assert status == 0 and "853,120 parameters" in out, err
        status, out, err = call("pull", source)
        assert status == 0, err
        assert call("plan", out.split()[0])[0] == 0
    for command in ("plan", "pull"):
        assert "Error [download_failed]" in call(command, DEFAULT_MODEL)[2]


@pytest.mark.parametrize("size", ["", "x", "5Q", "-1", "nan", "9" * 400])
def test_a_size_that_is_none_is_refused(call: Call, tiny: Path, size: str) -> None:
    status, _, err = call("split", tiny, "--max-size", size)
    assert status == 2 and "--max-size" in err
