"""No dead options on servers: each one changes the request that is sent, or is refused by name before anything is."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from sippet import Gateway, Provider, SippClient, UnsupportedOption
from sippet._fields import REMOTE
from sippet.endpoints import Descriptor
from sippet.options import EmbedOptions, TextOptions

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}

VALUES: dict[str, Any] = {
    "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.5, "seed": 7, "repeat_penalty": 1.5,
    "presence_penalty": 0.5, "frequency_penalty": 0.5, "logit_bias": {"5": 1.0}, "samplers": ["top_k"],
    "repeat_last_n": 5, "typical_p": 0.5, "top_n_sigma": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.5,
    "dynatemp_range": 0.5, "dynatemp_exponent": 2.0, "dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 5,
    "dry_penalty_last_n": 5, "dry_sequence_breakers": ["x"], "mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.5,
    "min_keep": 5, "ignore_eos": True, "max_tokens": 5, "stop": "x", "logprobs": 2, "tools": [TOOL],
    "tool_choice": "required", "parallel_tool_calls": False, "grammar": 'root ::= "x"', "json_schema": {},
    "context_key": "k", "media": [b"x"], "lora": {0: 1.0}, "template_kwargs": {"x": 1}, "endpoint_options": {"x": 1},
    "provider_options": {"x": 1},
}  # fmt: skip
"""A value for each option that a server could be told of."""

ABOVE = {"emit_tokens"}
"""What is honoured without the server: every request streams."""

BASE: dict[str, dict[str, Any]] = {"tool_choice": {"tools": [TOOL]}, "parallel_tool_calls": {"tools": [TOOL]}}

ENDPOINTS: dict[str, Callable[[str], Descriptor]] = {
    **{
        f"a gateway to {server}": lambda url, server=server: Gateway("m", url, server=server)
        for server in ("openai", "sippet", "llama.cpp", "vllm")
    },
    **{
        f"the provider {name}": lambda url, name=name: Provider(name, "m", api_key="key", base_url=url)
        for name in ("openai", "openai_compatible", "anthropic")
    },
}

REFUSED_BEYOND = {
    "a gateway to openai": {"top_k", "min_p", "repeat_penalty", "provider_options"},
    "a gateway to sippet": {"provider_options"},
    "a gateway to llama.cpp": {"provider_options"},
    "a gateway to vllm": {"provider_options"},
    "the provider openai": {"top_k", "min_p", "repeat_penalty", "endpoint_options"},
    "the provider openai_compatible": {"top_k", "min_p", "repeat_penalty", "endpoint_options"},
    "the provider anthropic": {
        "min_p", "repeat_penalty", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
        "endpoint_options",
    },
}  # fmt: skip
"""What each refuses of the options that servers can have."""


class Recorder:
    """A server that remembers what it was sent, and refuses it."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    async def _handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        return web.json_response({"error": {"message": "recorded"}}, status=400)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


def test_every_option_is_walked() -> None:
    assert set(VALUES) | ABOVE == {item.name for item in dataclasses.fields(TextOptions)}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_option_changes_the_request_or_is_refused_by_name(endpoint: str) -> None:
    found: dict[str, str] = {}

    async def sent(server: Recorder, client: SippClient, options: dict[str, Any]) -> str | None:
        """The request as it arrived; ``None`` where nothing did."""
        before = len(server.bodies)
        run = client.chat(HELLO, **options)
        await run._settled()
        if isinstance(run.error, UnsupportedOption):
            raise run.error
        return json.dumps(server.bodies[-1], sort_keys=True) if len(server.bodies) > before else None

    async def main() -> None:
        server = Recorder()
        async with server.running() as url, SippClient() as client:
            await client.add("it", ENDPOINTS[endpoint](url))
            for name, value in VALUES.items():
                base = BASE.get(name, {})
                without = await sent(server, client, base)
                count = len(server.bodies)
                try:
                    request = await sent(server, client, {**base, name: value})
                    found[name] = "changed" if request and request != without else "same"
                except UnsupportedOption as error:
                    assert error.details["option"] == name
                    assert len(server.bodies) == count, f"{name} was refused after it was sent"
                    found[name] = "refused"

    asyncio.run(main())
    local = {item.name for item in dataclasses.fields(TextOptions) if not set(REMOTE) & set(item.metadata["backends"])}
    refused = local | REFUSED_BEYOND[endpoint]
    assert found == {name: "refused" if name in refused else "changed" for name in VALUES}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_option_of_embedding_is_refused_by_name(endpoint: str) -> None:
    async def main() -> None:
        async with SippClient() as client:
            await client.add("it", ENDPOINTS[endpoint]("http://127.0.0.1:9/v1"))
            with pytest.raises(UnsupportedOption) as refused:
                client.embed("Hello", normalize=False)
            assert refused.value.details["option"] == "normalize"

    assert [item.name for item in dataclasses.fields(EmbedOptions)] == ["normalize"]
    asyncio.run(main())
