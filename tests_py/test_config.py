from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from sippet import InvalidOption, LocalModel, RuntimeConfig, UnsupportedOption
from sippet.capabilities import ENGINES, refusal, refuse_unsupported_runtime
from sippet.config import ContextConfig

GROUPS = {item.name: item.default_factory for item in dataclasses.fields(RuntimeConfig)}
FIELDS = [(group, item) for group, cls in GROUPS.items() for item in dataclasses.fields(cls)]  # type: ignore[arg-type]


def test_the_groups_are_those_of_the_specification() -> None:
    assert list(GROUPS) == [
        "context", "sampling", "scheduler", "cache", "placement", "multimodal", "residency", "observability",
    ]  # fmt: skip


@pytest.mark.parametrize(("group", "item"), FIELDS, ids=lambda value: getattr(value, "name", value))
def test_every_field_is_documented(group: str, item: dataclasses.Field[Any]) -> None:
    assert item.metadata["doc"].endswith("."), f"{group}.{item.name}"


def test_groups_are_given_as_mappings_or_as_themselves() -> None:
    config = RuntimeConfig.of({"context": {"n_ctx": 64}, "scheduler": {"max_queued_requests": 1}})
    assert config.context == ContextConfig(n_ctx=64)
    assert RuntimeConfig(context=ContextConfig(n_ctx=64)).context.n_ctx == 64
    assert RuntimeConfig.of(None) == RuntimeConfig()
    assert RuntimeConfig.of(config) is config


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"contxt": {}}, "contxt"),
        ({"context": {"n_ctxx": 1}}, "n_ctxx"),
        ({"context": {"n_ctx": 0}}, "n_ctx"),
        ({"context": {"n_ctx": "big"}}, "n_ctx"),
        ({"context": {"n_batch": 2**31}}, "n_batch"),
        ({"cache": {"n_keep": 10**40}}, "n_keep"),
        ({"context": {"n_parallel": 65}}, "n_parallel"),
        ({"context": {"cache_type_k": "q9"}}, "cache_type_k"),
        ({"context": {"pooling": "none"}}, "pooling"),
        ({"context": 5}, "context"),
        ({"sampling": {"temperature": -1}}, "temperature"),
        ({"sampling": {"max_tokens": 5}}, "max_tokens"),
        ({"scheduler": {"max_queued_requests": -1}}, "max_queued_requests"),
        ({"residency": {"unload_after": -1}}, "unload_after"),
        ({"multimodal": {"image_max_tokens": 0}}, "image_max_tokens"),
    ],
)
def test_what_is_wrong_is_refused_by_name_and_never_clamped(values: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        LocalModel("model.gguf", runtime=values)
    assert caught.value.option == named


def test_a_runtime_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidOption):
        RuntimeConfig.of(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("placement", "main_gpu", 1), ("placement", "split_mode", "row"), ("placement", "tensor_split", [1.0]),
        ("context", "n_threads_batch", 2), ("context", "rope_scaling", "yarn"), ("cache", "context_shift", True),
    ],
)  # fmt: skip
def test_what_an_engine_lacks_is_refused_when_the_model_is_added(
    engine: str, group: str, name: str, value: Any
) -> None:
    config = RuntimeConfig.of({group: {name: value}})
    item = next(item for item in dataclasses.fields(GROUPS[group]) if item.name == name)  # type: ignore[arg-type]
    if refusal(engine, ENGINES[engine], item) is None:
        refuse_unsupported_runtime(config, engine, ENGINES[engine])
        return
    with pytest.raises(UnsupportedOption) as caught:
        refuse_unsupported_runtime(config, engine, ENGINES[engine])
    assert caught.value.option == name


def test_the_defaults_fit_every_engine() -> None:
    for engine, backend in ENGINES.items():
        refuse_unsupported_runtime(RuntimeConfig(), engine, backend)
