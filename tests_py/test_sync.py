"""The blocking client: the same as the asynchronous one, in a program that never awaits."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from llama_server import TINY
from sippet import client, runs, sync
from sippet.endpoints import LocalModel
from sippet.errors import ClientClosed, InvalidOption, ModelNotFound, UsageError
from sippet.events import ClientEvent
from sippet.models.store import ModelStore

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
ENDLESS: dict[str, Any] = {"grammar": 'root ::= "a" root', "emit_tokens": True}
MODEL = LocalModel(TINY, runtime={"context": {"n_threads": 1}})


@pytest.fixture
def chatting() -> Iterator[sync.SippClient]:
    with sync.SippClient() as found:
        found.add("it", MODEL)
        yield found


def public(cls: type) -> dict[str, Any]:
    return {name: item for name, item in inspect.getmembers_static(cls) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("blocking", "awaited"),
    [(sync.SippClient, client.SippClient), (sync.TextRun, runs.TextRun), (sync.Run, runs.Run)],
)
def test_both_have_the_same_members_and_signatures(blocking: type, awaited: type) -> None:
    ours, theirs = public(blocking), public(awaited)
    ours.pop("options", None)  # an attribute there
    assert ours.keys() == theirs.keys()
    for name, item in theirs.items():
        if isinstance(item, property):
            assert isinstance(ours[name], property)
            continue
        there, here = inspect.signature(item).parameters.values(), inspect.signature(ours[name]).parameters.values()
        assert [(p.name, p.kind, p.default) for p in here] == [(p.name, p.kind, p.default) for p in there], name
        if not any("Run" in str(p.annotation) for p in there):
            assert [p.annotation for p in here] == [p.annotation for p in there], name


def test_the_models_have_the_same_members() -> None:
    # What `install` and `open` give is awaited itself.
    assert public(sync.Models).keys() == public(ModelStore).keys() - {"install", "open"}


def test_models_are_asked_about(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPPET_CACHE", str(tmp_path))
    with sync.SippClient() as found:
        assert found.models.remove_unfinished() == 0
        assert found.models.memory_limit().nbytes > 0
        assert isinstance(found.models.persist(), bool)


def test_a_call_waits_for_its_answer(chatting: sync.SippClient) -> None:
    result = chatting.chat(FRANCE, temperature=0).response
    assert (result.text, result.usage.completion_tokens) == ("The capital of France is Paris.", 15)
    assert chatting.query("a", max_tokens=2, grammar=ENDLESS["grammar"]).response.text == "aa"


def test_the_text_is_iterated_as_it_comes(chatting: sync.SippClient) -> None:
    run = chatting.chat(FRANCE, emit_tokens=True, temperature=0)
    assert "".join(batch.text for batch in run.tokens) == run.response.text
    assert run.done and run.error is None


def test_cancel_keeps_the_text(chatting: sync.SippClient) -> None:
    run = chatting.chat(FRANCE, **ENDLESS)
    for _ in run.tokens:
        run.cancel("enough")
    assert (run.response.finish_reason, run.response.cancel_reason) == ("cancelled", "enough")
    assert set(run.response.text) == {"a"}


def test_threads_share_a_client(chatting: sync.SippClient) -> None:
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(chatting.chat(FRANCE, temperature=0).response.text))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["The capital of France is Paris."] * 4


def test_errors_are_raised_where_they_belong(chatting: sync.SippClient) -> None:
    with pytest.raises(InvalidOption, match="tempreature"):
        chatting.chat(FRANCE, tempreature=1)
    with pytest.raises(ModelNotFound):
        chatting.add("other", LocalModel("no-such-file.gguf"))


def test_events_come_and_a_callback_can_not_wait_for_itself(chatting: sync.SippClient) -> None:
    seen: list[ClientEvent] = []
    caught: list[BaseException] = []

    def listen(event: ClientEvent) -> None:
        seen.append(event)
        if event.type == "request_completed":
            try:
                chatting.query("again")
            except UsageError as error:
                caught.append(error)

    unsubscribe = chatting.subscribe(listen)
    run = chatting.chat(FRANCE, max_tokens=2)
    ended = threading.Event()
    run.add_done_callback(lambda found: ended.set() if found is run else None)
    assert run.response.finish_reason == "length"
    assert ended.wait(5)
    unsubscribe()
    assert "request_started" in {event.type for event in seen}
    assert caught and "wait for itself" in str(caught[0])


def test_a_closed_client_says_so() -> None:
    with sync.SippClient() as closed:
        closed.add("it", MODEL)
        run = closed.chat(FRANCE, **ENDLESS)
        next(run.tokens)
    closed.close()
    assert closed.state == "closed"
    assert run.done
    for call in (lambda: closed.chat(FRANCE), lambda: closed.add("it", MODEL)):
        with pytest.raises(ClientClosed):
            call()


def test_no_thread_is_left_after_close() -> None:
    before = threading.active_count()
    with sync.SippClient():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_program_that_forgets_to_close_leaves_no_process_and_no_files(tmp_path: Any) -> None:
    program = (
        "from sippet.sync import SippClient\n"
        "from sippet.endpoints import LocalModel\n"
        "client = SippClient()\n"
        f"client.add('it', LocalModel({str(TINY)!r}, runtime={{'context': {{'n_threads': 1}}}}))\n"
        "print(client._client._endpoints['it'].engine.pid)\n"
    )
    temporary = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=temporary, timeout=60)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
    assert not list(tmp_path.iterdir())
