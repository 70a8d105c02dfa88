"""The process that holds one native model: llama.cpp's server core, spoken to in lines of JSON.

Run as a script, with the standard library and ``xllamacpp`` alone. Why a process of its own: the wheel holds Python's
lock while it loads, keeps its state in globals, says why it failed only on stderr, and aborts on a failed assertion.
Here a load can be cancelled, models don't meet, the reason is read, a crash is one model's, and ending the process
gives all memory back.

In, a line each: ``{"op": "load" | "stream" | "call" | "cancel", "id": ...}``. Out: ``{"id", "chunk"}`` for each chunk
of a stream, ``{"id", "result"}`` at the end of anything, ``{"id", "error"}`` where it failed. The process ends with
its input.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from typing import Any, BinaryIO

PATHS = {"tokenize": "/tokenize", "detokenize": "/detokenize", "template": "/apply-template"}

MAX_SOCKET_PATH = 100  # the least of what systems allow is 104


class Worker:
    """Serves one model."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self._cancelled: set[int] = set()
        self._server: Any = None
        self._key = secrets.token_urlsafe(16)
        self._address = ""

    def run(self) -> bool:
        """Answer requests until the input ends. False: there was nothing to serve, because the load failed."""
        for line in self._source:
            request = json.loads(line)
            if request["op"] == "cancel":
                self._cancelled.add(request["id"])
            elif request["op"] == "load":
                if not self._answer(request):  # nothing else comes before it is done
                    return False
            else:
                threading.Thread(target=self._answer, args=(request,), daemon=True).start()
        return True

    def _answer(self, request: dict[str, Any]) -> bool:
        number = request["id"]
        try:
            result = getattr(self, f"_{request['op']}")(request)
        except Exception as error:
            reply = {"id": number, "error": {"kind": type(error).__name__, "message": str(error)}}
        else:
            reply = {"id": number, "result": result}
        self._send(json.dumps(reply).encode())
        return "result" in reply

    def _send(self, line: bytes) -> None:
        with self._lock:
            self._sink.write(line + b"\n")
            self._sink.flush()

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        for folder in request["path"]:
            if folder not in sys.path:
                sys.path.append(folder)
        import xllamacpp  # type: ignore[import-untyped, import-not-found, unused-ignore]

        devices = [device["name"] for device in xllamacpp.get_device_info()] if request["devices"] else []
        gpus = [name for name in devices if name != "CPU"]
        if request["gpu_options"] and not gpus:
            return {"refused": request["gpu_options"][0]}
        params = xllamacpp.CommonParams()
        for name, value in request["params"].items():
            _assign(xllamacpp, params, name, value)
        if gpus and request["gpu_batch"]:
            params.n_batch = params.n_ubatch = request["gpu_batch"]
        if request["lora"]:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in request["lora"]]
            params.lora_init_without_apply = True
        self._listen(params, request["folder"])
        self._server = xllamacpp.Server(params)
        self._address = self._server.listening_address
        properties, models = self._http("GET", "/props"), self._http("GET", "/v1/models")
        meta = (models.get("data") or [{}])[0].get("meta") or {}
        return {
            "load_ms": (time.perf_counter() - started) * 1e3,
            "n_ctx": properties["default_generation_settings"]["n_ctx"],
            "n_parallel": properties["total_slots"],
            "n_vocab": meta.get("n_vocab"),
            "n_embd": meta.get("n_embd"),
            "vision": bool((properties.get("modalities") or {}).get("vision")),
            "devices": gpus,
        }

    def _listen(self, params: Any, folder: str) -> None:
        """The server core always listens. It does so where nobody else can speak to it: in a private folder, or with
        a key that nobody else knows."""
        params.api_keys = [self._key]
        params.ui = False
        params.n_threads_http = 2
        params.slot_save_path = os.path.join(folder, "")  # noqa: PTH118 (llama.cpp appends the file's name)
        path = os.path.join(folder, "server.sock")  # noqa: PTH118 (a text is wanted)
        if hasattr(socket, "AF_UNIX") and len(os.fsencode(path)) < MAX_SOCKET_PATH:
            params.hostnames = [path]

    def _stream(self, request: dict[str, Any]) -> None:
        number = request["id"]
        head = b'{"id":%d,"chunk":' % number

        def take(chunk: bytes) -> bool:
            if number in self._cancelled:
                return True  # ends the request: its slot is free at once
            self._send(head + chunk + b"}")
            return False

        chat = request["kind"] == "chat"
        serve = self._server.handle_chat_completions if chat else self._server.handle_completions
        serve(json.dumps(request["body"]).encode(), take)
        self._cancelled.discard(number)

    def _call(self, request: dict[str, Any]) -> Any:
        kind, body = request["kind"], request["body"]
        if kind == "embedding":
            return self._server.handle_embeddings(body)
        if kind == "rerank":
            return self._server.handle_rerank(body)
        if kind in ("save", "restore"):
            return self._http("POST", f"/slots/{body['slot']}?action={kind}", {"filename": body["file"]})
        return self._http("POST", PATHS[kind], body)

    def _http(self, method: str, path: str, body: Any = None) -> Any:
        connection = _connection(self._address)
        with contextlib.closing(connection):
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Authorization": f"Bearer {self._key}"})
            return json.loads(connection.getresponse().read())


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def _connection(address: str) -> http.client.HTTPConnection:
    scheme, _, rest = address.partition("://")
    return _UnixConnection(rest) if scheme == "unix" else http.client.HTTPConnection(rest)


def _assign(module: Any, params: Any, name: str, value: Any) -> None:
    """Set a parameter; its name may lead through groups, and ``{"enum": [type, member]}`` names a constant."""
    *groups, last = name.split(".")
    for group in groups:
        params = getattr(params, group)
    if isinstance(value, dict):
        kind, member = value["enum"]
        value = getattr(getattr(module, kind), member)
    setattr(params, last, value)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which then cancels a request
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints must not come among the lines
    if Worker(sys.stdin.buffer, sink).run():
        os._exit(0)  # at once, whatever still computes
    # An ordinary end writes out llama.cpp's log, which a thread of its own prints: it says why the load failed.


if __name__ == "__main__":
    main()
