"""Models by URL: downloaded once, resumed, never spliced, and clear errors."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from gguf_builder import gguf
from host_http import StartHost, bare_model
from sippet_host import fetch
from sippet_host.errors import DownloadFailed, NotAModel
from sippet_host.hashcache import HashCache
from sippet_host.models import ModelEntry

FIRST = gguf() + bytes(range(256)) * 4000
SECOND = gguf() + bytes(range(255, -1, -1)) * 4000


def fetch_model(url: str, cache: Path) -> ModelEntry:
    return fetch.fetch_model(url, cache, HashCache(cache / "hashes.json"))


class Origin(ThreadingHTTPServer):
    """A server whose faults a test sets: what it sends, where it breaks, whether it knows ranges."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = FIRST
        self.etag: str | None = '"one"'
        self.ranges = True
        self.if_range = True
        self.break_after: list[int] = []
        self.status: int | None = None
        self.location = ""
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/folder/tiny-q8_0.gguf"


class _Handler(BaseHTTPRequestHandler):
    server: Origin

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        origin = self.server
        origin.asked.append(dict(self.headers) | {"path": self.path})
        if origin.status:
            self.send_response(origin.status)
            if origin.location:
                self.send_header("Location", origin.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        current = self.headers["If-Range"] == origin.etag or not origin.if_range
        if origin.ranges and "Range" in self.headers and current:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(origin.content) > 0:
            self.send_error(416)
            return
        body = origin.content[start:]
        self.send_response(206 if start else 200)
        if start:
            size = len(origin.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if origin.etag:
            self.send_header("ETag", origin.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if origin.break_after:
            body = body[: origin.break_after.pop(0)]
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    with Origin() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_model_is_downloaded_once(origin: Origin, tmp_path: Path) -> None:
    model = fetch_model(origin.url, tmp_path)
    assert (model.id, model.files[0].name) == ("tiny-q8_0", "tiny-q8_0.gguf")
    assert model.files[0].path.read_bytes() == FIRST
    assert model.files[0].sha256 == hashlib.sha256(FIRST).hexdigest()
    assert origin.asked[0]["Accept-Encoding"] == "identity"
    origin.status = 500
    assert fetch_model(origin.url, tmp_path) == model
    assert len(origin.asked) == 1


def test_a_damaged_copy_is_downloaded_again(origin: Origin, tmp_path: Path) -> None:
    path = fetch_model(origin.url, tmp_path).files[0].path
    path.write_bytes(FIRST[:-1] + b"!")
    assert fetch_model(origin.url, tmp_path).files[0].path.read_bytes() == FIRST


def test_a_file_that_became_shorter_on_the_server_is_downloaded_anew(origin: Origin, tmp_path: Path) -> None:
    origin.break_after = [300_000, 0, 0, 0]
    with pytest.raises(DownloadFailed):
        fetch_model(origin.url, tmp_path)
    origin.content = FIRST[:200_000]  # under the same tag, against the rules
    assert fetch_model(origin.url, tmp_path).files[0].size == 200_000


def test_a_broken_connection_is_resumed_at_the_byte(origin: Origin, tmp_path: Path) -> None:
    origin.break_after = [300_000, 200_000]
    assert fetch_model(origin.url, tmp_path).files[0].path.read_bytes() == FIRST
    assert [request.get("Range") for request in origin.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert origin.asked[1]["If-Range"] == '"one"'


def test_a_download_is_resumed_by_the_next_process(origin: Origin, tmp_path: Path) -> None:
    origin.break_after = [300_000, 0, 0, 0]
    with pytest.raises(DownloadFailed, match="can't be fetched"):
        fetch_model(origin.url, tmp_path)
    assert fetch_model(origin.url, tmp_path).files[0].path.read_bytes() == FIRST
    assert origin.asked[-1]["Range"] == "bytes=300000-"


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize(
    ("content", "etag"), [(SECOND, '"two"'), (SECOND, None), (SECOND + b"more, under the same tag", '"one"')]
)
def test_two_versions_are_never_mixed(
    origin: Origin, tmp_path: Path, content: bytes, etag: str | None, if_range: bool
) -> None:
    origin.break_after = [300_000, 0, 0, 0]
    with pytest.raises(DownloadFailed):
        fetch_model(origin.url, tmp_path)
    origin.content, origin.etag, origin.if_range = content, etag, if_range
    assert fetch_model(origin.url, tmp_path).files[0].path.read_bytes() == content


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_a_broken_download_starts_anew(origin: Origin, tmp_path: Path, etag: str | None) -> None:
    origin.etag = etag
    origin.break_after = [300_000]
    assert fetch_model(origin.url, tmp_path).files[0].path.read_bytes() == FIRST
    assert "Range" not in origin.asked[1]


def test_a_server_without_ranges_is_asked_for_all_of_it_again(origin: Origin, tmp_path: Path) -> None:
    origin.ranges = False
    origin.break_after = [300_000]
    assert fetch_model(origin.url, tmp_path).files[0].path.read_bytes() == FIRST


def test_our_own_host_is_a_good_origin(start_host: StartHost, tmp_path: Path) -> None:
    path = tmp_path / "served.gguf"
    path.write_bytes(FIRST)
    server = start_host(models=(bare_model(path),))
    fetched = fetch_model(server.url + "models/served/served.gguf", tmp_path / "other")
    assert fetched.files[0].path.read_bytes() == FIRST


@pytest.mark.parametrize("content", [b"<!doctype html><p>Please log in</p>" * 100, b"", b"GG"])
def test_what_is_not_gguf_is_refused_and_not_kept(origin: Origin, tmp_path: Path, content: bytes) -> None:
    origin.content = content
    with pytest.raises(NotAModel) as caught:
        fetch_model(origin.url, tmp_path)
    assert caught.value.code == "invalid_model"
    assert list(tmp_path.rglob("*.gguf*part")) == []
    origin.content = FIRST
    assert fetch_model(origin.url, tmp_path).files[0].path.read_bytes() == FIRST


def test_an_error_of_the_server_is_told_with_its_status(origin: Origin, tmp_path: Path) -> None:
    origin.status = 403
    with pytest.raises(DownloadFailed, match="the server answers 403"):
        fetch_model(origin.url, tmp_path)
    assert len(origin.asked) == 1, "a refusal is not worth another try"


def test_a_server_that_is_not_there_is_a_clear_error(origin: Origin, tmp_path: Path) -> None:
    url = origin.url
    origin.server_close()
    with pytest.raises(DownloadFailed, match="can't be fetched") as caught:
        fetch_model(url, tmp_path)
    assert caught.value.code == "download_failed"


def test_secrets_in_a_url_stay_out_of_messages_and_names(origin: Origin, tmp_path: Path) -> None:
    origin.status = 404
    url = origin.url.replace("http://", "http://user:hunter2@") + "?token=hunter2#hunter2"
    with pytest.raises(DownloadFailed, match="the server answers 404") as caught:
        fetch_model(url, tmp_path)
    assert origin.asked[0]["Authorization"] == "Basic " + base64.b64encode(b"user:hunter2").decode()
    assert "hunter2" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if "hunter2" in str(path)]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x.gguf"])
def test_a_redirect_to_another_scheme_is_refused(origin: Origin, tmp_path: Path, location: str) -> None:
    origin.status, origin.location = 302, location
    with pytest.raises(DownloadFailed):
        fetch_model(origin.url, tmp_path)


def test_a_password_is_not_sent_on_to_the_target_of_a_redirect(origin: Origin, tmp_path: Path) -> None:
    with Origin() as other:
        thread = Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        origin.status, origin.location = 302, other.url
        fetch_model(origin.url.replace("http://", "http://user:hunter2@"), tmp_path)
        other.shutdown()
        thread.join()
        assert "Authorization" in origin.asked[0]
        assert "Authorization" not in other.asked[0]


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("/ä b.gguf?q=ü", "/%C3%A4%20b.gguf?q=%C3%BC"),
        ("/%C3%A4%20b.gguf", "/%C3%A4%20b.gguf"),
        ("/a+b[1]~(2).gguf", "/a+b[1]~(2).gguf"),
    ],
)
def test_a_url_is_quoted_once(origin: Origin, tmp_path: Path, written: str, asked: str) -> None:
    fetch_model(f"http://127.0.0.1:{origin.server_port}{written}", tmp_path)
    assert [request["path"] for request in origin.asked] == [asked]


@pytest.mark.parametrize("location", ["http://[::1/x.gguf", "http://127.0.0.1:99999/x.gguf", "http:///x.gguf"])
def test_a_redirect_to_what_is_no_url_is_a_failed_download(origin: Origin, tmp_path: Path, location: str) -> None:
    origin.status, origin.location = 302, location
    with pytest.raises(DownloadFailed):
        fetch_model(origin.url, tmp_path)


@pytest.mark.parametrize("url", ["http://", "https:///x.gguf", "http://host:port/x.gguf", "http://[::1/x.gguf"])
def test_a_url_without_a_host_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadFailed, match="names no host"):
        fetch_model(url, tmp_path)


def test_all_shards_of_a_split_model_are_fetched(origin: Origin, tmp_path: Path) -> None:
    url = origin.url.replace("tiny-q8_0.gguf", "tiny-00001-of-00002.gguf") + "?key=1"
    model = fetch_model(url, tmp_path)
    assert [request["path"] for request in origin.asked] == [
        "/folder/tiny-00001-of-00002.gguf?key=1",
        "/folder/tiny-00002-of-00002.gguf?key=1",
    ]
    assert [file.name for file in model.files] == ["tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf"]
