"""What the host's tests share: a client that decodes, adds and follows nothing, and models made of any file."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sippet_host import ModelEntry, Running
from sippet_host.models import ModelFile

StartHost = Callable[..., Running]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        code = self.json()["error"]["code"]
        assert isinstance(code, str)
        return code


def ask(url: str, path: str = "/", method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """One request over a connection of its own. ``url`` gives the server, ``path`` goes out as it is."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=bool(headers and "Host" in headers), skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def send_raw(port: int, data: bytes) -> Answer:
    """Sends bytes that no client library would, and reads the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Answer(response.status, response.headers, response.read())


def bare_model(path: Path, sha256: str | None = None) -> ModelEntry:
    """An entry for any file, GGUF or not, named by its stem."""
    return ModelEntry(path.stem, path.stem, (ModelFile.of(path, sha256),))
