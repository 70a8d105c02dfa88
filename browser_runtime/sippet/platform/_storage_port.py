"""A line to the storage worker (``static/js/storage_worker.mjs``), which works while somebody holds it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import UnsupportedEnvironment
from ._browser import JsEnginePort, offers


class WorkerFailure(Exception):
    """What the worker was asked for failed.

    Attributes:
        kind: whether it was the ``network`` or the ``storage``.
        name: of the JavaScript error.
        message: what it said.
    """

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.kind, self.name, self.message = kind, name, message


class StoragePort:
    """Requests to the storage worker and their answers. Hold it before anything is asked of it."""

    def __init__(self) -> None:
        self._port: JsEnginePort | None = None
        self._holders = 0
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._crash: dict[str, Any] | None = None

    def number(self) -> int:
        """A new number, for a file or a body."""
        return next(self._numbers)

    def hold(self) -> None:
        """Keep the worker until :meth:`release`: it has something of the caller's. The first one starts it."""
        self._holders += 1
        if self._holders == 1:
            self._start()

    def release(self) -> None:
        """The caller has nothing there any more. The last one ends the worker."""
        self._holders -= 1
        if self._holders == 0:
            self._end()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the worker for a block of code."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def tell(self, op: str, **fields: Any) -> None:
        """Have something done, in order, without waiting for it."""
        assert self._port is not None, "hold it first"
        self._port.post({"op": op, **fields})

    async def ask(self, op: str, **fields: Any) -> Any:
        """Have something done. Returns its result; bytes come as a ``memoryview``.

        Raises:
            WorkerFailure: it failed.
            UnsupportedEnvironment: there is no worker.
        """
        number, answers = self._open()
        try:
            self.tell(op, id=number, **fields)
            return _result(await answers.get())
        finally:
            del self._waiting[number]

    async def follow(self, op: str, **fields: Any) -> AsyncGenerator[dict[str, Any]]:
        """Have something done that tells how far it is.

        Raises:
            WorkerFailure, UnsupportedEnvironment: as for :meth:`ask`.
        """
        number, answers = self._open()
        try:
            self.tell(op, id=number, **fields)
            while "notes" in (answer := await answers.get()):
                yield answer
            _result(answer)
        finally:
            del self._waiting[number]

    def _open(self) -> tuple[int, asyncio.Queue[dict[str, Any]]]:
        number = self.number()
        answers = self._waiting[number] = asyncio.Queue()
        if self._crash:
            answers.put_nowait(self._crash)
        return number, answers

    def _start(self) -> None:
        self._crash = None
        self._port = JsEnginePort(offers().storagePort())
        self._port.receive = self._take

    def _end(self) -> None:
        assert self._port is not None
        self._port.close()
        self._port = None

    def _take(self, message: dict[str, Any]) -> None:
        if message["id"] is None:  # the worker has crashed, or never started
            self._crash = message
            for answers in self._waiting.values():
                answers.put_nowait(message)
        elif message["id"] in self._waiting:
            self._waiting[message["id"]].put_nowait(message)


def _result(answer: dict[str, Any]) -> Any:
    if answer["id"] is None:
        raise UnsupportedEnvironment(
            f"The worker that stores models does not work here: {answer['error']['message']}.",
            hint="Serve the runtime's files unchanged, with a policy that has worker-src 'self'; a model can still be "
            "used without being stored.",
            details={"feature": "storage_worker"},
        )
    if "error" in answer:
        raise WorkerFailure(**answer["error"])
    return answer.get("result")
