"""Work in the background and its reports: compressed variants, progress, locks."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sippet_host.locks import file_lock
from sippet_host.precompress import Precompressor, decompress_brotli
from sippet_host.progress import Progress, format_bytes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_one_line_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("sippet_host.progress.time.monotonic", lambda: next(clock))
    stream = Terminal()
    with Progress("Fetching", 1000, stream) as progress:
        progress.update(250)
        progress.update(500)
    text = stream.getvalue()
    assert "Fetching [##############..............]  50%" in text
    assert text.count("\n") == 1, "only the last line stays"
    assert text.split("\r\x1b[K")[-1].startswith("Fetching: done, 500 B in ")


def test_elsewhere_progress_is_a_line_for_each_tenth_at_most() -> None:
    stream = io.StringIO()
    with Progress("Fetching", 1000, stream) as progress:
        for done in range(0, 1001, 10):
            progress.update(done)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "Fetching (1.0 kB)"
    assert lines[1:-1] == [f"Fetching: {percent} %" for percent in range(10, 100, 10)]
    assert lines[-1].startswith("Fetching: done, 1.0 kB in ")


def test_progress_of_unknown_length_and_of_a_failure() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Progress("Fetching", None, stream) as progress:
        progress.update(10)
        raise RuntimeError
    assert stream.getvalue() == "Fetching\n"


def test_sizes_are_for_people() -> None:
    assert [format_bytes(n) for n in (0, 999, 1000, 98_362_432, 5e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "98.4 MB",
        "5.00 GB",
    ]


def test_a_lock_keeps_another_process_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from sippet_host.locks import file_lock\n"
        "with file_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        waiting = threading.Event()
        entered = threading.Event()

        def enter() -> None:
            with file_lock(path, on_wait=waiting.set):
                entered.set()

        thread = threading.Thread(target=enter)
        thread.start()
        assert waiting.wait(20)
        assert not entered.is_set()
        holder.kill()
        assert entered.wait(20)
        thread.join()


def test_an_interrupted_compression_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"text " * 1_000_000)
    stop = threading.Event()
    stop.set()
    Precompressor(tmp_path / "cache").make(source, "ab" * 32, "br", stop)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_variants_of_old_contents_are_removed_after_a_while(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"text " * 1000)
    compressor = Precompressor(tmp_path / "cache")
    month = time.time() - 40 * 86_400
    for name, age in (("aa", month), ("bb", month), ("cc", time.time())):
        compressor.make(source, name * 32, "br")
        os.utime(compressor.variant_path(name * 32, "br"), (age, age))
    compressor.start([(source, "aa" * 32)])
    compressor.wait()
    assert compressor.find("aa" * 32, "br"), "in use"
    assert compressor.find("bb" * 32, "br") is None, "old and not in use"
    assert compressor.find("cc" * 32, "br"), "not in use, but young: another installation may use it"


def test_a_large_file_survives_the_round_trip(tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(1000) * 5000)
    compressor = Precompressor(tmp_path / "cache")
    compressor.make(source, "ab" * 32, "br")
    variant = compressor.find("ab" * 32, "br")
    assert variant
    decompress_brotli(variant, back)
    assert back.read_bytes() == source.read_bytes()
