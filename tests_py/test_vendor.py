"""Vendoring: sources in order, every byte checked, nothing kept of a run that was lied to."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fake_registry
import notices
import pytest
from _derive import derive
from _fetch import Unavailable, get
from _lockfile import LOCK_FILE, Lock, read_lock
from _report import ToolError
from _sources import Cdn, Given, NpmClient, NpmRegistry, PipClient, PypiIndex, Source, default_sources
from fake_registry import Registry, World, contents, locked, serving
from vendor import Vendor


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[Registry]:
    with serving() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vendor"


@pytest.fixture
def given(tmp_path: Path, world: World) -> Given:
    """A folder that holds every archive."""
    place = tmp_path / "archives"
    place.mkdir()
    for name, data in world.archives.items():
        (place / name).write_bytes(data)
    return Given(str(place))


def vendor(world: World, folder: Path, *sources: Source, lock: Lock | None = None) -> Vendor:
    return Vendor(lock or world.lock, folder, {"npm": sources, "pypi": sources})


def changed(lock: Lock, name: str, **fields: object) -> Lock:
    """The lock with some fields of one package replaced."""
    packages = (replace(p, **fields) if p.name == name else p for p in lock.packages)  # type: ignore[arg-type]
    return replace(lock, packages=tuple(packages))


# What a run leaves


def test_a_first_run_writes_every_file_and_a_second_fetches_nothing(world: World, folder: Path, given: Given) -> None:
    assert vendor(world, folder, given).update()
    assert contents(folder) == world.expected
    second = vendor(world, folder)  # no source at all
    assert second.is_current()
    assert second.is_current(verify=True)
    assert not second.update()


def test_a_wrong_file_hash_keeps_nothing_and_names_the_source(world: World, folder: Path, registry: Registry) -> None:
    cdn = Cdn({"npm": world.put_cdn(registry)})
    registry.files["/npm/text@4.5.6/LICENSE"] = b"another License"  # same size, one letter
    with pytest.raises(ToolError, match=r"the public CDN gave LICENSE of text 4\.5\.6") as caught:
        vendor(world, folder, cdn).update()
    assert caught.value.code == "vendor-hash-mismatch"
    assert contents(folder) == {}, "the first package was right, but the run is not to be trusted"


def test_a_wrong_archive_hash_stops_the_run_before_another_source_is_asked(
    world: World, folder: Path, registry: Registry, given: Given
) -> None:
    world.put_npm(registry)
    registry.files["/text/-/text-4.5.6.tgz"] = fake_registry.tarball({**fake_registry.TEXT, "extra": b""})
    with pytest.raises(ToolError, match=r"the configured npm registry.* not the locked one") as caught:
        vendor(world, folder, NpmRegistry(registry.url, {}), given).update()
    assert caught.value.code == "vendor-hash-mismatch"
    assert contents(folder) == {}


def test_a_mismatch_leaves_an_earlier_good_state_as_it_was(world: World, folder: Path, given: Given) -> None:
    vendor(world, folder, given).update()
    text = world.packages[1]
    newer = replace(text, files=(locked("lib/text.js", "text/text.js", b"new"), text.files[1]))
    lock = Lock((world.packages[0], newer, world.packages[2]))
    with pytest.raises(ToolError, match="nothing was kept"):
        vendor(world, folder, given, lock=lock).update()
    assert contents(folder) == world.expected


def test_a_half_finished_folder_heals_and_only_the_broken_package_is_fetched(
    world: World, folder: Path, registry: Registry, given: Given
) -> None:
    vendor(world, folder, given).update()
    (folder / "text/text.js").write_bytes(b"export")
    (folder / "text/.text.js.k3v9").write_bytes(b"what an interrupted write leaves")
    (folder / "old").mkdir()
    (folder / "old/removed-from-the-lock.js").write_bytes(b"")
    cdn = Cdn({"npm": world.put_cdn(registry)})
    again = vendor(world, folder, cdn)
    assert not again.is_current()
    assert again.update()
    assert contents(folder) == world.expected
    assert not (folder / "text/.text.js.k3v9").exists()
    assert registry.asked == ["/npm/text@4.5.6/lib/text.js", "/npm/text@4.5.6/LICENSE"]


def test_whole_packages_of_a_run_that_lost_the_network_are_kept(world: World, folder: Path, given: Given) -> None:
    Path(given.name, "text-4.5.6.tgz").unlink()
    with pytest.raises(ToolError, match=r"text 4\.5\.6 could not be fetched") as caught:
        vendor(world, folder, given).update()
    assert caught.value.code == "vendor-unavailable"
    assert {path.partition("/")[0] for path in contents(folder)} == {"engine"}


def test_verify_finds_a_change_that_kept_size_and_time(world: World, folder: Path, given: Given) -> None:
    vendor(world, folder, given).update()
    path = folder / "text/text.js"
    status = path.stat()
    path.write_bytes(b"export const text = 2;\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    checking = vendor(world, folder, given)
    assert checking.is_current(), "the quick look can't see it"
    assert checking.update(verify=True)
    assert contents(folder) == world.expected


def test_a_damaged_stamp_only_costs_time(world: World, folder: Path, given: Given) -> None:
    vendor(world, folder, given).update()
    (folder / ".stamp.json").write_text("{half")
    assert vendor(world, folder).is_current()


# Where packages come from


def test_the_order_is_given_then_registry_then_cdn(
    world: World,
    folder: Path,
    registry: Registry,
    elsewhere: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    world.put_npm(registry)
    del registry.files["/text/-/text-4.5.6.tgz"]
    world.put_pypi(registry)
    cdn = {"npm": world.put_cdn(elsewhere)}
    (tmp_path / "given").mkdir()
    (tmp_path / "given/scope-engine-1.2.3.tgz").write_bytes(world.engine)
    environ = {"npm_config_registry": registry.url, "PIP_INDEX_URL": registry.url + "/simple"}
    sources = default_sources(str(tmp_path / "given"), cdn, tmp_path, environ)
    assert Vendor(world.lock, folder, sources).update()
    assert contents(folder) == world.expected
    assert registry.asked == ["/text/-/text-4.5.6.tgz", "/simple/tool/", "/files/tool-2.0-py3-none-any.whl"]
    assert elsewhere.asked == ["/npm/text@4.5.6/lib/text.js", "/npm/text@4.5.6/LICENSE"]


def test_without_configuration_the_cdn_comes_first_and_the_clients_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sources = default_sources(None, {}, tmp_path, {"PIP_CONFIG_FILE": os.devnull})
    assert [type(s) for s in sources["npm"]] == [Cdn, NpmClient]
    assert [type(s) for s in sources["pypi"] if not isinstance(s, PypiIndex)] == [Cdn, PipClient]


@pytest.mark.parametrize("layout", ["cdn", "copy"])
def test_a_given_address_may_have_a_cdns_layout_or_be_a_copy_of_the_folder(
    world: World, folder: Path, registry: Registry, layout: str
) -> None:
    if layout == "cdn":
        world.put_cdn(registry)
        registry.files["/npm/tool-2.0-py3-none-any.whl"] = world.tool
    else:
        registry.files |= {f"/npm/{path}": data for path, data in world.expected.items()}
    assert vendor(world, folder, Given(registry.url + "/npm/")).update()
    assert contents(folder) == world.expected


def test_a_source_that_can_not_be_reached_is_asked_once(world: World, folder: Path, given: Given) -> None:
    with serving() as gone:
        pass

    class Counted(NpmRegistry):
        asked = 0

        def archive(self, package: object) -> bytes:
            Counted.asked += 1
            return super().archive(package)  # type: ignore[arg-type]

    assert vendor(world, folder, Counted(gone.url, {}), given).update()
    assert Counted.asked == 1


def test_when_nothing_helps_the_error_lists_what_was_tried_and_what_to_do(
    world: World, folder: Path, registry: Registry, tmp_path: Path
) -> None:
    sources = (Given(str(tmp_path / "nowhere")), NpmRegistry(registry.url, {}), Cdn({}))
    with pytest.raises(ToolError) as caught:
        vendor(world, folder, *sources).update()
    message = str(caught.value)
    assert caught.value.code == "vendor-unavailable"
    for part in ("nowhere", "answered 404", "no CDN", "SIPPET_VENDOR_FROM", "scope-engine-1.2.3.tgz"):
        assert part in message


def test_a_scope_may_have_a_registry_of_its_own(
    world: World, folder: Path, registry: Registry, elsewhere: Registry, tmp_path: Path
) -> None:
    world.put_npm(registry)
    world.put_npm(elsewhere)
    npmrc = tmp_path / ".npmrc"
    npmrc.write_text("; a comment\nregistry=${MIRROR}\n@scope:registry = " + elsewhere.url + "/\nfund=false\n")
    sources = default_sources(None, {}, tmp_path, {"MIRROR": registry.url})
    lock = Lock(world.packages[:2])
    assert Vendor(lock, folder, sources).update()
    assert elsewhere.asked == ["/@scope/engine/-/engine-1.2.3.tgz"]
    assert registry.asked == ["/text/-/text-4.5.6.tgz"]


def test_the_index_comes_from_pips_configuration(world: World, registry: Registry, tmp_path: Path) -> None:
    world.put_pypi(registry)
    configuration = tmp_path / "pip.conf"
    configuration.write_text(f"[global]\nindex-url = {registry.url}/simple/\n")
    sources = default_sources(None, {}, tmp_path, {"PIP_CONFIG_FILE": str(configuration)})
    (index,) = (source for source in sources["pypi"] if isinstance(source, PypiIndex))
    assert index.fetch(world.packages[2])[None] == world.tool


def test_an_index_may_answer_in_json(world: World, registry: Registry) -> None:
    world.put_pypi(registry)
    name = "tool-2.0-py3-none-any.whl"
    registry.files["/simple/tool/"] = b'{"files": [{"url": "%s/files/%s"}]}' % (registry.url.encode(), name.encode())
    assert PypiIndex(registry.url + "/simple").fetch(world.packages[2])[None] == world.tool


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npms_own_client_is_asked_with_its_own_configuration(
    world: World, folder: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put_npm(registry)
    monkeypatch.setenv("npm_config_registry", registry.url)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    assert vendor(world, folder, NpmClient(), lock=Lock(world.packages[:2])).update()
    assert contents(folder) == {path: d for path, d in world.expected.items() if not path.startswith("tool/")}


def test_pip_is_asked_with_its_own_configuration(
    world: World, folder: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put_pypi(registry)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", registry.url + "/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    assert vendor(world, folder, PipClient((sys.executable,)), lock=Lock(world.packages[2:])).update()
    assert contents(folder) == {path: d for path, d in world.expected.items() if path.startswith("tool/")}


def test_a_client_that_is_not_installed_is_no_error_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="npm is not installed"):
        NpmClient().fetch(world.packages[0])
    with pytest.raises(Unavailable, match="no interpreter here has pip"):
        PipClient(()).fetch(world.packages[2])


# One request


def test_a_dropped_connection_is_tried_once_more(registry: Registry) -> None:
    registry.files["/big"] = b"x" * 100_000
    registry.cut_short = 1
    assert get(registry.url + "/big") == b"x" * 100_000
    registry.cut_short = 2
    with pytest.raises(Unavailable):
        get(registry.url + "/big")


def test_a_body_that_is_too_long_is_refused(registry: Registry) -> None:
    registry.files["/big"] = b"x" * 1001
    with pytest.raises(Unavailable, match="longer than 1000 bytes"):
        get(registry.url + "/big", limit=1000)


def test_a_password_goes_to_its_own_host_only_and_into_no_message(registry: Registry, elsewhere: Registry) -> None:
    address = registry.url.replace("//", "//person:s3cret@")
    registry.redirects["/moved"] = elsewhere.url + "/file"
    elsewhere.files["/file"] = b"data"
    assert get(address + "/moved") == b"data"
    assert registry.authorizations == ["Basic cGVyc29uOnMzY3JldA=="]
    assert elsewhere.authorizations == [None]
    with pytest.raises(Unavailable) as caught:
        get(address + "/missing")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in NpmRegistry(address, {}).name + PypiIndex(address).name + Given(address).name


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/x", "data:,x", "javascript:1"])
def test_other_schemes_are_refused(address: str) -> None:
    with pytest.raises(Unavailable, match="not an http, https or file address"):
        get(address)


# The lock and what is made from it


@pytest.mark.parametrize("path", ["../outside/file", "/etc/file", "file", "a/../../file", "a\\b\\c"])
def test_a_destination_outside_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    lock = tmp_path / "lock.json"
    text = LOCK_FILE.read_text().replace('"marked/marked.esm.js"', repr(path).replace("'", '"'))
    lock.write_text(text)
    with pytest.raises(ToolError) as caught:
        read_lock(lock)
    assert caught.value.code == "vendor-lock-invalid"


def test_a_damaged_lock_says_so(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text('{"packages": [')
    with pytest.raises(ToolError, match="restore it from version control"):
        read_lock(tmp_path / "lock.json")


def test_the_lock_pins_every_file_and_keeps_a_licence_beside_each_package() -> None:
    lock = read_lock()
    for path, file in lock.files.items():
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256), path
        assert file.size > 0, path
        assert f"{path.partition('/')[0]}/LICENSE" in lock.files, path
    for package in lock.packages:
        assert re.fullmatch(r"sha(256|512)-[A-Za-z0-9+/]+=*", package.integrity), package.label


def test_the_page_and_the_engine_find_their_files_under_fixed_names() -> None:
    assert read_lock().files.keys() >= {
        "pyodide/pyodide.mjs",
        "pyodide/pyodide.asm.mjs",
        "pyodide/pyodide.asm.wasm",
        "pyodide/python_stdlib.zip",
        "pyodide/pyodide-lock.json",
        "wllama/wllama.mjs",
        "wllama/wllama.pthread.js",
        "wllama/wllama.wasm",
        "wllama-compat/wllama.mjs",
        "wllama-compat/wllama.pthread.js",
        "wllama-compat/wllama.wasm",
        "marked/marked.esm.js",
        "dompurify/purify.es.mjs",
    }


def test_a_changed_derivation_is_noticed(world: World, folder: Path, given: Given) -> None:
    made = replace(world.packages[0].derived[0], sha256="0" * 64)
    lock = changed(world.lock, "@scope/engine", derived=(made,))
    with pytest.raises(ToolError, match=r"tools/relock\.py") as caught:
        vendor(world, folder, given, lock=lock).update()
    assert caught.value.code == "vendor-derive-mismatch"


def test_a_script_of_another_shape_is_not_derived_from() -> None:
    with pytest.raises(ToolError) as caught:
        derive("module", b"let Module={};")
    assert caught.value.code == "vendor-derive-shape"


def test_the_third_party_notices_are_what_the_lock_says() -> None:
    assert notices.NOTICES.read_text(encoding="utf-8") == notices.notices(read_lock()), "run tools/notices.py"
