from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from llama_server import TINY
from model_server import ModelServer, in_a_thread
from sippet import Cancelled, InvalidModel, InvalidOption, ModelNotFound, SchemaMismatch, Status, Usage
from sippet.models.manifest import Manifest
from sippet.models.store import ModelStore
from sippet.simple import (
    DEFAULT_MODEL,
    MODELS,
    Generation,
    LocalLLM,
    RegistryEntry,
    SimpleEngine,
    SippEngine,
    Store,
    Support,
)
from sippet.simple.llm import CLASSIFY, EXTRACT

ROOT = Path(__file__).parents[1]
TINY_ID = "tiny-chat-f16"


class Plug(SimpleEngine):
    """An engine of another kind: it shows that nothing above the plug knows Sippet's own."""

    def __init__(self, *, fail: int = 0, finish: str = "stop") -> None:
        self.fail = fail
        self.finish = finish
        self.loads = 0
        self.asked: list[tuple[Any, Mapping[str, Any]]] = []
        self.loaded = False
        self.go = asyncio.Event()
        self.go.set()

    async def is_supported(self) -> Support:
        return Support(False, "No plug.")

    async def has_model(self, model: RegistryEntry) -> bool:
        return model.id == DEFAULT_MODEL

    async def load(self, model: RegistryEntry, on_status: Callable[[Status], Any]) -> None:
        self.loads += 1
        on_status(Status("downloading", "Fetching.", 1, 2))
        await self.go.wait()
        if self.fail:
            self.fail -= 1
            raise InvalidModel("Broken.")
        on_status(Status("ready", "One part is ready."))
        self.loaded = True

    async def generate(
        self, messages: Any, options: Mapping[str, Any], on_text: Callable[[str], Any] | None
    ) -> Generation:
        self.asked.append((messages, options))
        if on_text:
            on_text("Hi")
        return Generation("Hi", self.finish, Usage(3, 0, 1), {"a": 1})  # type: ignore[arg-type]

    async def unload(self) -> None:
        self.loaded = False


def test_the_default_model_is_in_the_registry() -> None:
    assert DEFAULT_MODEL in MODELS
    assert LocalLLM(engine=Plug()).model is MODELS[DEFAULT_MODEL]
    with pytest.raises(ModelNotFound, match=TINY_ID):
        LocalLLM("no-such-model", engine=Plug())


def test_a_registry_of_ones_own_is_one_entry_away() -> None:
    entry = MODELS[TINY_ID]
    assert LocalLLM("mine", models={"mine": entry}, engine=Plug()).model is entry
    assert LocalLLM(entry, engine=Plug()).model is entry


def test_any_engine_answers() -> None:
    async def main() -> None:
        plug = Plug()
        llm = LocalLLM(engine=plug, system="Be brief.", temperature=0.5)
        pieces: list[str] = []
        answer = await llm.generate([{"role": "user", "content": "Hello"}], on_text=pieces.append, max_tokens=5)
        assert answer == await llm.generate([{"role": "user", "content": "Hello"}])
        assert (answer.text, answer.usage.completion_tokens, "".join(pieces)) == ("Hi", 1, "Hi")
        messages, options = plug.asked[0]
        assert messages[0] == {"role": "system", "content": "Be brief."}
        assert options == {"temperature": 0.5, "max_tokens": 5}
        await llm.generate([{"role": "system", "content": "Be rude."}, {"role": "user", "content": "Hello"}])
        assert len(plug.asked[2][0]) == 2
        assert await llm.prompt("Hello", temperature=1.0) == "Hi"
        assert plug.asked[3][1] == {"temperature": 1.0}
        assert await llm.is_supported() == Support(False, "No plug.")
        assert await llm.has_model_in_cache()
        assert not await LocalLLM(TINY_ID, engine=plug).has_model_in_cache()

    asyncio.run(main())


def test_load_is_idempotent_and_joins_a_load_under_way() -> None:
    async def main() -> None:
        plug = Plug()
        plug.go.clear()
        llm = LocalLLM(engine=plug)
        seen: list[str] = []
        llm.on_status_change(lambda status: seen.append(status.state))
        loads = [asyncio.ensure_future(llm.load()) for _ in range(3)]
        await asyncio.sleep(0)
        loads[0].cancel()
        await asyncio.sleep(0)
        plug.go.set()
        await asyncio.gather(*loads[1:])
        await llm.load()
        assert plug.loads == 1
        assert seen == ["idle", "downloading", "ready"]

    asyncio.run(main())


def test_a_failed_load_says_so_and_can_be_tried_again() -> None:
    async def main() -> None:
        plug = Plug(fail=1)
        llm = LocalLLM(engine=plug)
        with pytest.raises(InvalidModel):
            await llm.load()
        assert (llm.status.state, llm.status.text) == ("error", "Broken.")
        await llm.load()
        assert llm.status.state == "ready"

    asyncio.run(main())


def test_unload_stops_a_load_and_frees() -> None:
    async def main() -> None:
        plug = Plug()
        plug.go.clear()
        llm = LocalLLM(engine=plug)
        loading = asyncio.ensure_future(llm.load())
        await asyncio.sleep(0.01)
        await llm.unload()
        with pytest.raises(Cancelled):
            await loading
        assert llm.status.state == "idle"
        plug.go.set()
        await llm.load()
        assert plug.loaded
        await llm.unload()
        await llm.unload()
        assert not plug.loaded

    asyncio.run(main())


def test_a_load_after_an_unload_is_told_last() -> None:
    class Slow(Plug):
        async def unload(self) -> None:
            await self.go.wait()
            await super().unload()

    async def main() -> None:
        plug = Slow()
        llm = LocalLLM(engine=plug)
        await llm.load()
        plug.go.clear()
        unloading = asyncio.ensure_future(llm.unload())
        await asyncio.sleep(0)
        loading = asyncio.ensure_future(llm.load())
        await asyncio.sleep(0)
        plug.go.set()
        await asyncio.gather(unloading, loading)
        assert (plug.loaded, llm.status.state) == (True, "ready")

    asyncio.run(main())


def test_a_failure_of_any_kind_is_told_as_an_error() -> None:
    class Broken(Plug):
        async def load(self, model: RegistryEntry, on_status: Callable[[Status], Any]) -> None:
            on_status(Status("loading"))
            raise OSError("No disk.")

    async def main() -> None:
        llm = LocalLLM(engine=Broken())
        with pytest.raises(OSError):
            await llm.load()
        assert llm.status == Status("error", "No disk.")

    asyncio.run(main())


def test_a_watcher_that_fails_keeps_nothing_from_being_loaded_or_told() -> None:
    async def main() -> None:
        heard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["exception"]))
        llm = LocalLLM(engine=Plug())
        seen: list[str] = []

        def fails(status: Status) -> None:
            if status.state != "idle":
                raise ValueError(status.state)

        llm.on_status_change(fails)
        llm.on_status_change(lambda status: seen.append(status.state))
        await llm.load()
        assert llm.status.state == seen[-1] == "ready"
        assert [str(error) for error in heard] == ["downloading", "ready"]

    asyncio.run(main())


@pytest.mark.parametrize("messages", [None, 5, [], [None], ["x"], [{"role": "user"}]])
def test_wrong_messages_are_refused_before_anything_is_loaded(messages: Any) -> None:
    plug = Plug()
    with pytest.raises(InvalidOption):
        asyncio.run(LocalLLM(engine=plug, system="Be brief.").generate(messages))
    assert not plug.loads
    with pytest.raises(InvalidOption, match="model"):
        LocalLLM(messages, engine=plug)


def test_what_is_extracted_and_classified_is_constrained() -> None:
    async def main() -> None:
        plug = Plug()
        llm = LocalLLM(engine=plug)
        assert await llm.extract_json("x", {"type": "object"}) == {"a": 1}
        assert plug.asked[0][1] == {"temperature": 0.0, "json_schema": {"type": "object"}}
        await llm.classify("x", ["good", "bad"])
        messages, options = plug.asked[1]
        assert options["json_schema"] == {"enum": ["good", "bad"]}
        assert '"good", "bad"' in messages[0]["content"]
        for labels in ([], "good", [""], [1]):
            with pytest.raises(InvalidOption):
                await llm.classify("x", labels)  # type: ignore[arg-type]
        with pytest.raises(SchemaMismatch, match="cut off"):
            await LocalLLM(engine=Plug(finish="length")).extract_json("x", {})

    asyncio.run(main())


def test_a_store_tells_at_once_and_at_every_change() -> None:
    store = Store(1)
    seen: list[int] = []
    end = store.subscribe(seen.append)
    store.subscribe(seen.append)()
    store.set(2)
    end()
    end()
    store.set(3)
    assert seen == [1, 1, 2] and store.value == 3


def test_javascript_tells_the_model_the_same() -> None:
    script = (ROOT / "static" / "js" / "simple.mjs").read_text()
    assert dict(re.findall(r'export const (\w+) = "(.*)";', script)) == {"EXTRACT": EXTRACT, "CLASSIFY": CLASSIFY}


def test_a_programs_own_entry_is_installed_from_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPPET_CACHE", str(tmp_path))
    data = Path(TINY).read_bytes()

    async def main() -> None:
        with in_a_thread(ModelServer({"m.gguf": data})) as server:
            manifest = Manifest.from_dict({"id": "mine", "files": [{"name": "m.gguf", "url": server.url + "m.gguf"}]})
            entry = RegistryEntry(manifest, memory=10_000_000, description="The tiny one.")
            engine = SippEngine(runtime={"context": {"n_threads": 1}})
            llm = LocalLLM(entry, models={"mine": entry}, engine=engine, temperature=0, max_tokens=20)
            assert "Paris" in await llm.prompt("What is the capital of France?")
            assert await llm.has_model_in_cache()
            await llm.unload()

    asyncio.run(main())


def test_sippets_own_engine_fetches_nothing_twice_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIPPET_CACHE", str(tmp_path))

    @dataclass
    class Person:
        name: str
        age: int

    Person.__annotations__ = {"name": str, "age": int}  # a local class: its hints can't be looked up by name

    async def main() -> None:
        llm = LocalLLM(TINY_ID, engine=SippEngine(runtime={"context": {"n_threads": 1}}), temperature=0, max_tokens=60)
        assert (await llm.is_supported()).supported
        assert not await llm.has_model_in_cache()
        await ModelStore().add(TINY, id=TINY_ID)
        assert await llm.has_model_in_cache()
        states: list[str] = []
        llm.on_status_change(lambda status: states.append(status.state))
        pieces: list[str] = []
        question = "What is the capital of France?"
        assert await llm.prompt(question, on_text=pieces.append) == "The capital of France is Paris." == "".join(pieces)
        with_reader = await llm.generate([{"role": "user", "content": question}], on_text=pieces.append)
        assert with_reader == await llm.generate([{"role": "user", "content": question}])
        assert with_reader.usage.completion_tokens == 15
        found = await llm.extract_json("Give me JSON for Tom, age 7.", Person, instruction="You are a tiny test model.")
        assert found == Person("Tom", 7)
        assert await llm.classify("What color is the sky?", ["blue", "red"]) in ("blue", "red")
        await llm.unload()
        assert states[0] == "idle" and states[-2:] == ["ready", "idle"]

    asyncio.run(main())
