"""Servers that a tab asks: what is sent again, and the functions of the page that give credentials."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hosting import Serve
from playwright.sync_api import Page
from tab import Tab, TabError

KEY = "a-key-of-the-page"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with a reset
ANSWER = b'{"choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}'


class _Handler(BaseHTTPRequestHandler):
    """An API that wants :data:`KEY`; below ``/reset`` it takes a request in and breaks the connection."""

    server: Server

    def do_OPTIONS(self) -> None:
        self._answer(204)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts += 1
        if self.path.startswith("/reset"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close_connection = True
            self.connection.close()
            return
        given = self.headers.get("X-Key") or self.headers.get("Authorization", "")
        right = given.removeprefix("Bearer ") == KEY
        self._answer(200 if right else 401, ANSWER if right else b'{"error": {"message": "not %s"}}' % given.encode())

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Headers", "authorization, content-type, x-key")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # browsers send again what failed on a connection that was used before
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        if self.connection.fileno() >= 0:
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    posts = 0

    def shutdown_request(self, request: Any) -> None:
        if request.fileno() >= 0:
            super().shutdown_request(request)


@contextmanager
def running() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def tab(page: Page, serve: Serve) -> Tab:
    return Tab(page, serve(connect_sources=("http://127.0.0.1:*",)).url)


CHAT = """
  const client = (state.client ??= new sippet.SippClient());
  const calls = [];
  const give = async () => { calls.push(1); %s; };
  const lent = (fields) => Object.fromEntries(Object.entries(fields).map(([n, v]) => [n, v === "give" ? give : v]));
  const {authentication, ...descriptor} = argument;
  await client.add("it", {...lent(descriptor), ...(authentication && {authentication: lent(authentication)})});
  const said = [];
  for (let time = 0; time < 2; time++) said.push((await client.chat([{role: "user", content: "Hello"}])).text);
  return {said, calls: calls.length};
"""


def test_a_request_that_the_server_had_is_not_sent_again(tab: Tab, server: Server) -> None:
    url = f"http://127.0.0.1:{server.server_port}/reset/v1"
    with pytest.raises(TabError) as caught:
        tab.run(CHAT % "return ''", {"kind": "gateway", "target": "m", "baseUrl": url})
    assert (caught.value.code, caught.value.details["reason"]) == ("remote_unavailable", "network")
    assert caught.value.hint
    assert server.posts == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "provider", "provider": "openai_compatible", "model": "m", "apiKey": "give"},
        {"kind": "gateway", "target": "m", "authentication": {"type": "bearer", "token": "give"}},
        {"kind": "gateway", "target": "m", "authentication": {"type": "header", "name": "X-Key", "value": "give"}},
    ],
    ids=["apiKey", "token", "value"],
)
def test_a_function_of_the_page_gives_the_key_at_each_request(tab: Tab, server: Server, fields: dict[str, Any]) -> None:
    argument = {**fields, "baseUrl": f"http://127.0.0.1:{server.server_port}/v1"}
    assert tab.run(CHAT % f"return '{KEY}'", argument) == {"said": ["Hi", "Hi"], "calls": 2}
    for body in (f"throw new Error('{KEY}')", "return undefined", "return 5", "return () => 5", "return 'wrong-key'"):
        with pytest.raises(TabError) as caught:
            tab.run(CHAT % body, argument)
        assert caught.value.code == "authentication_failed", body
        assert KEY not in str(caught.value) and "wrong-key" not in str(caught.value)
