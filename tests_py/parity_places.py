"""Where the scenarios of ``parity.py`` run outside a browser: native llama.cpp, its server, the host's gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import parity
from gateway_process import gateway_process
from llama_server import MODELS, TINY, llama_server
from sippet import LocalModel, SippClient
from sippet.endpoints import Descriptor

PROJECTOR = MODELS / "mmproj-tiny-f16.gguf"
KEY = "a-key-of-the-tests"

_GATEWAY = """
[targets.{text}]
model = "{model}"
projector = "{projector}"
runtime = {{ context = {{ n_ctx = 1024, n_parallel = 2, n_threads = 1 }} }}

[targets.{vectors}]
model = "{model}"
runtime = {{ context = {{ n_ctx = 512, n_parallel = 2, n_threads = 1, embeddings = true, pooling = "mean" }} }}

[keys.tests]
env = "KEY"

[cors]
origins = [{origins}]
"""


def facts(endpoints: dict[str, Descriptor], kind: parity.Kind) -> dict[str, Any]:
    """What the scenarios tell of these endpoints."""

    async def main() -> dict[str, Any]:
        async with SippClient() as client:
            for name, descriptor in endpoints.items():
                await client.add(name, descriptor)
            return await parity.run(client, kind)

    with ThreadPoolExecutor(1) as pool:  # Playwright keeps a loop in the main thread
        return pool.submit(lambda: asyncio.run(main())).result()


def native_facts() -> dict[str, Any]:
    """What the scenarios tell of native llama.cpp: what all other places are compared with."""
    text = LocalModel(TINY, projector=PROJECTOR, runtime=parity.RUNTIME)
    return facts({parity.TEXT: text, parity.VECTORS: LocalModel(TINY, runtime=parity.EMBEDDING)}, "local")


@contextmanager
def llama_servers() -> Iterator[dict[str, dict[str, Any]]]:
    """Two llama.cpp servers. Gives, for each endpoint, the arguments of its :class:`Gateway`."""
    with (
        llama_server(projector=str(PROJECTOR)) as text,
        llama_server(embedding=True, pooling="MEAN", n_ctx=512, kv_unified=True) as vectors,
    ):
        places = {parity.TEXT: text, parity.VECTORS: vectors}
        yield {name: {"target": "tiny", "base_url": url, "server": "llama.cpp"} for name, url in places.items()}


@contextmanager
def host_gateway(folder: Path, *origins: str) -> Iterator[dict[str, dict[str, Any]]]:
    """The host's gateway. Gives, for each endpoint, the arguments of its :class:`Gateway`.

    Args:
        folder: for its configuration.
        origins: of pages that may ask.
    """
    config = _GATEWAY.format(
        text=parity.TEXT,
        vectors=parity.VECTORS,
        model=TINY,
        projector=PROJECTOR,
        origins=", ".join(f'"{origin}"' for origin in origins),
    )
    with gateway_process(folder, config, {"KEY": KEY}) as url:
        common = {"base_url": url, "server": "sippet", "authentication": {"type": "bearer", "token": KEY}}
        yield {name: {"target": name, **common} for name in (parity.TEXT, parity.VECTORS)}
