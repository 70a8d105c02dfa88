"""Headers on every answer, the Host check, the policy, and requests that are not well-formed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from host_http import Answer, StartHost, ask, bare_model, send_raw
from sippet_host import ConfigurationError, Running, Settings, build_policy
from sippet_host.app import HOST

ALWAYS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
MODEL = "/models/tiny/tiny.gguf"


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    return path


def _answers(server: Running) -> dict[str, Answer]:
    """One answer of every status and kind that the host gives."""
    url = server.url
    etag = ask(url, MODEL, "HEAD").headers["ETag"]

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("on purpose")

    answers = {
        "200 page": ask(url, "/"),
        "200 worker": ask(url, "/static/js/worker.js"),
        "200 module": ask(url, "/static/js/main.mjs"),
        "200 wasm": ask(url, "/static/vendor/pyodide/core.wasm"),
        "200 model": ask(url, MODEL),
        "200 head": ask(url, MODEL, "HEAD"),
        "200 manifest": ask(url, "/models/manifest.json"),
        "200 health": ask(url, "/healthz"),
        "206": ask(url, MODEL, headers={"Range": "bytes=0-3"}),
        "304": ask(url, MODEL, headers={"If-None-Match": etag}),
        "400": send_raw(server.port, b"GET / nonsense\r\n\r\n"),
        "400 by its URL": send_raw(server.port, b"GET http://xn--a/ HTTP/1.1\r\nHost: xn--a\r\n\r\n"),
        "403": ask(url, "/", "POST", {"Origin": "https://evil.example"}),
        "404": ask(url, "/nothing"),
        "404 asset": ask(url, "/assets/0/x"),
        "404 document": ask(url, "/nothing", headers={"Sec-Fetch-Dest": "document"}),
        "405": ask(url, "/", "DELETE"),
        "412": ask(url, MODEL, headers={"If-Match": '"other"'}),
        "413": ask(url, "/", "POST", {"Content-Length": "99999999"}),
        "416": ask(url, MODEL, headers={"Range": "bytes=5000-"}),
        "417": ask(url, "/", headers={"Expect": "the-impossible"}),
        "421": ask(url, "/", headers={"Host": "evil.example"}),
        "431": ask(url, "/" + "x" * 20_000),
    }
    logging.getLogger("sippet_host").disabled = True
    page, server.app[HOST].assets.respond = server.app[HOST].assets.respond, fail  # type: ignore[method-assign,assignment]
    try:
        answers["500"] = ask(url, "/static/js/main.mjs")
    finally:
        server.app[HOST].assets.respond = page  # type: ignore[method-assign]
        logging.getLogger("sippet_host").disabled = False
    return answers


def test_every_answer_carries_the_security_headers(start_host: StartHost, model_path: Path) -> None:
    for name, answer in _answers(start_host(models=(bare_model(model_path),))).items():
        assert answer.status == int(name.split()[0]), name
        for header, value in ALWAYS.items():
            assert answer.headers.get_all(header) == [value], f"{name}: {header}"
        assert answer.headers.get_all("Cross-Origin-Opener-Policy") == ["same-origin"], name
        assert answer.headers.get_all("Cross-Origin-Embedder-Policy") == ["require-corp"], name
        policies = answer.headers.get_all("Content-Security-Policy")
        assert policies == [str(build_policy(document=name == "200 page"))], name
        assert "camera=()" in answer.headers["Permissions-Policy"], name
        assert "Server" not in answer.headers, name
        assert "Access-Control-Allow-Origin" not in answer.headers, name


def test_every_error_is_json_with_a_code_and_a_message(start_host: StartHost, model_path: Path) -> None:
    for name, answer in _answers(start_host(models=(bare_model(model_path),))).items():
        if answer.status >= 400 and "document" not in name:
            assert answer.headers["Content-Type"] == "application/json; charset=utf-8", name
            assert answer.headers["Cache-Control"] == "no-store", name
            error = answer.json()["error"]
            assert set(error) == {"code", "message"}, name
            assert error["code"], name
            assert error["message"], name


def test_a_person_who_opens_a_wrong_url_reads_plain_text(start_host: StartHost) -> None:
    answer = ask(start_host().url, "/nothing", headers={"Sec-Fetch-Dest": "document"})
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.body.startswith(b"not_found: ")


def test_without_isolation_only_coop_and_coep_are_left_out(start_host: StartHost, model_path: Path) -> None:
    models = (bare_model(model_path),)
    with_isolation = _answers(start_host(models=models))
    for name, answer in _answers(start_host(models=models, isolation=False)).items():
        lost = {"Cross-Origin-Opener-Policy", "Cross-Origin-Embedder-Policy"}
        assert set(with_isolation[name].headers) - set(answer.headers) == lost, name
        for header in {*ALWAYS, "Content-Security-Policy", "Permissions-Policy"}:
            assert answer.headers[header] == with_isolation[name].headers[header], name


def test_credentialless_can_be_chosen(start_host: StartHost) -> None:
    assert ask(start_host(coep="credentialless").url).headers["Cross-Origin-Embedder-Policy"] == "credentialless"
    with pytest.raises(ConfigurationError, match="require-corp, credentialless"):
        Settings(coep="unsafe-none")


def test_a_wrong_method_is_405_and_says_which_work(start_host: StartHost) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = ask(start_host().url, "/healthz", method)
        assert (answer.status, answer.code) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == "GET,HEAD"


def test_a_cors_preflight_is_denied(start_host: StartHost) -> None:
    sent = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    answer = ask(start_host().url, "/models/manifest.json", "OPTIONS", sent)
    assert answer.status == 405
    assert [name for name in answer.headers if name.lower().startswith("access-control")] == []


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_the_names_of_this_machine_are_served(start_host: StartHost, name: str) -> None:
    server = start_host()
    assert ask(server.url, "/healthz", headers={"Host": f"{name}:{server.port}"}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:PORT", "127.0.0.1.nip.io:PORT", "localhost.evil.example:PORT", "localhost",
        "127.0.0.1", "localhost:1", "localhost:PORT0", "127.0.0.2:PORT", "0.0.0.0:PORT", "user@localhost:PORT",
        "localhost:PORT/", "localhost:PORT@evil.example", "localhost.:PORT", "[::1%25lo]:PORT", "[::]:PORT", "::1:PORT",
        "2130706433:PORT", "0x7f.1:PORT", "evil.example#localhost:PORT", "", ":PORT", "localhost :PORT",
    ],
)  # fmt: skip
def test_other_names_are_421(start_host: StartHost, host: str) -> None:
    server = start_host()
    answer = ask(server.url, "/", headers={"Host": host.replace("PORT", str(server.port))})
    assert (answer.status, answer.code) == (421, "wrong_host")
    assert "--allowed-host" in answer.json()["error"]["message"]


def test_a_request_needs_exactly_one_host(start_host: StartHost) -> None:
    port = start_host().port
    good = f"Host: localhost:{port}\r\n"
    assert send_raw(port, b"GET / HTTP/1.1\r\n\r\n").status == 400
    assert send_raw(port, b"GET / HTTP/1.0\r\n\r\n").status == 400
    assert send_raw(port, f"GET / HTTP/1.1\r\n{good}Host: evil.example\r\n\r\n".encode()).status == 400
    assert send_raw(port, f"GET / HTTP/1.1\r\nHost: evil.example\r\n{good}\r\n".encode()).status == 400
    assert send_raw(port, f"GET / HTTP/1.1\r\n{good}\r\n".encode()).status == 200


def test_the_host_in_an_absolute_request_target_counts_too(start_host: StartHost) -> None:
    port = start_host().port
    head = f"Host: localhost:{port}\r\n\r\n"
    assert send_raw(port, f"GET http://localhost:{port}/healthz HTTP/1.1\r\n{head}".encode()).status == 200
    assert send_raw(port, f"GET http://evil.example/healthz HTTP/1.1\r\n{head}".encode()).status == 421
    evil = f"GET http://localhost:{port}/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    assert send_raw(port, evil.encode()).status == 421


def test_allowed_hosts_are_served_with_their_port_or_behind_a_proxy(start_host: StartHost) -> None:
    server = start_host(allowed_hosts=("Models.Example", "other.example:8443"))

    def status(host: str) -> int:
        return ask(server.url, "/healthz", headers={"Host": host}).status

    assert status("models.example") == 200
    assert status(f"models.example:{server.port}") == 200
    assert status("models.example:1") == 421
    assert status("other.example:8443") == 200
    assert status("other.example") == 421
    assert status("sub.models.example") == 421


def test_listening_everywhere_serves_the_address_of_the_connection_and_no_other(start_host: StartHost) -> None:
    server = start_host(host="0.0.0.0")
    assert server.url == f"http://127.0.0.1:{server.port}/"
    assert ask(f"http://127.0.0.2:{server.port}", "/healthz").status == 200
    assert ask(server.url, "/healthz", headers={"Host": f"10.9.8.7:{server.port}"}).status == 421
    assert ask(server.url, "/healthz", headers={"Host": f"evil.example:{server.port}"}).status == 421


def test_another_origin_can_change_nothing(start_host: StartHost) -> None:
    server = start_host()
    for origin in (
        "https://evil.example",
        "null",
        f"https://localhost:{server.port}",
        f"http://localhost:{server.port}x",
    ):
        answer = ask(server.url, "/healthz", "POST", {"Origin": origin})
        assert (answer.status, answer.code) == (403, "foreign_origin")
    assert ask(server.url, "/healthz", "POST", {"Origin": f"http://127.0.0.1:{server.port}"}).status == 405


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
    ],
)
def test_nonsense_is_400_and_no_traceback(
    start_host: StartHost, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_host()
    answer = send_raw(server.port, request_bytes + b"\r\n\r\n")
    assert (answer.status, answer.code) == (400, "bad_request")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert ask(server.url, "/healthz").status == 200


def test_the_default_policy_has_no_eval_no_blob_no_data_and_no_inline() -> None:
    for document in (True, False):
        policy = str(build_policy(document=document))
        for source in ("'unsafe-eval'", "blob:", "data:", "'unsafe-inline'", "*", "http"):
            assert source not in policy.replace("'wasm-unsafe-eval'", "")


def test_the_policy_starts_from_nothing() -> None:
    directives = build_policy(document=True).directives()
    assert directives["default-src"] == ("'none'",)
    assert directives["script-src"] == ("'self'", "'wasm-unsafe-eval'")
    assert directives["connect-src"] == ("'self'",)
    assert directives["worker-src"] == ("'self'",)
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert directives[name] == ("'none'",)


def test_trusted_types_are_required_of_documents_only() -> None:
    assert build_policy(document=True).directives()["require-trusted-types-for"] == ("'script'",)
    assert build_policy(document=True).directives()["trusted-types"] == ("sippet", "dompurify")
    assert not [name for name in build_policy(document=False).directives() if "trusted" in name]


def test_configured_origins_are_added_to_connect_src_only(start_host: StartHost) -> None:
    server = start_host(connect_sources=("https://gateway.example:8443", "https://*.hub.example"))
    policy = ask(server.url).headers["Content-Security-Policy"]
    assert "connect-src 'self' https://gateway.example:8443 https://*.hub.example; " in policy
    assert policy.count("example") == 2


@pytest.mark.parametrize(
    "source",
    ["*", "https:", "'unsafe-eval'", "https://a.example; script-src *", "https://a.example https://b.example", "data:",
     "https://a.example\r\nX: y", "", "a.example", "https://", "javascript://x", "https://*"],
)  # fmt: skip
def test_a_source_that_would_widen_the_policy_is_refused(source: str) -> None:
    with pytest.raises(ConfigurationError, match="Content Security Policy"):
        build_policy(document=True, connect=[source])


def test_every_source_is_explained() -> None:
    policy = build_policy(document=True, connect=["https://gateway.example"])
    explained = {(grant.directive, grant.source) for grant in policy.explain()}
    sent = {(name, source) for name, sources in policy.directives().items() for source in sources}
    assert explained == sent
    assert all(grant.feature and grant.without for grant in policy.explain())


def test_the_readme_explains_the_policy_that_is_sent() -> None:
    readme = (Path(__file__).parent.parent / "host/README.md").read_text()
    rows = [
        f"| `{grant.directive}` | `{grant.source}` | {grant.feature} | {grant.without} |"
        for grant in build_policy(document=True).explain()
    ]
    assert "\n".join(rows) in readme
