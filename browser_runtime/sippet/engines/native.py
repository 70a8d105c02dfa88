"""Native llama.cpp in CPython: its server core from the ``xllamacpp`` wheel, in a process for each model.

``xllamacpp`` was chosen over ``llama-cpp-python``: it is llama.cpp's C++ server (slots with continuous batching,
templates, tools, grammars, embeddings, reranking, images) with the JSON that the WebAssembly engine speaks too, and it
installs as a wheel; the other has one sequence, a server of its own in Python, and is compiled at installation.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import _json
from ..config import RuntimeConfig
from ..endpoints import BackendChoice
from ..errors import EngineCrashed, EngineError, InvalidModel, UnsupportedEnvironment, UnsupportedOption
from . import _native_worker
from ._native_errors import load_error, memory_is_out, request_error
from ._native_params import BATCH, GPU_BATCH, gpu_options, native_params
from ._refused import not_loaded
from .base import CallKind, Engine, EngineInfo, StreamKind

MODULE = "xllamacpp"
MAX_LINE = 256 << 20
"""Bytes of one message from the worker; vectors of many texts are large."""
LOG_LINES = 40
LOG_PATIENCE = 10.0
"""Seconds that a worker whose load failed may take to end."""
_LISTS: Mapping[CallKind, tuple[str, str]] = {"embedding": ("input", "data"), "rerank": ("documents", "results")}
"""Operations on many texts, and the names of the texts and of what is made of them. Nothing stops the server core once
it has them, so it gets as many at a time as it computes together: a cancel waits for these alone."""


class NativeEngine(Engine):
    """One model in one process."""

    def __init__(self, process: asyncio.subprocess.Process, folder: str) -> None:
        self._process = process
        self._folder = folder
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._ended: EngineCrashed | None = None
        self._closed = False
        self._readers = [asyncio.ensure_future(self._read_log()), asyncio.ensure_future(self._read())]

    @classmethod
    async def load(
        cls,
        files: Sequence[Path],
        config: RuntimeConfig,
        *,
        projector: Path | None = None,
        backend: BackendChoice = "auto",
        metadata: Mapping[str, str] | None = None,
        has_chat_template: bool | None = None,
        pooling: str | None = None,
        lora: Sequence[Path] = (),
    ) -> NativeEngine:
        """Start a process and load a model into it. Cancelling this ends the process.

        Args:
            files: the model's shards, in order.
            config: with a context size.
            projector: the model's image projector.
            backend: ``cpu``, or ``auto``: a GPU where the installed wheel has one.
            metadata: the model's, for :attr:`info`.
            has_chat_template: whether the model's file has one.
            pooling: how the model's file says that it pools.
            lora: LoRA adapters, all off until a request turns them on.

        Raises:
            UnsupportedEnvironment: the wheel is not installed, or the backend is the browser's.
            UnsupportedOption: a field of ``config`` has no meaning here.
            ModelError: the model can't be loaded.
        """
        module = require_module()
        if backend == "webgpu":
            raise UnsupportedEnvironment(
                "WebGPU is the browser's.", hint='Use backend="auto" or "cpu".', details={"feature": "webgpu"}
            )
        folder = tempfile.mkdtemp(prefix="sippet-")
        try:
            shards = _named(files, folder)
            params = native_params(config, shards, projector, gpu=backend == "auto", ranks=pooling == "rank")
            engine = cls(await _start(), folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            message = {
                "op": "load",
                "params": params,
                "path": [module],
                "folder": folder,
                "devices": backend == "auto",
                "lora": [str(path.absolute()) for path in lora],
                "gpu_options": gpu_options(config),
                "gpu_batch": GPU_BATCH if params["n_ubatch"] == BATCH else None,
            }
            found = await engine._ask(message, load=True)
            if "refused" in found:
                raise UnsupportedOption(
                    found["refused"],
                    f"RuntimeConfig does not support {found['refused']} here: the model runs on the CPU.",
                    hint="Leave it out, or install an xllamacpp wheel that has this machine's GPU.",
                )
        except BaseException as error:
            await engine.close()
            if isinstance(error, InvalidModel):
                raise not_loaded(error, config.context.chat_template) from None
            raise
        engine.info = EngineInfo(
            backend="native",
            accelerator=found["devices"][0] if found["devices"] else "cpu",
            threads=params["cpuparams.n_threads"],
            n_ctx=found["n_ctx"] * (1 if config.context.kv_unified else found["n_parallel"]),
            n_parallel=found["n_parallel"],
            n_vocab=found["n_vocab"],
            n_embd=found["n_embd"],
            load_ms=found["load_ms"],
            has_chat_template=bool(config.context.chat_template or has_chat_template),
            has_vision=found["vision"],
            embeds=bool(config.context.embeddings),
            pooling=config.context.pooling or pooling,
            metadata=dict(metadata or {}),
        )
        return engine

    @property
    def pid(self) -> int:
        """The worker's process."""
        return self._process.pid

    async def stream(
        self, kind: StreamKind, body: Mapping[str, Any], files: tuple[bytes, ...] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        request = {
            **body,
            "stream": True,
            "stream_options": {"include_usage": True},
            "timings_per_token": True,  # real counts, also for a run that is cancelled
            "return_progress": True,  # a chunk after each batch of prefill, at which a cancel is seen
        }
        number, replies = self._open()
        finished = False
        try:
            self._post({"op": "stream", "id": number, "kind": kind, "body": request})
            while True:
                message = await replies.get()
                chunk = message.get("chunk")
                if chunk is None:
                    finished = True
                    self._result(message)
                    return
                if "error" in chunk:
                    finished = True
                    raise request_error(chunk["error"])
                if "prompt_progress" not in chunk:
                    yield chunk
        finally:
            del self._replies[number]
            if not finished:
                self._cancel(number)

    async def call(self, kind: CallKind, body: Mapping[str, Any]) -> dict[str, Any]:
        if kind not in _LISTS:
            return await self._call(kind, body)
        given, made = _LISTS[kind]
        texts, size = body[given], self.info.n_parallel
        rows, tokens = [], 0
        for start in range(0, len(texts), size):
            found = await self._call(kind, {**body, given: texts[start : start + size]})
            rows += [{**row, "index": start + row["index"]} for row in found[made]]
            tokens += found["usage"]["prompt_tokens"]
        return {made: rows, "usage": {"prompt_tokens": tokens}}

    async def _call(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = await self._ask({"op": "call", "kind": kind, "body": dict(body)})
        if isinstance(found, dict) and "error" in found:
            raise request_error(found["error"])
        return found

    async def save_slot(self, slot: int) -> bytes:
        file = Path(self._folder, f"slot-{next(self._ids)}")
        await self._slot("save", slot, file)
        try:
            return await asyncio.to_thread(file.read_bytes)
        finally:
            await asyncio.to_thread(file.unlink, missing_ok=True)

    async def restore_slot(self, slot: int, data: bytes) -> None:
        file = Path(self._folder, f"slot-{next(self._ids)}")
        await asyncio.to_thread(file.write_bytes, data)
        try:
            await self._slot("restore", slot, file)
        finally:
            await asyncio.to_thread(file.unlink, missing_ok=True)

    async def _slot(self, action: str, slot: int, file: Path) -> None:
        await self._call(action, {"slot": slot, "file": file.name})

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end("the engine was closed")
        with suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await asyncio.gather(*self._readers)
        await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)  # a socket and some links; no thread runs at a program's end

    async def _ask(self, message: Mapping[str, Any], *, load: bool = False) -> Any:
        number, replies = self._open()
        try:
            self._post({**message, "id": number})
            reply = await replies.get()
            if load and "error" in reply:  # the log says why, and ends with the worker
                await asyncio.wait(self._readers[:1], timeout=LOG_PATIENCE)
            return self._result(reply, load=load)
        finally:
            del self._replies[number]

    def _open(self) -> tuple[int, asyncio.Queue[dict[str, Any]]]:
        number = next(self._ids)
        replies = self._replies[number] = asyncio.Queue()
        return number, replies

    def _post(self, message: Mapping[str, Any]) -> None:
        if self._ended:
            raise self._ended
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def _cancel(self, number: int) -> None:
        with suppress(EngineCrashed):
            self._post({"op": "cancel", "id": number})

    def _result(self, message: Mapping[str, Any], *, load: bool = False) -> Any:
        """The last message of a request: its result, or its error."""
        if "ended" in message:
            assert self._ended is not None
            lost = self._process.returncode == -9 or memory_is_out(self._log)  # the system's way of saying no memory
            raise load_error([*self._log, "out of memory"]) if load and lost and not self._closed else self._ended
        if "error" in message:
            raise load_error(self._log) if load else request_error(message["error"])
        return message["result"]

    async def _read(self) -> None:
        """Hand out the worker's messages until it ends."""
        assert self._process.stdout is not None
        reason = "its process ended"
        try:
            async for line in self._process.stdout:
                message = _json.loads(line)
                replies = self._replies.get(message["id"])
                if replies is not None:
                    replies.put_nowait(message)
        except ValueError as error:  # a line that is too long, or broken by a crash
            reason = f"its process sent damaged data ({error})"
            with suppress(ProcessLookupError):
                self._process.kill()
        code = await self._process.wait()
        await self._readers[0]
        self._end(f"{reason} ({f'signal {-code}' if code < 0 else f'status {code}'})")

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        with suppress(ValueError):
            async for line in self._process.stderr:
                self._log.append(line.decode("utf-8", "replace").rstrip()[:500])

    def _end(self, reason: str) -> None:
        """Nothing more will come: fail whatever waits."""
        if self._ended is None:
            self._ended = EngineCrashed(f"The engine ended: {reason}.", details={"log": list(self._log)})
        for replies in self._replies.values():
            replies.put_nowait({"ended": True})


def require_module() -> str:
    """The folder that holds the wheel's package.

    Raises:
        UnsupportedEnvironment: it isn't installed.
    """
    found = importlib.util.find_spec(MODULE)
    if found is None or not found.submodule_search_locations or not sys.executable:
        raise UnsupportedEnvironment(
            "Local models need llama.cpp, which is not installed in this Python.",
            hint="Install it with: pip install 'sippet[native]'. Or add a Gateway or a Provider.",
            details={"feature": "native_engine"},
        )
    return str(Path(next(iter(found.submodule_search_locations))).parent)


async def _start() -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # this folder's modules must not stand in for others of their names
            _native_worker.__file__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE,
            start_new_session=os.name == "posix",  # the terminal's Ctrl-C is for the program alone
        )
    except OSError as error:
        raise EngineError("The engine's process could not be started.") from error


def _named(files: Sequence[Path], folder: str) -> Sequence[Path]:
    """The shards under the names by which llama.cpp finds the further ones."""
    if len(files) == 1:
        return [files[0].absolute()]
    links = [Path(folder, f"model-{n:05}-of-{len(files):05}.gguf") for n in range(1, len(files) + 1)]
    for link, file in zip(links, files, strict=True):
        link.symlink_to(file.absolute())
    return links
