"""The committed engine builds are the ones that provenance.json describes, made of the sources in this repository."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import brotli
import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "browser_runtime/engine"
STATIC = ROOT / "static/engine"
sys.path.insert(0, str(ROOT / "tools"))

from engine_build.edits import EditError, apply_edits, parse_edits  # noqa: E402
from engine_build.plan import make_plan  # noqa: E402
from engine_build.provenance import engine_digest  # noqa: E402
from engine_build.sources import SourceError, fetch, read_lock, unpack  # noqa: E402
from engine_build.toolchain import CLANG, Toolchain  # noqa: E402

OBJECT = "objects/glue/runtime_malloc.c.o"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads((STATIC / "provenance.json").read_text(encoding="utf-8"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_every_build_has_the_bytes_that_were_recorded(record: dict[str, Any]) -> None:
    committed = {path.name.removesuffix(".br") for path in STATIC.glob("*.wasm.br")}
    assert committed == set(record["outputs"]) and len(committed) == 4
    for name, facts in record["outputs"].items():
        packed = (STATIC / f"{name}.br").read_bytes()
        data = brotli.decompress(packed)
        assert (sha256(packed), len(packed)) == (facts["brotli_sha256"], facts["brotli_bytes"])
        assert (sha256(data), len(data)) == (facts["sha256"], facts["bytes"])


def test_a_build_is_small_enough_to_send(record: dict[str, Any]) -> None:
    assert all(facts["brotli_bytes"] <= 1_500_000 for facts in record["outputs"].values())


def test_the_builds_were_made_of_these_sources(record: dict[str, Any]) -> None:
    assert record["engine_sha256"] == engine_digest(ENGINE), "the engine's sources changed: run tools/build_engine.py"
    lock = read_lock(ENGINE / "sources.lock.json")
    assert record["sources"] == {
        k: {"package": s.package, "version": s.version, "sha256": s.sha256} for k, s in lock.items()
    }


def test_the_record_names_no_folder_of_the_machine(record: dict[str, Any]) -> None:
    flags = [flag for group in record["flags"].values() for flag in group]
    assert flags
    assert [flag for flag in flags if re.search(r"/(home|root|tmp|build|mnt)/", flag)] == []


def test_an_edit_must_match_its_source_exactly_once(tmp_path: Path) -> None:
    block = "### a.txt\n# why\n<<<<<<<\nold line\n=======\nnew line\n>>>>>>>\n"
    (tmp_path / "edits").write_text(block)
    (tmp_path / "a.txt").write_text("before\nold line\nafter\n")
    apply_edits(tmp_path / "edits", tmp_path)
    assert (tmp_path / "a.txt").read_text() == "before\nnew line\nafter\n"
    with pytest.raises(EditError, match="occurs 0 times"):
        apply_edits(tmp_path / "edits", tmp_path)
    with pytest.raises(EditError, match="not an edit block"):
        parse_edits(block + "stray text\n")


def test_an_archive_with_other_bytes_is_refused(tmp_path: Path) -> None:
    source = read_lock(ENGINE / "sources.lock.json")["llama"]
    (tmp_path / source.filename).write_bytes(b"something else")
    with pytest.raises(SourceError, match=r"has SHA-256 .* the lock says"):
        fetch(source, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(CLANG) is None, reason="needs clang-22 of the distribution")
def test_one_object_built_again_has_the_recorded_bytes(record: dict[str, Any], tmp_path: Path) -> None:
    zig = read_lock(ENGINE / "sources.lock.json")["zig"]
    archive = fetch(zig, Path.home() / ".cache/sippet/downloads")
    headers = unpack(
        replace(zig, members=("lib/libc/include", "lib/libcxx/include", "lib/libcxxabi/include")),
        archive,
        tmp_path / "src",
    )
    tools = Toolchain(zig_lib=headers / "lib", engine=ENGINE, build=tmp_path)
    for folder in ("src/models", "common/jinja", "common/parsers", "tools/mtmd/models"):
        (tmp_path / "src/llama" / folder).mkdir(parents=True)
    plan = make_plan(tools, tmp_path / "src/llama")
    (unit,) = (unit for unit in plan.shared if str(unit.output.relative_to(tmp_path)) == OBJECT)
    unit.build()
    assert sha256(unit.output.read_bytes()) == record["objects"][OBJECT]
