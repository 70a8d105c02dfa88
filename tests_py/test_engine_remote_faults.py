"""What a remote engine does when servers, networks and credentials misbehave."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from sippet._remote_fields import Bearer, Header
from sippet.client import SippClient
from sippet.endpoints import Gateway, Provider
from sippet.engines import remote
from sippet.errors import (
    AuthenticationFailed,
    ContextOverflow,
    InvalidOption,
    ModelNotFound,
    RateLimited,
    RemoteError,
    RemoteUnavailable,
    SippError,
    UnsupportedOperation,
)
from sippet.platform._http1 import Http1Client
from sippet.platform._httpx import HttpxClient
from sippet.results import TextResult

HELLO = [{"role": "user", "content": "Hello"}]
SECRET = "s3cret-key-of-the-tests"
Handler = Callable[[web.Request, web.StreamResponse], Any]


@pytest.fixture(autouse=True, params=[Http1Client, HttpxClient], ids=["http1", "httpx"])
def _client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "default_client", request.param)
    monkeypatch.setattr(remote, "BACK_OFF", 0.01)


class Server:
    """Answers ``POST`` by a script; remembers what was asked."""

    def __init__(self, *answers: Any) -> None:
        """
        Args:
            answers: one for each request, the last again and again: bytes of an event stream, a ``web.Response`` maker
                or a coroutine function of the request.
        """
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.dropped = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.headers), await request.json()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not isinstance(answer, bytes):
            made = answer(request) if not inspect.iscoroutinefunction(answer) else await answer(request)
            assert isinstance(made, web.StreamResponse)
            return made
        response = await self.open(request)
        await response.write(answer)
        return response

    async def open(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        return response

    async def hang(self, request: web.Request) -> web.StreamResponse:
        """Begin an answer, and then send nothing until the client goes away."""
        response = await self.open(request)
        await response.write(chunk("Hel"))
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.dropped.set()
            raise
        return response

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


def chunk(text: str = "", finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **fields}, ensure_ascii=False).encode() + b"\n\n"


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
GOOD = chunk("Hé🙂") + chunk("llo", "stop") + b'data: {"choices": [], "usage": ' + json.dumps(USAGE).encode() + b"}\n\n"
GOOD += b"data: [DONE]\n\n"


def refuses(status: int, error: Any = None, **headers: str) -> Callable[[web.Request], web.Response]:
    return lambda _: web.json_response({"error": error or {"message": "no"}}, status=status, headers=headers)


def run(server: Server, messages: Any = HELLO, make: Any = None, options: Any = None, **fields: Any) -> TextResult:
    async def main() -> TextResult:
        async with server.running() as url, SippClient() as client:
            fields.setdefault("retries", 2)
            await client.add("it", make(url, **fields) if make else Gateway("model", url, **fields))
            return await client.chat(messages, **(options or {}))

    return asyncio.run(main())


def failure(server: Server, **fields: Any) -> SippError:
    with pytest.raises(SippError) as caught:
        run(server, **fields)
    return caught.value


def anthropic(url: str, **fields: Any) -> Provider:
    return Provider("anthropic", "claude", api_key=SECRET, base_url=url, **fields)


def openai(url: str, **fields: Any) -> Provider:
    return Provider("openai", "gpt", api_key=SECRET, base_url=url, **fields)


def test_a_stream_is_read_whatever_way_it_is_cut() -> None:
    async def by_bytes(request: web.Request) -> web.StreamResponse:
        response = await server.open(request)
        for byte in GOOD.replace(b"\n", b"\r\n"):
            await response.write(bytes([byte]))
        return response

    server = Server(by_bytes)
    result = run(server)
    assert (result.text, result.finish_reason) == ("Hé🙂llo", "stop")
    assert (result.usage.prompt_tokens, result.usage.cached_tokens, result.usage.completion_tokens) == (3, 1, 2)


def test_comments_pings_and_unknown_fields_are_passed_over() -> None:
    noisy = b": keep-alive\n\nevent: ping\nid: 7\nretry: 10\n\n" + GOOD.replace(b"data: ", b"id: 1\ndata:")
    assert run(Server(noisy)).text == "Hé🙂llo"


def test_an_event_of_several_data_lines_is_one() -> None:
    split = b'data: {"choices": [{"delta": {"content": "Hi"},\ndata:  "finish_reason": "stop"}]}\n\n'
    assert run(Server(split)).text == "Hi"


def test_a_stream_without_an_end_mark_ends_with_its_finish_reason() -> None:
    assert run(Server(chunk("Hi", "length"))).finish_reason == "length"


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


END = chunk("", "stop") + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"choices": [None]}, {"choices": 5}, {"choices": {"a": 1}}, {"choices": [{"delta": 5}]},
        {"choices": [{"delta": {"content": 5}}]}, {"choices": [{"delta": {"content": [5]}}]},
        {"choices": [{"delta": {"content": {"text": "x"}}}]}, {"choices": [{"finish_reason": {}}]},
        {"choices": [{"delta": {"tool_calls": [None]}}]}, {"choices": [{"delta": {"tool_calls": 5}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": "0"}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": "f"}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"name": 5}}]}}]},
        {"choices": [{"logprobs": {"content": [{}]}}]}, {"choices": [{"logprobs": {"tokens": ["a"]}}]},
        {"choices": [{"logprobs": {"content": [{"token": "a", "logprob": "b"}]}}]},
        {"choices": [], "usage": {"prompt_tokens": "many"}}, {"choices": [], "usage": []},
        {"choices": [], "timings": {"prompt_ms": "long"}},
    ],
)  # fmt: skip
def test_a_chunk_of_another_shape_is_told(wrong: Any) -> None:
    for server in (Server(chunk("a") + event(**wrong) + END), Server(lambda _: web.json_response(wrong))):
        error = failure(server)
        assert (type(error), error.details["reason"]) == (RemoteError, "protocol")


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "message_start", "message": 5}, {"type": "content_block_start", "content_block": [1]},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": 5}},
        {"type": "content_block_start", "content_block": {"type": "tool_use", "name": 5}},
        {"type": "message_delta", "delta": {"stop_reason": {}}}, {"type": ["x"], "delta": {}},
    ],
)  # fmt: skip
def test_an_event_of_another_shape_of_anthropics_is_told(wrong: Any) -> None:
    good = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    try:
        assert run(Server(event(**wrong) + event(**good)), make=anthropic).finish_reason == "stop"
    except RemoteError as error:
        assert error.details["reason"] == "protocol"


def test_a_content_may_come_in_parts() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert run(Server(event(choices=[{"delta": {"content": parts}}]) + END)).text == "Hello"


def test_log_probabilities_of_a_raw_prompt_are_read_in_the_older_way_too() -> None:
    old = {"tokens": ["a", "b"], "token_logprobs": [None, -0.5], "top_logprobs": [None, {"c": -2.0, "b": -0.5}]}
    piece = event(choices=[{"text": "ab", "logprobs": old}]) + event(choices=[{"text": "", "finish_reason": "stop"}])

    async def main() -> None:
        async with Server(piece).running() as url, SippClient() as client:
            await client.add("it", Gateway("model", url))
            (entry,) = (await client.query("x", logprobs=2)).logprobs
            assert (entry.token, entry.logprob, entry.top) == ("b", -0.5, [("b", -0.5), ("c", -2.0)])

    asyncio.run(main())


VECTOR = {"index": 0, "embedding": [0.6, 0.8]}


@pytest.mark.parametrize(
    ("operation", "arguments", "answers"),
    [
        (
            "embed",
            [["a", "b"]],
            [
                {}, {"data": []}, {"data": [VECTOR]}, {"data": [VECTOR, VECTOR]}, {"data": [None, VECTOR]}, {"data": 5},
                {"data": [VECTOR, {"index": 5, "embedding": [1]}]}, {"data": [VECTOR, {"index": 1, "embedding": [1]}]},
                {"data": [{**VECTOR, "embedding": "zcxMPw=="}] * 2}, {"data": [{**VECTOR, "embedding": [None]}] * 2},
                {"data": [VECTOR, {"index": 1, "embedding": [1, 2]}], "usage": 5},
                {"data": [{"index": n, "embedding": []} for n in range(2)]},
            ],
        ),
        (
            "rerank",
            ["a", ["b"]],
            [
                {}, {"results": []}, {"results": [{"index": 0}]}, {"results": [{"index": 1, "relevance_score": 1}]},
                {"results": [None]}, {"results": [{"index": 0, "relevance_score": "high"}]},
            ],
        ),
        ("tokenize", ["a"], [{}, {"tokens": None}, {"tokens": ["x"]}, {"tokens": 5}]),
        ("detokenize", [[1]], [{}, {"content": 5}]),
        ("apply_template", [HELLO], [{}, {"prompt": None}]),
    ],
)  # fmt: skip
def test_an_answer_without_what_was_asked_for_is_told(operation: str, arguments: Any, answers: Any) -> None:
    async def main(answer: Any) -> None:
        async with Server(lambda _: web.json_response(answer)).running() as url, SippClient() as client:
            await client.add("it", Gateway("model", url, server="llama.cpp"))
            with pytest.raises(RemoteError) as caught:
                await getattr(client, operation)(*arguments)
            assert caught.value.details["reason"] == "protocol", answer

    for answer in answers:
        asyncio.run(main(answer))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "context_length_exceeded", "message": "too long"}),
        (
            400,
            {
                "type": "BadRequestError",
                "code": 400,
                "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
                "(4900 in the messages, 100 in the completion). Please reduce the length of the messages.",
            },
        ),
        (400, {"message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096."}),
        (400, {"type": "invalid_request_error", "message": "prompt is too long: 209000 tokens > 200000 maximum"}),
        (
            400,
            {
                "type": "invalid_request_error",
                "message": "input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000, decrease "
                "input length or `max_tokens` and try again",
            },
        ),
        (500, {"type": "server_error", "message": "input (900 tokens) is too large to process. increase the physical "
               "batch size (current batch size: 512)"}),
    ],
)  # fmt: skip
def test_a_prompt_that_is_too_long_is_told_in_many_words(status: int, error: Any) -> None:
    assert isinstance(failure(Server(refuses(status, error)), retries=0), ContextOverflow)


def test_a_cut_stream_is_unavailable_and_not_sent_again() -> None:
    for body in (chunk("Hel"), chunk("Hel") + b'data: {"choi', b""):
        server = Server(body)
        assert failure(server).details["reason"] == "cut"
        assert len(server.requests) == 1


def test_broken_json_in_a_stream_is_told() -> None:
    for body in (b"data: {oops\n\n", b"data: [1]\n\n"):
        error = failure(Server(body))
        assert isinstance(error, RemoteError) and error.details["reason"] == "protocol"


def test_an_error_event_is_the_servers_error() -> None:
    late = chunk("Hel") + b'data: {"error": {"message": "overloaded now", "type": "overloaded_error"}}\n\n'
    error = failure(Server(late))
    assert isinstance(error, RemoteUnavailable) and "overloaded now" in error.message


def test_an_endless_event_is_refused() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = await server.open(request)
        while True:
            await response.write(b"x" * 65536)

    server = Server(endless)
    assert failure(server).details["reason"] == "too_large"


def test_an_answer_in_one_piece_is_read_too() -> None:
    whole = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": USAGE}
    result = run(Server(lambda _: web.json_response(whole)))
    assert (result.text, result.finish_reason, result.usage.completion_tokens) == ("Hi", "stop", 2)


def test_busy_servers_are_asked_again() -> None:
    for status in (429, 502, 503, 504):
        server = Server(refuses(status), refuses(status), GOOD)
        assert run(server).text == "Hé🙂llo"
        assert len(server.requests) == 3


def test_the_time_that_a_server_asks_for_is_waited() -> None:
    async def main() -> float:
        async with server.running() as url, SippClient() as client:
            await client.add("it", Gateway("model", url))
            began = asyncio.get_running_loop().time()
            await client.chat(HELLO)
            return asyncio.get_running_loop().time() - began

    server = Server(refuses(429, **{"Retry-After": "1"}), GOOD)
    assert asyncio.run(main()) >= 1


def test_waiting_to_ask_again_takes_nothing_of_the_time_to_answer() -> None:
    async def late(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.sleep(0.2)
        await response.write(GOOD)
        return response

    assert run(Server(refuses(429, **{"Retry-After": "1"}), late), timeout=1.0).text == "Hé🙂llo"


def test_a_server_that_asks_for_too_long_is_not_waited_for() -> None:
    server = Server(refuses(429, **{"Retry-After": "3600"}))
    error = failure(server)
    assert isinstance(error, RateLimited) and error.details["retry_after"] == 3600
    assert len(server.requests) == 1


def test_after_the_last_try_the_servers_error_is_told() -> None:
    server = Server(refuses(503, {"message": "come back later"}))
    error = failure(server)
    assert isinstance(error, RemoteUnavailable) and "come back later" in error.message
    assert len(server.requests) == 3


def test_what_could_have_been_begun_is_not_sent_again() -> None:
    for status in (400, 401, 404, 408, 500):
        server = Server(refuses(status))
        failure(server)
        assert len(server.requests) == 1


def test_statuses_have_their_errors() -> None:
    cases: list[tuple[int, Any, type[SippError]]] = [
        (401, None, AuthenticationFailed),
        (403, None, AuthenticationFailed),
        (404, None, RemoteError),
        (404, {"message": "no", "code": "model_not_found"}, ModelNotFound),
        (429, None, RateLimited),
        (500, None, RemoteUnavailable),
        (501, None, UnsupportedOperation),
        (400, {"message": "bad", "param": "temperature"}, InvalidOption),
        (418, "I'm a teapot", RemoteError),
    ]
    for status, error, kind in cases:
        assert type(failure(Server(refuses(status, error)), retries=0)) is kind


def test_nobody_there_is_unavailable() -> None:
    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", Gateway("model", "http://127.0.0.1:9", retries=1))
            with pytest.raises(RemoteUnavailable) as caught:
                await client.chat(HELLO)
            assert caught.value.details["reason"] == "connect"

    asyncio.run(main())


def test_a_server_that_does_not_begin_times_out() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def only_headers(request: web.Request) -> web.StreamResponse:
        response = await server.open(request)
        await asyncio.sleep(30)
        return response

    for script in (silent, only_headers):
        server = Server(script)
        assert failure(server, timeout=1.5).details["reason"] == "timeout"
        assert len(server.requests) == 1


def test_a_stream_that_falls_silent_times_out() -> None:
    server = Server(None)
    server.answers = [server.hang]
    assert failure(server, idle_timeout=0.5).details["reason"] == "timeout"


def test_a_cancel_closes_the_connection_and_keeps_the_text() -> None:
    async def main() -> None:
        server = Server(None)
        server.answers = [server.hang]
        async with server.running() as url, SippClient() as client:
            await client.add("it", Gateway("model", url))
            answer = client.chat(HELLO, emit_tokens=True)
            async for _ in answer.tokens:
                answer.cancel("enough")
            result = await answer
            assert (result.text, result.finish_reason) == ("Hel", "cancelled")
            await asyncio.wait_for(server.dropped.wait(), 5)

    asyncio.run(main())


def test_a_redirect_is_refused_and_gets_no_credentials() -> None:
    target = Server(GOOD)
    origin: Server | None = None

    async def main() -> None:
        nonlocal origin
        async with target.running() as there:
            origin = Server(lambda _: web.Response(status=307, headers={"Location": f"{there}/chat/completions"}))
            async with origin.running() as here, SippClient() as client:
                await client.add("it", Gateway("model", here, authentication=Bearer(SECRET)))
                with pytest.raises(RemoteUnavailable) as caught:
                    await client.chat(HELLO)
                assert caught.value.details["reason"] == "redirect"

    asyncio.run(main())
    assert not target.requests


def test_a_secret_that_the_server_repeats_is_blotted_out() -> None:
    error = failure(Server(refuses(401, {"message": f"wrong key {SECRET}!"})), authentication=Bearer(SECRET))
    assert SECRET not in json.dumps(error.to_dict())
    assert "[secret]" in error.message
    late = failure(Server(b'data: {"error": {"message": "bad ' + SECRET.encode() + b'"}}\n\n'), make=openai)
    assert SECRET not in json.dumps(late.to_dict())


def test_a_failing_callback_is_told_without_its_message() -> None:
    def callback() -> str:
        raise KeyError(SECRET)

    error = failure(Server(GOOD), authentication=Bearer(callback))
    assert isinstance(error, AuthenticationFailed)
    assert SECRET not in json.dumps(error.to_dict()) and "KeyError" in error.message


def test_a_secret_that_no_header_can_carry_is_refused_without_repeating_it() -> None:
    server = Server(GOOD)
    error = failure(server, authentication=Bearer(f"{SECRET}\nX-Evil: 1"))
    assert SECRET not in json.dumps(error.to_dict()) and not server.requests


@pytest.mark.parametrize("name", ["a b", "", "a\nb", "é", "a:", "Host", "Content-Length", "Cookie"])
def test_a_name_that_no_header_can_have_is_refused(name: str) -> None:
    for make, option in (
        (lambda: Gateway("model", "https://host", headers={name: "x"}), "headers"),
        (lambda: Gateway("model", "https://host", authentication=Header(name, SECRET)), "authentication"),
    ):
        with pytest.raises(InvalidOption) as caught:
            make()
        assert caught.value.option == option
        assert SECRET not in str(caught.value)


def test_secrets_in_other_headers_and_in_the_wrong_place_are_not_repeated() -> None:
    repeats = Server(refuses(401, {"message": f"wrong key {SECRET}!"}))
    assert SECRET not in json.dumps(failure(repeats, headers={"X-Goog-Api-Key": SECRET}).to_dict())
    for fields in ({"headers": {"Authorization": f"Bearer {SECRET}\n"}}, {"authentication": SECRET}):
        with pytest.raises(InvalidOption) as caught:
            Gateway("m", "https://a.test", **fields)
        assert SECRET not in json.dumps(caught.value.to_dict())


def test_secrets_are_not_in_the_descriptors_text() -> None:
    described = [
        repr(Gateway("m", "https://a.test", authentication=Bearer(SECRET), headers={"X-Key": SECRET})),
        repr(Provider("openai", "m", api_key=SECRET)),
    ]
    assert SECRET not in "".join(described)
    with pytest.raises(InvalidOption) as caught:
        Provider("openai", "m", api_key=SECRET.encode())  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)


def test_credentials_do_not_go_over_plain_http_to_another_machine() -> None:
    async def main() -> None:
        async with SippClient() as client:
            with pytest.raises(InvalidOption, match="plain http"):
                await client.add("it", Gateway("m", "http://a.test/v1", authentication=Bearer(SECRET)))
            await client.add("it", Gateway("m", "http://a.test/v1", authentication=Bearer(SECRET), allow_insecure=True))

    asyncio.run(main())


def test_addresses_with_credentials_or_queries_are_refused() -> None:
    for url in (
        "http://me:pw@a.test",
        "https://a.test?key=1",
        "https://a.test/#x",
        "ftp://a.test",
        "a.test",
        "http://",
    ):
        with pytest.raises(InvalidOption) as caught:
            Gateway("m", url)
        assert "pw" not in str(caught.value) and "key=1" not in str(caught.value)


def test_openai_gets_its_own_names() -> None:
    server = Server(GOOD)
    run(server, make=openai, options={"max_tokens": 5, "temperature": 0.5, "stop": ["x"]})
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {SECRET}"
    assert body["max_completion_tokens"] == 5 and "max_tokens" not in body
    assert body["stream_options"] == {"include_usage": True}


def test_reasoning_is_kept_apart_by_whichever_name() -> None:
    for name in ("reasoning_content", "reasoning"):
        thought = b'data: {"choices": [{"delta": {"%s": "hmm"}}]}\n\n' % name.encode()
        result = run(Server(thought + GOOD))
        assert (result.reasoning, result.text) == ("hmm", "Hé🙂llo")


def calls(*parts: dict[str, Any], finish: str = "tool_calls") -> bytes:
    events = [{"choices": [{"delta": {"tool_calls": [part]}}]} for part in parts]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + chunk("", finish)


def test_tool_calls_are_put_together_from_their_parts() -> None:
    ways = [
        [
            {"index": 0, "id": "a", "function": {"name": "add", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"x":'}},
            {"index": 1, "id": "b", "function": {"name": "sub", "arguments": "{}"}},
            {"index": 0, "function": {"arguments": "1}"}},
        ],
        [  # without an index; the name repeated; arguments as an object
            {"id": "a", "function": {"name": "add", "arguments": '{"x":'}},
            {"id": "a", "function": {"name": "add", "arguments": "1}"}},
            {"id": "b", "function": {"name": "sub", "arguments": {}}},
        ],
    ]
    for parts in ways:
        result = run(Server(calls(*parts)))
        assert result.finish_reason == "tool_calls"
        found = [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in result.tool_calls]
        assert found == [("a", "add", '{"x":1}'), ("b", "sub", "{}")]
    forced = calls({"index": 0, "id": "a", "function": {"name": "add", "arguments": "{}"}}, finish="stop")
    assert run(Server(forced)).finish_reason == "tool_calls"


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


START = {"type": "message_start", "message": {"usage": {"input_tokens": 10, "cache_read_input_tokens": 90,
         "cache_creation_input_tokens": 5, "output_tokens": 1}}}  # fmt: skip


def delta(index: int, **fields: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def test_anthropics_events_are_read() -> None:
    body = sse(
        START,
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        delta(0, type="thinking_delta", thinking="Let me see"),
        delta(0, type="signature_delta", signature="abc"),
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        delta(1, type="text_delta", text="I'll look."),
        {"type": "content_block_stop", "index": 1},
        {"type": "content_block_start", "index": 2,
         "content_block": {"type": "tool_use", "id": "t1", "name": "look", "input": {}}},
        delta(2, type="input_json_delta", partial_json='{"at":'),
        delta(2, type="input_json_delta", partial_json='"x"}'),
        {"type": "content_block_stop", "index": 2},
        {"type": "content_block_start", "index": 3,
         "content_block": {"type": "tool_use", "id": "t2", "name": "now", "input": {}}},
        {"type": "content_block_stop", "index": 3},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 42}},
        {"type": "a_kind_to_come"},
        {"type": "message_stop"},
    )  # fmt: skip
    result = run(Server(body), make=anthropic)
    assert (result.text, result.reasoning, result.finish_reason) == ("I'll look.", "Let me see", "tool_calls")
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in result.tool_calls] == [
        ("t1", "look", '{"at":"x"}'),
        ("t2", "now", "{}"),
    ]
    assert (result.usage.prompt_tokens, result.usage.cached_tokens, result.usage.completion_tokens) == (105, 90, 42)


def test_anthropics_stop_reasons_are_ours() -> None:
    reasons = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "refusal": "error"}
    for theirs, ours in reasons.items():
        body = sse(START, {"type": "message_delta", "delta": {"stop_reason": theirs}, "usage": {"output_tokens": 1}})
        assert run(Server(body), make=anthropic).finish_reason == ours


def test_anthropics_error_event_is_an_error() -> None:
    late = sse(START, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert isinstance(failure(Server(late), make=anthropic), RemoteUnavailable)


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("tools", {"tools": [{"type": "web_search"}]}),
        ("tool_choice", {"tools": [{"function": {"name": "f"}}], "tool_choice": {"type": "allowed_tools"}}),
    ],
)
def test_tools_that_are_no_functions_are_only_for_servers_that_have_them(option: str, options: Any) -> None:
    assert failure(Server(GOOD), make=anthropic, options=options).details["option"] == option
    server = Server(GOOD)
    run(server, options=options)
    assert server.requests[0][2][option] == options[option]


def test_a_conversation_is_translated_for_anthropic() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "See"},
                                     {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "a cat"},
        {"role": "user", "content": "And?"},
    ]  # fmt: skip
    server = Server(sse(START, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}))
    run(server, messages, make=anthropic, options={"stop": "END", "provider_options": {"metadata": {"user_id": "u"}}})
    path, headers, body = server.requests[0]
    assert path == "/v1/messages"
    assert (headers["x-api-key"], headers["anthropic-version"]) == (SECRET, "2023-06-01")
    assert body["system"] == "Be brief." and body["max_tokens"] == 4096
    assert body["stop_sequences"] == ["END"] and body["metadata"] == {"user_id": "u"}
    assert body["messages"] == [
        {"role": "user", "content": [
            {"type": "text", "text": "See"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "a cat"}, {"type": "text", "text": "And?"}]},
    ]  # fmt: skip
