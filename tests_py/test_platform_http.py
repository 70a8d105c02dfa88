"""The HTTP clients of CPython against real sockets, well-behaved and not."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from sippet.errors import InvalidOption, RemoteError, RemoteUnavailable
from sippet.platform._http1 import Http1Client
from sippet.platform._httpx import HttpxClient
from sippet.platform.http import Headers, HttpClient, default_client, display_url

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=[Http1Client, HttpxClient])
def client(request: pytest.FixtureRequest) -> HttpClient:
    return request.param()  # type: ignore[no-any-return]


@asynccontextmanager
async def raw_server(script: Script) -> AsyncIterator[str]:
    """A server that says exactly what the script writes, after reading the request's head."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await script(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def says(data: bytes) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return script


@asynccontextmanager
async def app_server(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def get(client: HttpClient, url: str, **options: object) -> tuple[int, bytes]:
    try:
        async with client.request("GET", url, **options) as response:  # type: ignore[arg-type]
            return response.status, await response.read()
    finally:
        await client.close()


async def reason(client: HttpClient, script: Script, **options: object) -> str:
    async with raw_server(script) as url:
        with pytest.raises(RemoteUnavailable) as caught:
            await get(client, url + "/secret?key=s3cr3t", **options)
    assert "s3cr3t" not in str(caught.value) + str(caught.value.details)
    return str(caught.value.details["reason"])


def test_a_body_with_a_length_arrives_whole(client: HttpClient) -> None:
    async def main() -> None:
        async with raw_server(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as url:
            assert await get(client, url) == (200, b"hello")

    asyncio.run(main())


def test_a_chunked_body_is_joined_and_its_extensions_are_ignored(client: HttpClient) -> None:
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n1;x=y\r\no\r\n0\r\n\r\n"

    async def main() -> None:
        async with raw_server(says(body)) as url:
            assert await get(client, url) == (200, b"hello")

    asyncio.run(main())


def test_a_body_without_a_length_ends_with_the_connection(client: HttpClient) -> None:
    async def main() -> None:
        async with raw_server(says(b"HTTP/1.1 200 OK\r\n\r\nhello")) as url:
            assert await get(client, url) == (200, b"hello")

    asyncio.run(main())


def test_a_compressed_body_is_decoded_although_identity_was_asked_for(client: HttpClient) -> None:
    packed = gzip.compress(b"hello" * 1000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()

    async def main() -> None:
        async with raw_server(says(head + packed)) as url:
            assert await get(client, url) == (200, b"hello" * 1000)

    asyncio.run(main())


def test_identity_is_asked_for_and_given_headers_are_sent(client: HttpClient) -> None:
    seen = {}

    async def show(request: web.Request) -> web.Response:
        seen.update({"body": await request.text(), "method": request.method}, **request.headers)
        return web.Response(status=201, headers=[("X-Two", "a"), ("X-Two", "b")])

    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", show)
        async with app_server(app) as url:
            async with client.request("POST", url + "/a?b=c", headers={"X-Mine": "1"}, body=b"data") as response:
                assert (response.status, response.ok) == (201, True)
                assert response.headers["x-two"] == "a, b"
            await client.close()

    asyncio.run(main())
    assert seen["Accept-Encoding"] == "identity"
    assert (seen["X-Mine"], seen["body"], seen["method"]) == ("1", "data", "POST")


@pytest.mark.parametrize(
    "body",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"",
    ],
)
def test_a_cut_answer_is_an_error(client: HttpClient, body: bytes) -> None:
    assert asyncio.run(reason(client, says(body))) == "cut"


@pytest.mark.parametrize(
    "body",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!!0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 5000 + b"\r\n",
    ],
)
def test_the_plain_client_refuses_what_is_not_sound_http(body: bytes) -> None:
    assert asyncio.run(reason(Http1Client(), says(body))) == "protocol"


def test_silence_before_the_answer_times_out(client: HttpClient) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    assert asyncio.run(reason(client, script, timeout=0.2)) == "timeout"


def test_silence_in_the_body_times_out(client: HttpClient) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await writer.drain()
        await asyncio.sleep(5)

    assert asyncio.run(reason(client, script, timeout=0.2)) == "timeout"


def test_no_server_is_a_connection_error(client: HttpClient) -> None:
    async def main() -> None:
        async with raw_server(says(b"")) as url:
            pass
        with pytest.raises(RemoteUnavailable) as caught:
            await get(client, url)
        assert caught.value.details["reason"] == "connect"

    asyncio.run(main())


async def _echo_authorization(request: web.Request) -> web.Response:
    return web.json_response(request.headers.get("Authorization"))


def _redirecting(target: str) -> web.Application:
    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(target)

    app = web.Application()
    app.router.add_get("/from", redirect)
    app.router.add_get("/to", _echo_authorization)
    return app


def test_credentials_follow_a_redirect_only_within_the_origin(client: HttpClient) -> None:
    async def main() -> None:
        headers = {"Authorization": "Bearer x"}
        async with app_server(_redirecting("/to")) as url:
            async with client.request("GET", url + "/from", headers=headers) as response:
                assert (await response.read(), response.url) == (b'"Bearer x"', url + "/to")
            elsewhere = app_server(_redirecting(url + "/to"))
            async with elsewhere as other, client.request("GET", other + "/from", headers=headers) as response:
                assert (await response.read(), response.url) == (b"null", url + "/to")
        await client.close()

    asyncio.run(main())


def test_a_redirect_can_be_refused_or_handed_over(client: HttpClient) -> None:
    async def main() -> None:
        async with app_server(_redirecting("/to")) as url:
            async with client.request("GET", url + "/from", redirect="manual") as response:
                assert response.status == 302
            with pytest.raises(RemoteUnavailable) as caught:
                await get(client, url + "/from", redirect="error")
            assert caught.value.details["reason"] == "redirect"

    asyncio.run(main())


def test_a_redirect_loop_ends(client: HttpClient) -> None:
    async def main() -> None:
        async with app_server(_redirecting("/from")) as url:
            with pytest.raises(RemoteUnavailable) as caught:
                await get(client, url + "/from")
        assert caught.value.details["reason"] == "redirect"

    asyncio.run(main())


def test_a_body_beyond_the_limit_is_refused(client: HttpClient) -> None:
    async def main() -> None:
        server = raw_server(says(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000))
        async with server as url, client.request("GET", url) as response:
            with pytest.raises(RemoteError, match="more than 4999 bytes"):
                await response.read(4999)
        await client.close()

    asyncio.run(main())


def test_leaving_the_context_closes_the_connection(client: HttpClient) -> None:
    closed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nhello")
        await writer.drain()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        closed.set()

    async def main() -> None:
        async with raw_server(script) as url:
            async with client.request("GET", url) as response:
                async for piece in response.iter_bytes():
                    assert piece == b"hello"
                    break
            await asyncio.wait_for(closed.wait(), 5)
        await client.close()

    asyncio.run(main())


def test_a_small_compressed_body_can_not_fill_the_memory() -> None:
    client = Http1Client()  # httpx decodes each piece of up to 64 KiB at once
    packed = gzip.compress(bytes(200 << 20))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()

    async def main() -> None:
        async with raw_server(says(head + packed)) as url:
            async with client.request("GET", url) as response:
                with pytest.raises(RemoteError):
                    await response.read(1 << 20)
            await client.close()

    tracemalloc.start()
    try:
        asyncio.run(main())
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("path", ["/ä ö.gguf?q=ü", "/%C3%A4%20%C3%B6.gguf?q=%C3%BC"])
def test_what_is_not_ascii_in_a_url_is_encoded_once(client: HttpClient, path: str) -> None:
    asked = []

    async def note(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        if "to" not in request.query:
            raise web.HTTPFound(location="/ä?to=1")
        return web.Response(text="there")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{tail:.*}", note)
        async with app_server(app) as url:
            assert await get(client, url + path) == (200, b"there")

    asyncio.run(main())
    assert asked == ["/%C3%A4%20%C3%B6.gguf?q=%C3%BC", "/%C3%A4?to=1"]


@pytest.mark.parametrize("location", ["http://[", "http://a:99999/", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_a_redirect_to_what_is_no_address_is_the_servers_fault(client: HttpClient, location: str) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    assert asyncio.run(reason(client, says(answer))) in ("redirect", "connect")  # httpx tries some of them


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "nonsense",
        "http://",
        "http://[",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/",
        "http://a b/",
        "http://a/\ud800",
        "http://\ud800/",
        "http://" + "ä" * 100 + "/",
    ],
)
def test_only_http_urls_are_requested(client: HttpClient, url: str) -> None:
    with pytest.raises(InvalidOption):
        asyncio.run(get(client, url))


def test_a_header_cannot_smuggle_another_one() -> None:
    with pytest.raises(InvalidOption):
        asyncio.run(get(Http1Client(), "http://127.0.0.1:9/", headers={"X": "a\r\nY: b"}))


def test_headers_are_found_in_any_case() -> None:
    headers = Headers([("Content-Type", "text/plain"), ("ETAG", '"x"')])
    assert (headers["content-type"], headers["Etag"], "etag" in headers, len(headers)) == ("text/plain", '"x"', True, 2)


def test_a_shown_url_has_no_credentials_and_no_query() -> None:
    assert display_url("https://me:pw@example.org:8/a/b?token=1#f") == "https://example.org:8/a/b"


def test_cpython_prefers_httpx() -> None:
    assert isinstance(default_client(), HttpxClient)
