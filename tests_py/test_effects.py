"""No dead options on native llama.cpp: each one changes what comes, or is refused by name. See ``effects.py``."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import effects
import pytest
from llama_server import TINY
from sippet import LocalModel, SippClient
from sippet.options import SamplingOptions


def test_every_option_has_a_probe() -> None:
    assert set(effects.SAMPLING) == {item.name for item in dataclasses.fields(SamplingOptions)}
    assert set(effects.RUNTIME) | set(effects.UNSEEN) == set(effects.every_field())
    assert not set(effects.RUNTIME) & set(effects.UNSEEN)


@pytest.fixture(scope="module")
def sampled() -> dict[str, list[str]]:
    async def main() -> dict[str, list[str]]:
        async with SippClient() as client:
            await client.add("it", LocalModel(TINY, runtime={"context": {"n_threads": 1}}))
            return await effects.sampling(client)

    return asyncio.run(main())


@pytest.mark.parametrize("name", effects.SAMPLING)
def test_a_sampling_option_changes_what_is_sampled(sampled: dict[str, list[str]], name: str) -> None:
    once, again, changed = sampled[name]
    assert once == again, "without a change the text repeats"
    assert once != changed


def test_a_field_of_the_configuration_changes_something_or_is_refused_by_name() -> None:
    found: dict[str, Any] = asyncio.run(effects.runtime(TINY, {}))
    assert found == effects.verdicts("native", "native")
