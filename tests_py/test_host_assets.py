"""The static tree: versions, caching, content types, precompressed variants, and what is never served."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import brotli
import pytest
from host_http import Answer, StartHost, ask, bare_model
from sippet_host import Running, paths
from sippet_host.app import HOST
from sippet_host.assets import accepted_encodings

IMMUTABLE = "public, max-age=31536000, immutable"


def _config(server: Running) -> dict[str, object]:
    html = ask(server.url, "/").body.decode()
    match = re.search(r'<script type="application/json" id="sippet-config">(.*?)</script>', html)
    assert match
    config = json.loads(match[1])
    assert isinstance(config, dict)
    return config


def _base(server: Running) -> str:
    return str(_config(server)["assetBase"])


def _finish_compressing(server: Running) -> None:
    server.app[HOST].assets.precompressor.wait()


def test_the_page_names_its_assets_by_version(start_host: StartHost) -> None:
    server = start_host()
    base = _base(server)
    assert re.fullmatch(r"/assets/[0-9a-f]{16}/", base)
    page = ask(server.url, "/")
    assert f'src="{base}js/main.mjs"' in page.body.decode()
    assert page.headers["Cache-Control"] == "no-cache"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_versioned_asset_may_be_kept_for_ever(start_host: StartHost, static_tree: Path) -> None:
    server = start_host()
    answer = ask(server.url, _base(server) + "js/main.mjs")
    assert answer.body == (static_tree / "js/main.mjs").read_bytes()
    assert answer.headers["Cache-Control"] == IMMUTABLE
    assert answer.headers["Vary"] == "Accept-Encoding"


def test_an_asset_without_a_version_is_revalidated(start_host: StartHost) -> None:
    server = start_host()
    answer = ask(server.url, "/static/js/main.mjs")
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache")
    again = ask(server.url, "/static/js/main.mjs", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["Vary"] == "Accept-Encoding"


def test_another_version_is_404_and_says_to_reload(start_host: StartHost) -> None:
    server = start_host()
    answer = ask(server.url, "/assets/0123456789abcdef/js/main.mjs")
    assert (answer.status, answer.code) == (404, "asset_version_gone")
    assert "Reload" in answer.json()["error"]["message"]
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("A.JS", "text/javascript; charset=utf-8"),
        ("a.wasm", "application/wasm"),
        ("a.whl", "application/octet-stream"),
        ("a.zip", "application/octet-stream"),
        ("a.gguf", "application/octet-stream"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.svg", "image/svg+xml"),
        ("a.webmanifest", "application/manifest+json; charset=utf-8"),
        ("a.unknown", "application/octet-stream"),
        ("noextension", "application/octet-stream"),
    ],
)
def test_content_types_are_pinned(start_host: StartHost, static_tree: Path, name: str, expected: str) -> None:
    (static_tree / name).write_bytes(b"x")
    assert ask(start_host().url, f"/static/{name}").headers["Content-Type"] == expected


def test_the_favicon_is_an_asset(start_host: StartHost) -> None:
    answer = ask(start_host().url, "/favicon.ico")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/svg+xml")


@pytest.mark.parametrize("encoding", ["br", "gzip"])
def test_a_client_that_accepts_an_encoding_gets_it(start_host: StartHost, static_tree: Path, encoding: str) -> None:
    server = start_host()
    _finish_compressing(server)
    plain = ask(server.url, "/static/js/main.mjs")
    answer = ask(server.url, "/static/js/main.mjs", headers={"Accept-Encoding": encoding})
    assert answer.headers["Content-Encoding"] == encoding
    assert len(answer.body) < len(plain.body)
    assert answer.headers["Content-Type"] == plain.headers["Content-Type"]
    unpacked = brotli.decompress(answer.body) if encoding == "br" else gzip.decompress(answer.body)
    assert unpacked == plain.body == (static_tree / "js/main.mjs").read_bytes()
    assert answer.headers["ETag"] != plain.headers["ETag"], "each encoding is a representation of its own"
    assert answer.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"


def test_brotli_is_preferred_and_wasm_is_compressed(start_host: StartHost) -> None:
    server = start_host()
    _finish_compressing(server)
    answer = ask(server.url, "/static/vendor/pyodide/core.wasm", headers={"Accept-Encoding": "gzip, deflate, br, zstd"})
    assert answer.headers["Content-Encoding"] == "br"
    assert answer.headers["Content-Type"] == "application/wasm"


def test_a_range_is_of_the_plain_bytes(start_host: StartHost, static_tree: Path) -> None:
    server = start_host()
    _finish_compressing(server)
    sent = {"Accept-Encoding": "br, gzip", "Range": "bytes=100-199"}
    answer = ask(server.url, "/static/js/main.mjs", headers=sent)
    plain = (static_tree / "js/main.mjs").read_bytes()
    assert (answer.status, answer.body) == (206, plain[100:200])
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Content-Range"] == f"bytes 100-199/{len(plain)}"


def test_a_range_resumed_by_the_etag_of_a_compressed_answer_starts_anew(
    start_host: StartHost, static_tree: Path
) -> None:
    server = start_host()
    _finish_compressing(server)
    etag = ask(server.url, "/static/js/main.mjs", headers={"Accept-Encoding": "br"}).headers["ETag"]
    answer = ask(server.url, "/static/js/main.mjs", headers={"Range": "bytes=100-", "If-Range": etag})
    assert (answer.status, answer.body) == (200, (static_tree / "js/main.mjs").read_bytes())


def test_what_does_not_shrink_is_sent_as_it_is(start_host: StartHost, static_tree: Path) -> None:
    noise = os.urandom(50_000)
    (static_tree / "noise.data").write_bytes(noise)
    server = start_host()
    _finish_compressing(server)
    answer = ask(server.url, "/static/noise.data", headers={"Accept-Encoding": "br, gzip"})
    assert answer.body == noise
    assert "Content-Encoding" not in answer.headers


def test_before_its_variant_is_made_an_asset_is_sent_plain(
    start_host: StartHost, static_tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the cache folder should be: no variant can be kept")
    server = start_host()
    _finish_compressing(server)
    answer = ask(server.url, "/static/js/main.mjs", headers={"Accept-Encoding": "br"})
    assert answer.body == (static_tree / "js/main.mjs").read_bytes()
    assert "Content-Encoding" not in answer.headers


def test_nothing_is_written_beside_the_assets(start_host: StartHost, static_tree: Path) -> None:
    before = sorted(static_tree.rglob("*"))
    _finish_compressing(start_host())
    assert sorted(static_tree.rglob("*")) == before


def test_a_second_start_finds_the_variants_of_the_first(start_host: StartHost, tmp_path: Path) -> None:
    _finish_compressing(start_host())
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache/precompressed").rglob("*.*")}
    assert made
    _finish_compressing(start_host())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache/precompressed").rglob("*.*")} == made


def _packed(static_tree: Path) -> bytes:
    plain = b"\0asm\1\0\0\0" + bytes(range(256)) * 100
    (static_tree / "engine/fast.wasm.br").write_bytes(brotli.compress(plain))
    return plain


def test_an_engine_that_is_kept_compressed_is_sent_so(start_host: StartHost, static_tree: Path) -> None:
    plain = _packed(static_tree)
    answer = ask(start_host().url, "/static/engine/fast.wasm", headers={"Accept-Encoding": "gzip, br"})
    assert answer.headers["Content-Encoding"] == "br"
    assert answer.headers["Content-Type"] == "application/wasm"
    assert answer.body == (static_tree / "engine/fast.wasm.br").read_bytes()
    assert brotli.decompress(answer.body) == plain


def test_an_engine_that_is_kept_compressed_is_unpacked_for_a_client_without_brotli(
    start_host: StartHost, static_tree: Path
) -> None:
    plain = _packed(static_tree)
    server = start_host()
    for _ in range(2):
        answer = ask(server.url, "/static/engine/fast.wasm")
        assert answer.body == plain
        assert "Content-Encoding" not in answer.headers
    sent = {"Range": "bytes=0-3", "Accept-Encoding": "br"}
    assert ask(server.url, "/static/engine/fast.wasm", headers=sent).body == b"\0asm"
    assert ask(server.url, "/static/engine/fast.wasm.br").status == 404


def test_a_damaged_engine_is_an_error_and_not_half_a_file(start_host: StartHost, static_tree: Path) -> None:
    _packed(static_tree)
    packed = static_tree / "engine/fast.wasm.br"
    packed.write_bytes(packed.read_bytes()[:-20])
    server = start_host()
    for _ in range(2):
        answer = ask(server.url, "/static/engine/fast.wasm")
        assert (answer.status, answer.code) == (500, "installation_incomplete")


def test_an_edited_file_gets_a_new_version_at_the_next_page_load(start_host: StartHost, static_tree: Path) -> None:
    server = start_host()
    old = _base(server)
    (static_tree / "js/main.mjs").write_text("export const answer = 43;")
    gone = ask(server.url, old + "js/main.mjs")
    assert (gone.status, gone.code) == (404, "asset_version_gone"), "new bytes must never be cached under the old URL"
    assert ask(server.url, "/static/js/main.mjs").body == b"export const answer = 43;"
    new = _base(server)
    assert new != old
    assert ask(server.url, new + "js/main.mjs").body == b"export const answer = 43;"
    assert ask(server.url, old + "js/worker.js").status == 404


def test_an_edited_file_is_not_answered_by_its_old_variant(start_host: StartHost, static_tree: Path) -> None:
    server = start_host()
    _finish_compressing(server)
    (static_tree / "js/main.mjs").write_text("export const answer = 43;")
    answer = ask(server.url, "/static/js/main.mjs", headers={"Accept-Encoding": "br"})
    assert answer.body == b"export const answer = 43;"


def test_a_file_that_is_touched_only_keeps_its_version(start_host: StartHost, static_tree: Path) -> None:
    server = start_host()
    base = _base(server)
    os.utime(static_tree / "js/main.mjs", (1, 1))
    assert ask(server.url, base + "js/main.mjs").status == 200
    assert _base(server) == base


def test_a_removed_file_is_404(start_host: StartHost, static_tree: Path) -> None:
    server = start_host()
    base = _base(server)
    (static_tree / "js/worker.js").unlink()
    assert ask(server.url, "/static/js/worker.js").code == "not_found"
    assert ask(server.url, base + "js/worker.js").code == "asset_version_gone"


def test_the_version_follows_from_the_contents_alone(start_host: StartHost, static_tree: Path) -> None:
    first = _base(start_host())
    os.utime(static_tree / "js/main.mjs", (1, 1))
    assert _base(start_host()) == first
    (static_tree / "js/main.mjs").rename(static_tree / "js/other.mjs")
    assert _base(start_host()) != first


def test_templates_hidden_files_and_folders_are_not_served(start_host: StartHost) -> None:
    url = start_host().url
    for path in ("templates/index.html", ".hidden/secret.js", "js/.secret.js", "js", "js/", "", "."):
        answer = ask(url, f"/static/{path}")
        assert (answer.status, answer.code) == (404, "not_found"), path


@pytest.fixture
def outside(tmp_path: Path, static_tree: Path) -> Path:
    """A secret beside the static folder, and every kind of link and special file inside that could lead astray."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (static_tree / "link.txt").symlink_to(secret)
    (static_tree / "linked").symlink_to(tmp_path)
    (static_tree / "loop").symlink_to(static_tree / "loop")
    (static_tree / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(static_tree / "fifo")
    return secret


TRAVERSALS = [
    "../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "%2e%2e%2fsecret.txt", "..%5csecret.txt", "..\\secret.txt",
    "%252e%252e%252fsecret.txt", "....//secret.txt", "..;/secret.txt", "js/../../secret.txt", "/etc/passwd",
    "//etc/passwd", "%2fetc%2fpasswd", "\\\\host\\share", "%5c%5chost%5cshare", "C:/windows/win.ini", "C%3a%5cwin.ini",
    "CON", "NUL.js", "js/main.mjs.", "js/main.mjs%20", "js/main.mjs::$DATA", "js/main.mjs/", "js/main.mjs/x",
    "js//main.mjs", "JS/MAIN.MJS", "%ef%bc%8e%ef%bc%8e/secret.txt", "%c0%ae%c0%ae/secret.txt", "%ff%fe",
    "js/main.mjs%00", "%00", "js/main.mjs%00.css", "x" * 5000, "x/" * 2000, "link.txt", "linked/secret.txt", "loop",
    "loop/x", "dangling", "fifo", "?", "%", "%zz", "~root", "-", "*",
]  # fmt: skip


@pytest.mark.parametrize("base", ["/static/", "VERSIONED"])
def test_no_path_leaves_the_static_folder(start_host: StartHost, outside: Path, base: str) -> None:
    server = start_host()
    prefix = _base(server) if base == "VERSIONED" else base
    for path in TRAVERSALS:
        answer = ask(server.url, prefix + path)
        assert answer.status == 404, path[:100]
        assert b"secret" not in answer.body.replace(b"secret.txt", b""), path[:100]


def test_a_request_for_an_unknown_path_does_not_touch_the_file_system(
    start_host: StartHost, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_host()
    _finish_compressing(server)
    touched: list[object] = []
    real_open, real_stat = os.open, os.stat
    monkeypatch.setattr(os, "open", lambda path, *a, **k: (touched.append(path), real_open(path, *a, **k))[1])
    monkeypatch.setattr(os, "stat", lambda path, *a, **k: (touched.append(path), real_stat(path, *a, **k))[1])
    for path in TRAVERSALS:
        ask(server.url, f"/static/{path}")
    monkeypatch.undo()
    assert [path for path in touched if "secret" in str(path) or "etc" in str(path)] == []


def test_a_file_swapped_for_a_link_is_404(start_host: StartHost, static_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    server = start_host()
    (static_tree / "js/main.mjs").unlink()
    (static_tree / "js/main.mjs").symlink_to(tmp_path / "secret.txt")
    answer = ask(server.url, "/static/js/main.mjs")
    assert answer.status == 404
    assert b"secret" not in answer.body


def test_a_missing_template_is_a_coded_error(start_host: StartHost, static_tree: Path) -> None:
    (static_tree / "templates/index.html").unlink()
    answer = ask(start_host().url, "/")
    assert (answer.status, answer.code) == (500, "installation_incomplete")


def test_the_real_page_gets_its_config_and_every_file_that_it_names(start_host: StartHost, tmp_path: Path) -> None:
    model = tmp_path / "<b>tiny.gguf"
    model.write_bytes(b"GGUF")
    server = start_host(static_dir=paths.static_dir(), models=(bare_model(model),))
    assert _config(server)["defaultModel"] == "<b>tiny"
    html = ask(server.url, "/").body.decode()
    assert "<b>tiny" not in html
    named = re.findall(r'(?:href|src)="([^"#]+)"', html)
    assert len([url for url in named if url.endswith((".mjs", ".css"))]) >= 2
    for url in named:
        answer = ask(server.url, url)
        assert answer.status == 200, url
        assert answer.headers["Content-Type"] != "application/octet-stream", url
    assert ask(server.url, "/favicon.ico").status == 200


def test_the_page_config_cannot_break_out_of_its_element(start_host: StartHost, tmp_path: Path) -> None:
    hostile = tmp_path / "<!--<script>&\u2028.gguf"
    hostile.write_bytes(b"GGUF")
    name = "</script><script>alert(1)</script><!-- & \u2028"
    server = start_host(models=(replace(bare_model(hostile), name=name),))
    html = ask(server.url, "/").body.decode()
    assert html.count("</script>") == 2, "those of the template only"
    assert "<!--" not in html
    models = _config(server)["models"]
    assert isinstance(models, list)
    assert models[0]["name"] == name


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("br", ["br"]),
        ("gzip, br", ["br", "gzip"]),
        ("gzip;q=1.0, br;q=0.5", ["gzip", "br"]),
        ("br;q=0, gzip", ["gzip"]),
        ("br; q=0", []),
        ("*", ["br", "gzip"]),
        ("*;q=0.5, br;q=0", ["gzip"]),
        ("identity, br;q=0.5", []),
        ("x-gzip", ["gzip"]),
        ("BR", ["br"]),
        ("br;q=nonsense", []),
        ("deflate, zstd", []),
    ],
)
def test_accept_encoding_is_understood(header: str, expected: list[str]) -> None:
    assert accepted_encodings([header]) == expected


def test_an_etag_is_made_of_the_content(start_host: StartHost, static_tree: Path) -> None:
    answer: Answer = ask(start_host().url, "/static/js/worker.js")
    digest = hashlib.sha256((static_tree / "js/worker.js").read_bytes()).hexdigest()
    assert answer.headers["ETag"] == f'"{digest[:32]}"'


def test_the_service_worker_knows_what_the_page_consists_of(start_host: StartHost, static_tree: Path) -> None:
    (static_tree / "js/service_worker.js").write_text("// the code")
    (static_tree / "vendor/wllama").mkdir()
    (static_tree / "vendor/wllama/wllama.wasm").write_bytes(b"\0asm")
    server = start_host()
    answer = ask(server.url, "/service_worker.js")
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    first, _, rest = answer.body.decode().partition("\n")
    assert rest == "// the code"
    files = json.loads(first.removeprefix("const FILES = ").removesuffix(";"))
    base = f"/assets/{files['version']}/"
    assert f"{base}js/main.mjs" in files["paths"]
    assert not [path for path in files["paths"] if "wllama" in path or "service_worker" in path or ".secret" in path]
    for path in files["paths"]:
        assert ask(server.url, path).status == 200


def test_a_page_without_a_service_worker_has_none(start_host: StartHost) -> None:
    assert ask(start_host().url, "/service_worker.js").status == 404
