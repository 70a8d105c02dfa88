"""The declarations of the JavaScript client against the Python API, and against the JavaScript itself."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import sippet
from _files import cache_folder
from sippet import SippClient, simple
from sippet._remote_fields import RemoteFields
from sippet.errors import SippError
from sippet.events import ClientEvent
from sippet.models.store import ModelStore
from sippet.platform import Environment
from sippet.protocol import camel

ROOT = Path(__file__).parents[1]
DECLARED = (ROOT / "static" / "js" / "sippet.d.ts").read_text()
SCRIPT = (ROOT / "static" / "js" / "sippet.mjs").read_text()
SIMPLE_DECLARED = (ROOT / "static" / "js" / "simple.d.ts").read_text()
SIMPLE_SCRIPT = (ROOT / "static" / "js" / "simple.mjs").read_text()

# Dataclasses of the package, and what JavaScript's side has besides or leaves out.
MIRRORED: dict[str, tuple[type, set[str], set[str]]] = {
    name: (getattr(sippet, name), set(), set())
    for name in (
        "ClientOptions", "SamplingOptions", "EmbedOptions", "ContextConfig", "SchedulerConfig", "CacheConfig",
        "PlacementConfig", "MultimodalConfig", "ResidencyConfig", "ObservabilityConfig", "RuntimeConfig",
        "EngineInfo", "EndpointRef", "Status", "Usage", "Timings", "TokenLogprob", "TextResult",
        "TokenBatch", "EmbedResult", "RankedDocument", "RerankResult", "ToolsResult",
    )
}  # fmt: skip
MIRRORED |= {
    "LocalModel": (sippet.LocalModel, {"kind", "signal"}, set()),
    "RemoteFields": (RemoteFields, {"signal"}, set()),
    "Gateway": (sippet.Gateway, {"kind"}, {item.name for item in dataclasses.fields(RemoteFields)}),
    "Provider": (sippet.Provider, {"kind"}, {item.name for item in dataclasses.fields(RemoteFields)}),
    "TextOptions": (sippet.TextOptions, set(), {item.name for item in dataclasses.fields(sippet.SamplingOptions)}),
    # A message is handed on as it is, with the names of OpenAI's API.
    "ChatMessage": (sippet.ChatMessage, {"tool_calls", "tool_call_id"}, {"tool_calls", "tool_call_id"}),
    "Environment": (Environment, set(), set()),
}


def declared(kind: str, name: str, text: str = DECLARED) -> str:
    """The body of a declaration."""
    found = re.search(rf"^export {kind} {name}\b[^{{]*\{{\n(.*?)^\}}", text, re.DOTALL | re.MULTILINE)
    assert found, f"{name} is declared"
    return found[1]


def members(body: str) -> dict[str, str]:
    """Names of a declaration, and their types."""
    lines = re.findall(r"^  (?:readonly )?(\w+)\??(?::|\()(.*)$", body, re.MULTILINE)
    return {name: rest for name, rest in lines if name != "constructor"}


@pytest.mark.parametrize("name", MIRRORED)
def test_a_dataclass_has_the_same_fields_in_javascript(name: str) -> None:
    cls, extra, elsewhere = MIRRORED[name]
    python = {camel(item.name) for item in dataclasses.fields(cls) if item.name not in elsewhere}
    assert set(members(declared("interface", name))) == python | extra


@pytest.mark.parametrize("name", MIRRORED)
def test_choices_are_the_same_in_javascript(name: str) -> None:
    cls, _, elsewhere = MIRRORED[name]
    hints: dict[str, Any] = get_type_hints(cls)
    body = members(declared("interface", name))
    for item in dataclasses.fields(cls):
        options = [hint for hint in (hints[item.name], *get_args(hints[item.name])) if get_origin(hint) is Literal]
        if item.name in elsewhere or not options:
            continue
        said = body[camel(item.name)]
        alias = re.match(r"\s*(\w+);", said)
        if alias and (found := re.search(rf"export type {alias[1]} = (.*?);", DECLARED)):
            said = found[1]
        assert set(re.findall(r'"([^"]+)"', said)) == set(get_args(options[0])), f"{name}.{item.name}"


def test_the_client_has_the_same_methods() -> None:
    python = {camel(name) for name in vars(SippClient) if not name.startswith("_")}
    assert set(members(declared("class", "SippClient"))) == python | {"ready"}


def test_the_models_have_the_same_methods() -> None:
    python = {camel(name) for name in vars(ModelStore) if not name.startswith("_")}
    # `install` and `open` are Python's: in JavaScript `add` gives the installation, and an id opens a model.
    assert set(members(declared("class", "Models"))) == python - {"install", "open"}


@pytest.mark.parametrize(
    ("method", "positional"),
    [
        ("query", ["prompt"]), ("chat", ["messages"]), ("embed", ["input"]), ("rerank", ["query", "documents"]),
        ("tokenize", ["text"]), ("detokenize", ["tokens"]), ("apply_template", ["messages"]), ("add", ["id"]),
        ("run_tools", ["messages", "tools"]),
    ],
)  # fmt: skip
def test_a_method_takes_the_same_arguments(method: str, positional: list[str]) -> None:
    parameters = inspect.signature(getattr(SippClient, method)).parameters.values()
    by_place = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    assert by_place[: len(positional)] == positional
    said = members(declared("class", "SippClient"))[camel(method)]
    assert re.findall(r"(?:^|, )(\w+)\??: ", said)[: len(positional)] == positional
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in ("endpoint", "on_tokens", "on_step"):
            assert camel(parameter.name) in said or camel(parameter.name) in declared("interface", "ToolsOptions")


@pytest.mark.parametrize("name", ["SippClient", "Run", "TextRun", "Models", "Installation", "SippError"])
def test_what_is_declared_is_there_in_the_script(name: str) -> None:
    script = SCRIPT if name != "SippError" else (ROOT / "static" / "js" / "errors.mjs").read_text()
    missing = set(members(declared("class", name))) - methods(script, name)
    assert not missing


def methods(script: str, name: str) -> set[str]:
    """Public members of a class of a script."""
    body = declared("class", name, script)
    found = re.findall(r"^  (?:async |get )?(?:\*)?(\w+)\(|^    this\.(\w+) = ", body, re.MULTILINE)
    return {method or field for method, field in found} - {"constructor"}


@pytest.mark.parametrize(
    ("name", "kind", "declaration"),
    [
        ("LocalLLM", "class", "LocalLLM"),
        ("SippEngine", "interface", "SimpleEngine"),  # whose members it has, by merging
        ("Store", "class", "Store"),
    ],
)
def test_the_simple_engines_script_has_what_is_declared_and_nothing_else(
    name: str, kind: str, declaration: str
) -> None:
    assert set(members(declared(kind, declaration, SIMPLE_DECLARED))) == methods(SIMPLE_SCRIPT, name)


@pytest.mark.parametrize(
    ("kind", "cls", "extra", "elsewhere"),
    [
        ("class", simple.LocalLLM, {"models"}, set()),
        # A store is read by a function there: React takes it as it is.
        ("class", simple.Store, {"get"}, {"value"}),
        # JavaScript's engine brings the registry, which the package has in Python.
        ("interface", simple.SimpleEngine, {"registry"}, set()),
    ],
)
def test_the_simple_engine_has_the_same_methods(kind: str, cls: type, extra: set[str], elsewhere: set[str]) -> None:
    python = {camel(name) for name in vars(cls) if not name.startswith("_")}
    assert set(members(declared(kind, cls.__name__, SIMPLE_DECLARED))) == python - elsewhere | extra


@pytest.mark.parametrize("cls", [simple.Support, simple.Generation])
def test_the_simple_engines_results_have_the_same_fields(cls: type) -> None:
    found = members(declared("interface", cls.__name__, SIMPLE_DECLARED))
    assert set(found) == {camel(item.name) for item in dataclasses.fields(cls)}


def test_the_simple_engine_takes_its_types_from_the_client() -> None:
    imported = re.search(r"import type \{(.*?)\} from", SIMPLE_DECLARED, re.DOTALL)
    assert imported
    for name in re.findall(r"\w+", imported[1]):
        assert re.search(rf"^export (interface|class|type) {name}\b", DECLARED, re.MULTILINE), name
        assert len(re.findall(rf"\b{name}\b", SIMPLE_DECLARED)) > 1, f"{name} is used"


def test_events_and_errors_are_declared() -> None:
    types = get_args(get_type_hints(ClientEvent)["type"])
    assert set(members(declared("interface", "EventFields"))) == set(types)
    completed = members(declared("interface", "EventFields"))["request_completed"]
    assert re.findall(r"(\w+)\?:", completed) == ["finishReason", "usage", "timings", "metrics"]
    assert {"code", "summary", "hint", "details", "toJSON"} == set(members(declared("class", "SippError")))
    assert {"message", "hint", "details"} <= set(vars(SippError("x")))


PROGRAM = """
import {SippClient, SippError} from "./sippet.mjs";
import {LocalLLM, SippEngine, type SimpleEngine} from "./simple.mjs";

const llm: LocalLLM = new LocalLLM();
await llm.unload();
const engine: SimpleEngine = new SippEngine({engine: "sippet"});
const {supported}: {supported: boolean} = await engine.isSupported();
if (!supported) await new SippEngine().unload();
const client = new SippClient({wasmThreading: "single-thread"});
await client.add("chat", {source: "/models/m.gguf", runtime: {context: {nCtx: 512}}});
const signal = AbortSignal.timeout(9);
const run = client.chat([{role: "user", content: "Hello"}], {maxTokens: 4, emitTokens: true, signal});
for await (const {text} of run.tokens) document.body.append(text);
const {text, usage, finishReason} = await run;
const length: number = text.length + usage.completionTokens;
const ended: boolean = finishReason === "length" && length > 0;
client.subscribe((event) => {
  if (event.type === "request_completed") console.log(event.usage?.completionTokens, event.metrics?.queueMs);
  if (event.type === "request_failed") console.log(event.error.code);
});
await client.add("far", {kind: "provider", provider: "openai", model: "m", apiKey: async () => "key"});
try { await client.close(); } catch (error) { if (error instanceof SippError) console.log(error.code, ended); }
"""


def compiled(tmp_path: Path, program: str) -> str:
    """What the TypeScript compiler says of a program beside the declarations."""
    tsc = cache_folder() / "typescript/typescript/lib/tsc.js"
    if not tsc.exists() or shutil.which("node") is None:
        pytest.skip("no TypeScript compiler: python3 tools/dev.py setup")
    for path in (ROOT / "static/js").glob("*.d.*ts"):
        shutil.copy(path, tmp_path)
    (tmp_path / "program.mts").write_text(program)
    command = ["node", str(tsc), "--noEmit", "--strict", "--target", "es2022", "--module", "esnext"]
    command += ["--moduleResolution", "bundler", "--lib", "es2022,dom", "program.mts"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout


def test_a_program_compiles_against_the_declarations(tmp_path: Path) -> None:
    assert compiled(tmp_path, PROGRAM) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("maxTokens: 4", "maxTokens: '4'", "not assignable"),
        ("emitTokens: true", "emit_tokens: true", "emit_tokens"),
        ("+ usage.completionTokens", "+ usage.tokens", "'tokens' does not exist"),
        ("event.usage", "event.finish_reason", "finish_reason"),
        ('async () => "key"', "async () => 5", "not assignable"),
        ('"single-thread"', '"threads"', '"threads"'),
        ('finishReason === "length"', 'finishReason === "limit"', "no overlap"),
    ],
)
def test_a_wrong_program_does_not(right: str, wrong: str, complaint: str, tmp_path: Path) -> None:
    assert right in PROGRAM
    assert complaint in compiled(tmp_path, PROGRAM.replace(right, wrong))
