"""Model bytes over HTTP: ranges, validators, conditions, and files that change under way."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from host_http import Answer, StartHost, ask, bare_model
from sippet_host import Running

DATA = b"GGUF" + bytes(i * 7 % 251 for i in range(99_996))
LAST_WEEK = time.time() - 7 * 86_400

Ask = Callable[..., Answer]


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-f16.gguf"
    path.write_bytes(DATA)
    os.utime(path, (LAST_WEEK, LAST_WEEK))
    return path


@pytest.fixture
def server(start_host: StartHost, model_path: Path) -> Running:
    return start_host(models=(bare_model(model_path),))


@pytest.fixture
def get(server: Running) -> Ask:
    def get(headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        return ask(server.url, "/models/tiny-f16/tiny-f16.gguf", method, headers)

    return get


def test_the_whole_file_is_sent_with_its_length_and_a_strong_validator(get: Ask) -> None:
    answer = get()
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Content-Length"] == str(len(DATA))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"].startswith('"')
    assert answer.headers["Last-Modified"] == formatdate(int(LAST_WEEK), usegmt=True)


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=99990-", 99_990, 99_999),
        ("bytes=99999-99999", 99_999, 99_999),
        ("bytes=-7", 99_993, 99_999),
        ("bytes=99990-200000", 99_990, 99_999),
    ],
)
def test_a_range_is_those_bytes(get: Ask, header: str, first: int, last: int) -> None:
    answer = get({"Range": header})
    assert (answer.status, answer.body) == (206, DATA[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"
    assert answer.headers["Content-Length"] == str(last + 1 - first)


def test_a_range_past_the_end_is_416_and_tells_the_length(get: Ask) -> None:
    answer = get({"Range": "bytes=100000-"})
    assert (answer.status, answer.code) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == "bytes */100000"


@pytest.mark.parametrize("header", ["bytes=5-1", "chars=0-5", "bytes=x", "bytes=0-1,5-9"])
def test_a_range_that_must_or_may_be_ignored_gives_the_whole_file(get: Ask, header: str) -> None:
    answer = get({"Range": header})
    assert (answer.status, answer.body) == (200, DATA)


def test_head_tells_the_length_and_ignores_a_range(get: Ask) -> None:
    answer = get({"Range": "bytes=0-9"}, "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(DATA))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert "Content-Range" not in answer.headers


def test_a_model_is_never_compressed(get: Ask) -> None:
    answer = get({"Accept-Encoding": "br, gzip"})
    assert answer.body == DATA
    assert "Content-Encoding" not in answer.headers


def test_a_resume_with_the_same_etag_gets_the_rest(get: Ask) -> None:
    etag = get(method="HEAD").headers["ETag"]
    answer = get({"Range": "bytes=500-", "If-Range": etag})
    assert (answer.status, answer.body) == (206, DATA[500:])


@pytest.mark.parametrize("etag", ['"stale"', 'W/"stale"', "garbage", "Thu, 01 Jan 1970 00:00:00 GMT", ""])
def test_a_resume_with_another_validator_gets_the_whole_file(get: Ask, etag: str) -> None:
    answer = get({"Range": "bytes=500-", "If-Range": etag})
    assert (answer.status, answer.body) == (200, DATA)


def test_a_weak_etag_does_not_allow_a_resume(get: Ask) -> None:
    etag = get(method="HEAD").headers["ETag"]
    assert get({"Range": "bytes=500-", "If-Range": f"W/{etag}"}).status == 200


def test_a_resume_by_the_exact_date_gets_the_rest(get: Ask) -> None:
    date = formatdate(int(LAST_WEEK), usegmt=True)
    assert get({"Range": "bytes=500-", "If-Range": date}).status == 206
    later = formatdate(int(LAST_WEEK) + 1, usegmt=True)
    assert get({"Range": "bytes=500-", "If-Range": later}).status == 200


def test_a_file_changed_this_second_has_no_date_to_resume_by(get: Ask, model_path: Path) -> None:
    os.utime(model_path)
    answer = get()
    assert "Last-Modified" not in answer.headers
    now = formatdate(int(model_path.stat().st_mtime), usegmt=True)
    assert get({"Range": "bytes=500-", "If-Range": now}).status == 200


def test_an_unsatisfiable_range_of_another_version_is_not_416_but_the_whole_file(get: Ask) -> None:
    assert get({"Range": "bytes=100000-", "If-Range": '"other"'}).status == 200


def test_what_the_client_has_already_is_304(get: Ask) -> None:
    first = get(method="HEAD")
    etag = first.headers["ETag"]
    for sent in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = get({"If-None-Match": sent})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == etag
        assert "Content-Length" not in answer.headers
    assert get({"If-None-Match": '"other"'}).status == 200
    assert get({"If-Modified-Since": first.headers["Last-Modified"]}).status == 304
    assert get({"If-Modified-Since": formatdate(LAST_WEEK - 10, usegmt=True)}).status == 200
    assert get({"If-Modified-Since": "yesterday"}).status == 200


def test_if_none_match_wins_over_if_modified_since(get: Ask) -> None:
    date = get(method="HEAD").headers["Last-Modified"]
    assert get({"If-None-Match": '"other"', "If-Modified-Since": date}).status == 200


def test_a_failed_precondition_is_412(get: Ask) -> None:
    etag = get(method="HEAD").headers["ETag"]
    assert get({"If-Match": etag}).status == 200
    assert get({"If-Match": "*"}).status == 200
    for sent in ({"If-Match": '"other"'}, {"If-Match": f"W/{etag}"},
                 {"If-Unmodified-Since": formatdate(LAST_WEEK - 10, usegmt=True)}):  # fmt: skip
        answer = get(sent)
        assert (answer.status, answer.code) == (412, "precondition_failed")


def test_two_range_headers_are_ignored(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("GET", "/models/tiny-f16/tiny-f16.gguf")
    connection.putheader("Range", "bytes=0-1")
    connection.putheader("Range", "bytes=5-6")
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, DATA)
    connection.close()


def test_an_empty_file_is_sent_as_nothing(start_host: StartHost, tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    path.touch()
    server = start_host(models=(bare_model(path),))
    answer = ask(server.url, "/models/empty/empty.gguf")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")
    answer = ask(server.url, "/models/empty/empty.gguf", headers={"Range": "bytes=0-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */0")
    assert ask(server.url, "/models/empty/empty.gguf", headers={"Range": "bytes=-5"}).status == 200


def test_offsets_above_4_gib_are_exact(start_host: StartHost, tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    size = 5 * 2**30 + 3
    with path.open("wb") as file:  # sparse: takes a few blocks on disk
        file.write(b"GGUF")
        file.seek(2**32 - 2)
        file.write(b"ABCDEF")
        file.seek(size - 3)
        file.write(b"end")
    server = start_host(models=(bare_model(path),))
    url = "/models/huge/huge.gguf"
    assert ask(server.url, url, "HEAD").headers["Content-Length"] == str(size)
    answer = ask(server.url, url, headers={"Range": f"bytes={2**32 - 2}-{2**32 + 3}"})
    assert (answer.status, answer.body) == (206, b"ABCDEF")
    assert answer.headers["Content-Range"] == f"bytes {2**32 - 2}-{2**32 + 3}/{size}"
    assert ask(server.url, url, headers={"Range": "bytes=-3"}).body == b"end"


def test_a_known_hash_is_the_etag_until_the_file_changes(
    start_host: StartHost, model_path: Path, tmp_path: Path
) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    server = start_host(models=(bare_model(model_path, digest),))
    url = "/models/tiny-f16/tiny-f16.gguf"
    assert ask(server.url, url).headers["ETag"] == f'"sha256-{digest}"'
    model_path.write_bytes(DATA[::-1])
    answer = ask(server.url, url)
    assert answer.body == DATA[::-1]
    assert digest not in answer.headers["ETag"]


def test_a_file_replaced_between_two_ranges_is_not_spliced(get: Ask, model_path: Path, tmp_path: Path) -> None:
    first = get({"Range": "bytes=0-49999"})
    replacement = tmp_path / "new.gguf"
    replacement.write_bytes(b"GGUF" + DATA[:3:-1])
    os.utime(replacement, (LAST_WEEK, LAST_WEEK))  # same size, same times, as a careless copy leaves them
    replacement.replace(model_path)
    second = get({"Range": "bytes=50000-", "If-Range": first.headers["ETag"]})
    assert (second.status, second.body) == (200, b"GGUF" + DATA[:3:-1])


def _big_model(tmp_path: Path) -> Path:
    path = tmp_path / "big.gguf"
    with path.open("wb") as file:
        for number in range(64):
            file.write((b"GGUF" if number == 0 else b"") + bytes([number]) * 2**20)
    os.utime(path, (LAST_WEEK, LAST_WEEK))
    return path


def _begin(port: int, path: str) -> socket.socket:
    """Asks for a file over a connection with a small buffer, and reads its first bytes only."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    return connection


def _rest(connection: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := connection.recv(2**20):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def test_a_file_replaced_while_it_is_sent_goes_out_in_its_old_version(start_host: StartHost, tmp_path: Path) -> None:
    path = _big_model(tmp_path)
    content = path.read_bytes()
    server = start_host(models=(bare_model(path),))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/models/big/big.gguf")
    response = connection.getresponse()
    begin = response.read(1000)
    other = tmp_path / "other"
    other.write_bytes(b"GGUF" + bytes(64 * 2**20))
    other.replace(path)
    assert begin + response.read() == content
    connection.close()


@pytest.mark.parametrize("change", ["truncate", "overwrite"])
def test_a_file_altered_in_place_while_it_is_sent_ends_the_connection(
    start_host: StartHost, tmp_path: Path, change: str
) -> None:
    path = _big_model(tmp_path)
    size = path.stat().st_size
    server = start_host(models=(bare_model(path),))
    with _begin(server.port, "/models/big/big.gguf") as connection:
        with path.open("r+b") as file:
            if change == "truncate":
                file.truncate(1000)
            else:
                file.seek(50 * 2**20)
                file.write(b"new")
        assert len(_rest(connection)) < size - 2000
    assert ask(server.url, "/healthz").status == 200


def _open_files(path: Path) -> int:
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += link.readlink() == path
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc")
def test_clients_that_leave_in_the_middle_cost_no_file_handle(start_host: StartHost, tmp_path: Path) -> None:
    path = _big_model(tmp_path)
    server = start_host(models=(bare_model(path),))
    connections = [_begin(server.port, "/models/big/big.gguf") for _ in range(5)]
    assert _open_files(path) == 5
    assert ask(server.url, "/healthz").status == 200, "stalled downloads must not hold up others"
    for connection in connections:
        connection.close()
    deadline = time.monotonic() + 10
    while _open_files(path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _open_files(path) == 0


def test_a_model_that_vanishes_is_404(get: Ask, model_path: Path) -> None:
    model_path.unlink()
    answer = get()
    assert (answer.status, answer.code) == (404, "not_found")


def test_a_fifo_in_the_place_of_a_model_is_404(get: Ask, model_path: Path) -> None:
    model_path.unlink()
    os.mkfifo(model_path)
    assert get().status == 404


@pytest.mark.parametrize("name", ["tiny-f16", "tiny-f16/", "tiny-f16/other.gguf", "other/tiny-f16.gguf",
                                  "tiny-f16/tiny-f16.gguf/", "tiny-f16/%2e%2e/tiny-f16.gguf", "tiny-f16/" + "x" * 5000,
                                  "tiny-f16/tiny-f16.gguf%00", "tiny-f16/..%2ftiny-f16.gguf"])  # fmt: skip
def test_no_other_name_reaches_a_model(server: Running, name: str) -> None:
    answer = ask(server.url, f"/models/{name}")
    assert (answer.status, answer.code) == (404, "not_found")
