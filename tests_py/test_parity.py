"""The same calls on native llama.cpp, on a llama.cpp server and through the host's gateway: see ``parity.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import parity
import pytest
from parity_places import facts, host_gateway, llama_servers, native_facts
from sippet import Gateway


@pytest.fixture(scope="module")
def native() -> dict[str, Any]:
    return native_facts()


def test_a_llama_server_gives_what_the_native_engine_gives(native: dict[str, Any]) -> None:
    with llama_servers() as endpoints:
        found = facts({name: Gateway.of(arguments) for name, arguments in endpoints.items()}, "remote")
    assert parity.compare(native, found, parity.TOOLS) == []


def test_the_hosts_gateway_gives_what_the_native_engine_gives(native: dict[str, Any], tmp_path: Path) -> None:
    with host_gateway(tmp_path) as endpoints:
        found = facts({name: Gateway.of(arguments) for name, arguments in endpoints.items()}, "remote")
    assert parity.compare(native, found, parity.NO_TOKENIZER) == []
    assert [found[name] for name in parity.NO_TOKENIZER] == [{"error": "unsupported_operation"}] * 2
