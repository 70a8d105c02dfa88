"""``sippet gateway`` as a process, with a model of its own and a llama.cpp server behind it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_process import gateway_process
from host_http import send_raw
from llama_server import TINY, llama_server
from sippet._remote_fields import Bearer
from sippet.client import SippClient
from sippet.endpoints import Gateway
from sippet.errors import (
    AuthenticationFailed,
    ContextOverflow,
    InvalidOption,
    RemoteError,
)
from sippet.results import TextResult
from sippet_host.errors import ConfigurationError
from sippet_host.gateway import _OPTIONS, _OWN
from sippet_host.gateway_config import read_config

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
KEYS = {"OPS_KEY": "ops-key-for-the-tests", "TAB_KEY": "tab-key-for-the-tests", "UPSTREAM_KEY": "upstream-key-of-tests"}

CONFIG = """
[targets.tiny]
model = "{tiny}"
runtime = {{ context = {{ n_threads = 1 }} }}

[targets.vectors]
model = "{tiny}"
runtime = {{ context = {{ n_threads = 1, embeddings = true, pooling = "mean" }} }}

[targets.far]
endpoint = "{far}"
model = "upstream-name"
server = "llama.cpp"
key_env = "UPSTREAM_KEY"

[keys.ops]
env = "OPS_KEY"

[keys.tab]
env = "TAB_KEY"
targets = ["tiny"]
max_concurrent = 2

[cors]
origins = ["https://chat.example"]
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server(api_keys=[KEYS["UPSTREAM_KEY"]]) as far:
        folder = tmp_path_factory.mktemp("gateway")
        with gateway_process(folder, CONFIG.format(tiny=TINY, far=far), KEYS) as address:
            yield address


def ask(
    url: str, path: str, body: Any = None, key: str | None = KEYS["OPS_KEY"], method: str | None = None, **headers: str
) -> tuple[int, Any, Any]:
    """A plain request; status, headers and the body, as JSON where it is."""
    data = None if body is None else json.dumps(body).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    fields |= {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url + path, data, fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            status, found, text = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        status, found, text = error.code, error.headers, error.read()
    try:
        return status, found, json.loads(text)
    except ValueError:
        return status, found, text.decode()


def chat(url: str, target: str = "tiny", key: str = KEYS["OPS_KEY"], messages: Any = FRANCE, **options: Any) -> Any:
    async def main() -> TextResult:
        async with SippClient() as client:
            await client.add("it", Gateway(target, url, Bearer(key), server="sippet"))
            return await client.chat(messages, **options)

    return asyncio.run(main())


def test_our_own_client_gets_the_same_from_every_target(url: str) -> None:
    for target in ("tiny", "far"):
        result = chat(url, target, temperature=0)
        assert (result.text, result.finish_reason) == (PARIS, "stop")
        assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (22, 15)
        assert chat(url, target, max_tokens=3).finish_reason == "length"


def test_the_stream_is_the_final_text(url: str) -> None:
    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", Gateway("tiny", url, Bearer(KEYS["OPS_KEY"])))
            run = client.chat([{"role": "user", "content": "Tell me a story."}], emit_tokens=True, max_tokens=50)
            assert "".join([batch.text async for batch in run.tokens]) == (await run).text

    asyncio.run(main())


def test_an_answer_in_one_piece_is_openais(url: str) -> None:
    body = {"model": "tiny", "messages": FRANCE, "temperature": 0, "max_completion_tokens": 4}
    status, _, found = ask(url, "/v1/chat/completions", body)
    assert status == 200 and found["object"] == "chat.completion" and found["model"] == "tiny"
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 4


def test_a_raw_prompt_a_schema_and_vectors(url: str) -> None:
    prompt = f"<|im_start|>user\n{FRANCE[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    _, _, completed = ask(url, "/v1/completions", {"model": "tiny", "prompt": prompt, "temperature": 0})
    assert completed["choices"][0]["text"] == PARIS
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    _, _, formed = ask(url, "/v1/chat/completions", {"model": "tiny", "messages": FRANCE, "response_format": form})
    assert json.loads(formed["choices"][0]["message"]["content"]) in ("yes", "no")
    _, _, vectors = ask(url, "/v1/embeddings", {"model": "vectors", "input": ["red", "Rome"]})
    assert [len(row["embedding"]) for row in vectors["data"]] == [128, 128]


def test_errors_keep_their_kind_through_the_gateway(url: str) -> None:
    with pytest.raises(AuthenticationFailed):
        chat(url, key="some-other-key-than-ours")
    for target in ("tiny", "far"):
        with pytest.raises(ContextOverflow):
            chat(url, target, messages=[{"role": "user", "content": "one " * 3000}])
    with pytest.raises(RemoteError):
        chat(url, "nothing")
    status, _, found = ask(url, "/v1/chat/completions", {"model": "tiny", "messages": FRANCE, "tempreature": 1})
    assert status == 400 and found["error"]["param"] == "tempreature"
    status, _, found = ask(url, "/v1/chat/completions", {"model": "tiny", "messages": FRANCE, "top_p": 7})
    assert (status, found["error"]["param"], found["error"]["code"]) == (400, "top_p", "invalid_option")
    assert ask(url, "/v1/chat/completions", [1])[0] == 400
    assert ask(url, "/v1/nothing", {})[0] == 404
    with pytest.raises(InvalidOption):
        chat(url, endpoint_options={"model": "far"})


WRONG: list[Any] = [None, True, -1, 1.5, 2**40, 10**400, "x", "", [], {}, [[]], [5], [None], {"x": 1}, "\ud800"]
"""A value of each type that JSON has; some of them are right for some fields."""
CHAT = {"model": "tiny", "messages": FRANCE, "max_tokens": 1}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "tiny", "prompt": "x", "max_tokens": 1},
    "/v1/embeddings": {"model": "vectors", "input": "x"},
    "/v1/tokens": {"targets": ["tiny"], "seconds": 5},
}
FIELDS = {
    "/v1/chat/completions": sorted({*_OPTIONS, *_OWN}),
    "/v1/completions": sorted({*_OPTIONS, *_OWN}),
    "/v1/embeddings": ["model", "input", "encoding_format", "user", "dimensions"],
    "/v1/tokens": ["targets", "seconds"],
}


@pytest.mark.parametrize(("path", "field"), [(path, name) for path, names in FIELDS.items() for name in names])
def test_a_value_of_the_wrong_type_is_the_askers_fault(url: str, path: str, field: str) -> None:
    for wrong in WRONG:
        status, _, found = ask(url, path, BODIES[path] | {field: wrong})
        assert status < 500, (wrong, found)
        if status >= 400:
            assert {"message", "type", "code", "param"} <= found["error"].keys(), (wrong, found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", "json"),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema", "json_schema": "x"}),
        ("response_format", {"type": "json_schema"}),
        ("stream", "yes"),
        ("stream_options", "x"),
        ("top_logprobs", "x"),
        ("messages", [{"role": ["user"], "content": "x"}]),
        ("json_schema", {"type": 5}),
        ("json_schema", {"$ref": "#/nothing"}),
    ],
)
def test_a_value_of_the_wrong_shape_is_refused(url: str, field: str, value: Any) -> None:
    status, _, found = ask(url, "/v1/chat/completions", CHAT | {field: value})
    assert 400 <= status < 500, found
    assert found["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b"", b"{", b"\xff", b"null", b'{"model": "tiny", "seconds": ' + b"9" * 5000 + b"}"]
)
@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_is_no_json_object_is_refused(url: str, path: str, body: bytes) -> None:
    answer = send_raw(
        int(url.rpartition(":")[2]),
        f"POST {path} HTTP/1.1\r\nHost: {url[7:]}\r\nAuthorization: Bearer {KEYS['OPS_KEY']}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body,
    )
    assert (answer.status, answer.code) == (400, "usage")


@pytest.mark.parametrize(
    "line",
    [b"", b"Authorization: Bearer \xff\xfe\r\n", b"Authorization: Bearer stk_\xff.\xff\r\n", b"Authorization: \xff\r\n",
     b"Authorization: Bearer stk_=.=\r\n", b"Authorization:\r\n", b"Authorization: Basic eA==\r\n"],
)  # fmt: skip
def test_a_strange_key_is_no_key(url: str, line: bytes) -> None:
    answer = send_raw(
        int(url.rpartition(":")[2]), b"GET /v1/models HTTP/1.1\r\nHost: " + url[7:].encode() + b"\r\n" + line + b"\r\n"
    )
    assert (answer.status, answer.code) == (401, "authentication_failed")


@pytest.mark.parametrize(
    "request_line",
    [b"GET /v1/models HTTP/1.1", b"GET /nothing HTTP/1.1", b"no request", b"GET /" + b"x" * 9000 + b" HTTP/1.1"],
)
def test_no_answer_tells_which_libraries_serve(url: str, request_line: bytes) -> None:
    answer = send_raw(int(url.rpartition(":")[2]), request_line + b"\r\nHost: " + url[7:].encode() + b"\r\n\r\n")
    assert answer.status >= 400
    assert "Server" not in answer.headers
    assert answer.json()["error"]["message"]


def test_a_key_sees_and_uses_its_own_targets_only(url: str) -> None:
    assert [row["id"] for row in ask(url, "/v1/models")[2]["data"]] == ["tiny", "vectors", "far"]
    assert [row["id"] for row in ask(url, "/v1/models", key=KEYS["TAB_KEY"])[2]["data"]] == ["tiny"]
    assert ask(url, "/v1/models", key=None)[0] == 401
    body = {"model": "far", "messages": FRANCE, "max_tokens": 1}
    assert ask(url, "/v1/chat/completions", body, key=KEYS["TAB_KEY"])[0] == 404
    assert ask(url, "/healthz", key=None)[2]["status"] == "ok"
    for target in ("tiny", "vectors"):
        ask(url, "/v1/embeddings", {"model": target, "input": "x"})
    assert 'target="vectors"' in ask(url, "/metrics")[2]
    shown = ask(url, "/metrics", key=KEYS["TAB_KEY"])[2]
    assert 'target="tiny"' in shown and 'target="vectors"' not in shown


def test_a_short_lived_token_does_what_it_says_and_no_longer(url: str) -> None:
    status, _, found = ask(url, "/v1/tokens", {"targets": ["tiny"], "seconds": 2})
    token = found["token"]
    assert status == 200 and 0 < found["expires_at"] - time.time() <= 2
    assert [row["id"] for row in ask(url, "/v1/models", key=token)[2]["data"]] == ["tiny"]
    assert ask(url, "/v1/tokens", {}, key=token)[0] == 403
    assert ask(url, "/v1/tokens", {"targets": ["far"]}, key=KEYS["TAB_KEY"])[0] == 403
    assert ask(url, "/v1/tokens", {"seconds": 10**9})[0] == 400
    for bad in (token[:-2], token[:8] + "x" + token[9:], "stk_", "stk_a.b"):
        assert ask(url, "/v1/models", key=bad)[0] == 401
    time.sleep(max(found["expires_at"] + 0.1 - time.time(), 0) + 1)
    assert ask(url, "/v1/models", key=token)[0] == 401


def test_only_named_origins_may_ask_from_a_page(url: str) -> None:
    for origin, allowed in {"https://chat.example": True, "https://evil.example": False}.items():
        status, headers, _ = ask(url, "/v1/models", key=None, method="OPTIONS", Origin=origin)
        assert (status == 204) == allowed
        assert (headers.get("Access-Control-Allow-Origin") == origin) == allowed
        _, headers, _ = ask(url, "/v1/models", Origin=origin)
        assert (headers.get("Access-Control-Allow-Origin") == origin) == allowed


def test_a_client_that_goes_away_ends_the_computation(url: str) -> None:
    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", Gateway("tiny", url, Bearer(KEYS["TAB_KEY"]), server="sippet"))
            run = client.chat([{"role": "user", "content": "Tell me a story."}], emit_tokens=True, temperature=0)
            async for _ in run.tokens:
                run.cancel()
            assert (await run).finish_reason == "cancelled"

    asyncio.run(main())
    assert chat(url, key=KEYS["TAB_KEY"], temperature=0).text == PARIS  # its slot and its place are free again
    metrics = ask(url, "/metrics")[2]
    assert "sippet_running 0" in metrics
    assert 'sippet_requests_total{target="tiny",outcome="completed"}' in metrics
    assert 'sippet_tokens_total{target="tiny",kind="completion"}' in metrics


def test_no_credential_is_in_any_answer(url: str) -> None:
    said = [ask(url, "/v1/models"), ask(url, "/metrics"), ask(url, "/v1/chat/completions", {"model": "far"})]
    for _, headers, body in said:
        for secret in KEYS.values():
            assert secret not in f"{headers}{body}"


def test_a_wrong_configuration_is_told(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    cases = {
        "": "no targets",
        "[targets.a]": "neither model",
        "[[targets]]": "tables",
        '[targets.a]\nmodel = "x"\nwrong = 1': "wrong",
        '[targets.a]\nendpoint = "ftp://x"': "base_url",
        '[targets.a]\nendpoint = "http://x"\nkey_env = "NOT_SET"': "NOT_SET",
        '[targets.a]\nmodel = "x"\n[keys.k]\nenv = "SHORT"': "shorter",
        '[targets.a]\nmodel = "x"\n[keys.k]\nenv = "LONG"\ntargets = ["b"]': "unknown target",
        "nonsense": "can't be read",
        "x = " + "[" * 100_000: "can't be read",
        "targets = 5": r"\[targets\] must hold tables",
        "targets.a = 5": r"\[targets\] must hold tables",
        "[targets.a]\nmodel = 5": r"\[targets\.a\] model must be a string",
        '[targets.a]\nmodel = "x"\nprojector = 5': "projector must be a string",
        '[targets.a]\nmodel = "x"\nruntime = 5': "runtime must be",
        '[targets.a]\nmodel = "x"\nruntime = { context = { n_ctx = "x" } }': "n_ctx must be",
        '[targets.a]\nmodel = "x"\nkey_env = 5': "key_env must be a string",
        '[targets.a]\nmodel = "x"\nlora = 5': "lora must be",
        "[targets.a]\nendpoint = 5": "endpoint must be a string",
        '[targets.a]\nendpoint = "http://x"\nmodel = 5': "model must be a string",
        '[targets.a]\nendpoint = "http://x"\nserver = 5': "server must be",
        '[targets.a]\nprovider = 5\nmodel = "x"': "provider must be",
        '[targets.a]\nprovider = "openai"': "has no model",
        "keys = 5": r"\[keys\] must hold tables",
        "[keys.k]\nenv = 5": r"\[keys\.k\] env must be a string",
        '[keys.k]\nenv = "LONG"\ntargets = "a"': r"\[keys\.k\] targets must be a list of strings",
        '[keys.k]\nenv = "LONG"\ntargets = [1]': "targets must be a list of strings",
        '[keys.k]\nenv = "LONG"\nmax_concurrent = "x"': "max_concurrent must be a whole number",
        '[keys.k]\nenv = "LONG"\nmax_concurrent = 1.5': "max_concurrent must be a whole number",
        '[keys.k]\nenv = "LONG"\nmax_concurrent = 0': "max_concurrent must be at least 1",
        "cors = 5": r"\[cors\] must be a table",
        '[cors]\norigins = "https://a.example"': r"\[cors\] origins must be a list of strings",
        '[cors]\norigins = ["*"]': r"can't be an origin",
        '[cors]\norigins = ["https://a.example/"]': r"can't be an origin",
    }
    sound = '\n[targets.a]\nmodel = "x"\n'
    for text, expected in cases.items():
        file.write_text(text if "targets" in text.split("\n")[0] or not text else text + sound)
        with pytest.raises(ConfigurationError, match=expected):
            read_config(file, {"SHORT": "abc", "LONG": "a" * 20})


def test_without_keys_it_listens_here_only(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'[targets.a]\nmodel = "{TINY}"')
    command = [sys.executable, "-m", "sippet_host", "gateway", str(file), "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "[configuration]" in done.stderr
