"""One model, few methods, any engine: :class:`LocalLLM`.

Example::

    from sippet.simple import LocalLLM

    llm = LocalLLM()
    llm.on_status_change(lambda status: print(status.text))
    print(await llm.prompt("What is the capital of France?"))
    await llm.unload()

Callers know the registry's names and the status union, and nothing of the engine underneath: that is a plug
(:class:`SimpleEngine`), and another one is given as ``LocalLLM(engine=...)``.
"""

from ..models.registry import DEFAULT_MODEL, MODELS, RegistryEntry
from .engine import Generation, SimpleEngine, SippEngine, Support
from .llm import LocalLLM
from .store import Store

__all__ = [
    "DEFAULT_MODEL",
    "MODELS",
    "Generation",
    "LocalLLM",
    "RegistryEntry",
    "SimpleEngine",
    "SippEngine",
    "Store",
    "Support",
]
