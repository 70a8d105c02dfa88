"""What each engine honours: one table, from which requests are checked and the reference page is made.

A field of an option group names the kinds of backend that honour it (``_fields.option(backends=...)``). Where one
engine of such a kind still can't, :data:`LIMITS` says which and why. Nothing is ignored: what an engine can't honour is
refused by name, before anything is loaded or sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ._fields import Backend
from .errors import UnsupportedOption

ENGINES: Mapping[str, Backend] = {
    "wllama": "wasm",
    "wllama-compat": "wasm",
    "sippet": "wasm",
    "native": "native",
    "remote": "remote",
}
"""Every engine, and the kind of backend that it is. What a server refuses beyond that, its engine's ``check`` knows."""

_WLLAMA = {
    "n_threads_batch": "this build has one number of threads for prefill and decode",
    "continuous_batching": "in this build a new request always joins",
}

_SIPPET = dict.fromkeys(
    (
        "n_threads_batch", "rope_scaling", "yarn_orig_ctx", "yarn_ext_factor", "yarn_attn_factor",
        "yarn_beta_fast", "yarn_beta_slow", "continuous_batching", "n_keep", "n_cache_reuse", "n_gpu_layers",
        "projector_on_gpu",
    ),
    "Sippet's own build has no such setting",
)  # fmt: skip

LIMITS: Mapping[str, Mapping[str, str]] = {
    "wllama": _WLLAMA,
    "wllama-compat": _WLLAMA,
    "sippet": _SIPPET,
}
"""Engine → option → why it can't be honoured there although its kind of backend has it."""


def refusal(engine: str, backend: Backend, item: dataclasses.Field[Any]) -> str | None:
    """Why ``engine`` can't honour an option, as the end of a sentence; ``None`` where it does."""
    backends = item.metadata.get("backends")
    if backends is not None and backend not in backends:
        return f"it works only on {' and '.join(backends)} endpoints"
    return LIMITS.get(engine, {}).get(item.name)


def refuse_unsupported(group: Any, engine: str, backend: Backend, where: str) -> None:
    """Refuse, by name, a given option that the engine does not honour.

    Args:
        group: an option group.
        engine: a name of :data:`ENGINES`.
        backend: the engine's kind.
        where: whose options they are, for the message.

    Raises:
        UnsupportedOption: names the option and says why.
    """
    for item in dataclasses.fields(group):
        if "doc" not in item.metadata or not _is_given(group, item):
            continue
        reason = refusal(engine, backend, item)
        if reason is not None:
            raise UnsupportedOption(
                item.name,
                f"{where} does not support {item.name} here: {reason}.",
                hint="Leave it out, or use another endpoint.",
                engine=engine,
            )


def refuse_unsupported_runtime(runtime: Any, engine: str, backend: Backend) -> None:
    """:func:`refuse_unsupported` for every group of a :class:`RuntimeConfig`."""
    for item in dataclasses.fields(runtime):
        refuse_unsupported(getattr(runtime, item.name), engine, backend, f"RuntimeConfig.{item.name}")


def table(group: type) -> Iterator[tuple[str, dict[str, str | None]]]:
    """For each option of a group: its name, and for each engine ``None`` or why it is refused."""
    for item in dataclasses.fields(group):
        if "doc" in item.metadata:
            yield item.name, {engine: refusal(engine, backend, item) for engine, backend in ENGINES.items()}


def _is_given(group: Any, item: dataclasses.Field[Any]) -> bool:
    factory = item.default_factory
    default = item.default if factory is dataclasses.MISSING else factory()
    return bool(getattr(group, item.name) != default)
