"""A client that goes away in the middle of an answer is nothing to report."""

from __future__ import annotations

import logging
import socket
import struct
import time
from pathlib import Path

import pytest
from sippet_host import ServerThread, Settings
from sippet_host.models import load_model

TINY = Path(__file__).with_name("models") / "tiny-chat-f16.gguf"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with a reset


def test_a_client_that_leaves_a_download_leaves_no_traceback(
    static_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = tmp_path / "large.gguf"
    large.write_bytes(TINY.read_bytes())
    with large.open("r+b") as file:
        file.truncate(64 << 20)  # more than any socket's buffers hold
    model = load_model(large)
    with caplog.at_level(logging.INFO), ServerThread(Settings(port=0, static_dir=static_tree, models=(model,))) as host:
        port = int(host.url.rstrip("/").rpartition(":")[2])
        path = model.describe()["url"]
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
                time.sleep(0.1)  # the server is in the middle of its sending
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
