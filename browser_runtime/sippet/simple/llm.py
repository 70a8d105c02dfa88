""":class:`LocalLLM`: a model that answers, extracts and classifies, whichever engine runs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._fields import show
from ..errors import Cancelled, InvalidOption, SchemaMismatch
from ..events import Status
from ..messages import Messages, check_messages
from ..models.registry import DEFAULT_MODEL, MODELS, RegistryEntry, find_model
from .engine import Generation, SimpleEngine, SippEngine, Support
from .store import Store

EXTRACT = "Take the data out of the text and answer with JSON only."
CLASSIFY = "Say which label fits the text best. Answer with one of: {labels}."


class LocalLLM:
    """One model."""

    def __init__(
        self,
        model: str | RegistryEntry = DEFAULT_MODEL,
        *,
        engine: SimpleEngine | None = None,
        models: Mapping[str, RegistryEntry] = MODELS,
        system: str | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            model: an entry of ``models``, or its name.
            engine: what runs it; Sippet's own where it isn't given.
            models: the registry.
            system: what the model is told before every conversation that has no system message of its own.
            options: sampling options of every answer; those of a call win.

        Raises:
            ModelNotFound: the registry has no such model.
        """
        self.model = find_model(model, models) if isinstance(model, str) else model
        if not isinstance(self.model, RegistryEntry):
            raise InvalidOption("model", f"model must be a registered name or an entry, not {show(model)}.")
        self.status_store: Store[Status] = Store(Status("idle", "Not loaded."))
        """The status, for whoever watches it: ``subscribe`` calls at once and at every change."""
        self._engine = engine or SippEngine()
        self._system = system
        self._options = options
        self._loading: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # an engine loads or unloads, never both

    @property
    def status(self) -> Status:
        """The status now."""
        return self.status_store.value

    def on_status_change(self, callback: Callable[[Status], Any]) -> Callable[[], None]:
        """Call ``callback`` with the status now and at every change. Returns what ends it."""
        return self.status_store.subscribe(callback)

    async def is_supported(self) -> Support:
        """Whether the engine can run here, and why not. Loads nothing."""
        return await self._engine.is_supported()

    async def has_model_in_cache(self) -> bool:
        """Whether loading needs no download."""
        return await self._engine.has_model(self.model)

    async def load(self) -> None:
        """Make the model ready. Does nothing where it is; joins a load that is under way; tries again after a failure.

        Raises:
            SippError: it can't be made ready; the status says so too.
        """
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._load())
        loading = self._loading
        try:
            await asyncio.shield(loading)
        except asyncio.CancelledError:
            if loading.cancelled():
                raise Cancelled("The model was unloaded while it was loading.", hint="Call load() again.") from None
            raise
        except BaseException:
            if self._loading is loading:
                self._loading = None
            raise

    async def generate(
        self, messages: Messages, *, on_text: Callable[[str], Any] | None = None, **options: Any
    ) -> Generation:
        """Answer a conversation; loads the model first where that is needed.

        Args:
            messages: mappings with ``role`` and ``content``.
            on_text: called with the text as it comes.
            options: the fields of :class:`TextOptions`.
        """
        messages = check_messages(messages)
        await self.load()
        if self._system and not any(message["role"] == "system" for message in messages):
            messages = [{"role": "system", "content": self._system}, *messages]
        return await self._engine.generate(messages, {**self._options, **options}, on_text)

    async def prompt(self, text: str, *, on_text: Callable[[str], Any] | None = None, **options: Any) -> str:
        """The answer to one question."""
        return (await self.generate([{"role": "user", "content": text}], on_text=on_text, **options)).text

    async def extract_json(self, text: str, schema: Any, *, instruction: str = EXTRACT, **options: Any) -> Any:
        """Data from a text, in the shape of a schema.

        Args:
            text: what to read.
            schema: a JSON schema, dataclass or pydantic model.
            instruction: what the model is told to do.
            options: the fields of :class:`TextOptions`.

        Returns:
            A value of ``schema``.

        Raises:
            SchemaMismatch: the answer was cut off or is not of that shape.
        """
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": text}]
        answer = await self.generate(messages, **{"temperature": 0.0, **options, "json_schema": schema})
        if answer.finish_reason != "stop":
            raise SchemaMismatch(
                f"The answer was cut off ({answer.finish_reason}).",
                hint="Raise max_tokens, or give a shorter text.",
                details={"text": answer.text},
            )
        return answer.parsed

    async def classify(self, text: str, labels: Sequence[str], **options: Any) -> str:
        """The label that fits a text best; always one of ``labels``."""
        if isinstance(labels, str) or not labels or not all(isinstance(label, str) and label for label in labels):
            raise InvalidOption("labels", "labels must be a list of texts that is not empty.")
        instruction = CLASSIFY.format(labels=", ".join(json.dumps(label, ensure_ascii=False) for label in labels))
        found = await self.extract_json(text, {"enum": list(labels)}, instruction=instruction, **options)
        return str(found)

    async def unload(self) -> None:
        """Free the memory; a load under way is stopped. Safe to call twice."""
        loading, self._loading = self._loading, None
        if loading is not None and not loading.done():
            loading.cancel()
            await asyncio.wait([loading])
        async with self._turn:
            await self._engine.unload()
            self.status_store.set(Status("idle", "Not loaded."))

    async def _load(self) -> None:
        async with self._turn:
            try:
                await self._engine.load(self.model, self._tell)
            except Exception as error:  # of whatever kind: the engine may be the program's own
                self.status_store.set(Status("error", str(error)))
                raise
            self.status_store.set(Status("ready", "Ready."))

    def _tell(self, status: Status) -> None:
        if status.state not in ("ready", "error"):  # those are told once, when everything is over
            self.status_store.set(status)
