"""``sippet chat``, ``query`` and ``embed``: models on this machine's own processor, or behind a server."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from sippet.endpoints import Descriptor
from sippet.errors import SippError
from sippet.results import EmbedResult, TextResult
from sippet.sync import SippClient, TextRun

from .cli_target import descriptor, sampling, sampling_options, target_options
from .progress import say

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended."""

_HELP = "/clear forgets the conversation, /exit (or Ctrl-D) ends. Ctrl-C stops an answer."


@click.command()
@click.argument("model", required=False)
@click.option("-p", "--prompt", "prompts", multiple=True, metavar="TEXT", help="Say this and end; may be repeated.")
@click.option("--system", metavar="TEXT", help="The system prompt.")
@target_options
@sampling_options
@click.option("--json", "as_json", is_flag=True, help="Print each answer as a line of JSON.")
def chat(model: str | None, prompts: tuple[str, ...], system: str | None, as_json: bool, **options: Any) -> None:
    """Chats with a model in the terminal.

    MODEL is the path of a .gguf file, or an http(s) URL that is downloaded once; of a split model, the first shard.
    With no model named, a small default one is downloaded once. It runs on this machine with native llama.cpp
    (pip install 'sippet[native]').

    Without a terminal, what comes on standard input is one message. A key for --endpoint is read from
    SIPPET_API_KEY, one for --provider also from the provider's own variable.
    """
    with _client(_target(model, options)) as client:
        session = _Session(client, sampling(options), system, as_json)
        if prompts:
            session.say_all(prompts)
        elif not sys.stdin.isatty():
            session.say_all([_read()])
        else:
            session.talk()


@click.command()
@click.argument("prompt")
@click.option("-m", "--model", metavar="MODEL", help="Path or URL of a .gguf file; a small default one otherwise.")
@target_options
@sampling_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def query(prompt: str, model: str | None, as_json: bool, **options: Any) -> None:
    """Continues PROMPT, without a chat template.

    A PROMPT of - is read from standard input, up to the end of its last line. What is printed is the continuation
    alone. For an answer to a question use: sippet chat -p QUESTION.
    """
    with _client(_target(model, options)) as client:
        text = _read() if prompt == "-" else prompt
        result, interrupted = _print(client.query(text, emit_tokens=True, **sampling(options)), as_json)
        _end(result, interrupted)


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("-m", "--model", metavar="MODEL", help="Path or URL of an embedding model's .gguf file.")
@click.option("--pooling", type=click.Choice(["mean", "cls", "last"]), help="How token vectors become one vector.")
@click.option("--raw", is_flag=True, help="Do not scale the vectors to length 1.")
@target_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all vectors.")
def embed(
    texts: tuple[str, ...], model: str | None, pooling: str | None, raw: bool, as_json: bool, **options: Any
) -> None:
    """Turns each TEXT into a vector; without one, each line of standard input.

    A line of output holds the numbers of one vector. A model that was made for text embeds too, less well.
    """
    if model is None and options["endpoint"] is None and options["provider"] is None:
        raise click.UsageError("Name an embedding model with --model, or a server with --endpoint.")
    context = None if model is None else {"embeddings": True, "pooling": pooling}
    with _client(_target(model, options, context=context)) as client:
        lines = list(texts) or _read().splitlines()
        choice: dict[str, Any] = {"normalize": False} if raw else {}
        result = client.embed(lines, **choice).response
    if as_json:
        click.echo(json.dumps(_plain(result)))
    else:
        for vector in result.embeddings:
            click.echo(" ".join(f"{number:.7g}" for number in vector))


class _Session:
    """A conversation."""

    def __init__(self, client: SippClient, options: dict[str, Any], system: str | None, as_json: bool) -> None:
        self._client = client
        self._options = options
        self._start: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._start)
        self._as_json = as_json

    def say_all(self, texts: Any) -> None:
        """Say one text after the other, and end the program with the last answer's code."""
        for text in texts:
            result, interrupted = self._say(text)
            if interrupted or result.finish_reason in ("cancelled", "error"):
                _end(result, interrupted)

    def talk(self) -> None:
        """Take turns until the person ends it. An error or Ctrl-C ends an answer, not the conversation."""
        with_history()
        say(_HELP)
        while True:
            try:
                text = input("> ").strip()
            except EOFError:
                say("")
                return
            except KeyboardInterrupt:
                say("\nCtrl-D ends.")
                continue
            match text:
                case "":
                    continue
                case "/exit":
                    return
                case "/clear":
                    self._messages = list(self._start)
                case _ if text.startswith("/"):
                    say(_HELP)
                case _:
                    try:
                        self._say(text)
                    except SippError as error:
                        say(f"Error [{error.code}]: {error}")

    def _say(self, text: str) -> tuple[TextResult, bool]:
        turn = {"role": "user", "content": text}
        run = self._client.chat([*self._messages, turn], emit_tokens=True, **self._options)
        result, interrupted = _print(run, self._as_json)
        self._messages += [turn, {"role": "assistant", "content": result.text}]
        return result, interrupted


def _read() -> str:
    """Standard input, without the end of its last line."""
    text = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not text:
        raise click.UsageError("Standard input is empty.")
    return text


def _target(model: str | None, options: dict[str, Any], **more: Any) -> Descriptor:
    names = ("endpoint", "provider", "target", "server", "ctx", "threads")
    return descriptor(model, **{name: options.pop(name) for name in names}, **more)


@contextmanager
def _client(target: Descriptor) -> Iterator[SippClient]:
    with SippClient() as client:
        try:
            client.add("it", target)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        yield client


def _print(run: TextRun, as_json: bool) -> tuple[TextResult, bool]:
    """Print an answer as it comes. Ctrl-C cancels it: then it ends with what has come so far."""
    with _cancelled_by_ctrl_c(run) as interrupts:
        for batch in run.tokens:
            if not as_json:
                click.echo(batch.text, nl=False)
        result = run.response
    click.echo(json.dumps(_plain(result), ensure_ascii=False) if as_json else "")
    return result, bool(interrupts)


@contextmanager
def _cancelled_by_ctrl_c(run: TextRun) -> Iterator[list[int]]:
    """Let Ctrl-C cancel ``run`` meanwhile, in place of an exception in the middle of whatever is done. What is yielded
    is empty until it was pressed."""
    interrupts: list[int] = []

    def cancel(number: int, _: Any) -> None:
        interrupts.append(number)
        run.cancel("interrupted")

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _plain(result: TextResult | EmbedResult) -> dict[str, Any]:
    """The result as JSON values, without what only the program knows."""
    found = dataclasses.asdict(result)
    return {name: value for name, value in found.items() if name != "endpoint"}


def _end(result: TextResult, interrupted: bool) -> None:
    if interrupted:
        sys.exit(INTERRUPTED)
    if result.finish_reason == "error":
        sys.exit(1)


def with_history() -> None:
    """Line editing and history at the prompt, where Python has them."""
    try:
        import readline  # noqa: F401 (input() uses it once it is imported)
    except ImportError:
        return
