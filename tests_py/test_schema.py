from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass, field, make_dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sippet import InvalidOption, SchemaMismatch
from sippet.schema import build_value, mismatch, parser_of, schema_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Shape:
    name: Annotated[str, "what it is called"]
    colour: Colour
    points: list[Point]
    size: Literal["small", "large"] = "small"
    tags: dict[str, int] = field(default_factory=dict)
    note: str | None = None


@dataclass
class Tree:
    name: str
    branches: list[Tree] = field(default_factory=list)
    parent: Tree | None = None


@dataclass
class Even:
    """Contains itself by way of another class."""

    next: Odd | None


@dataclass
class Odd:
    next: Even | None


class Person(TypedDict):
    name: str
    age: NotRequired[int]


def test_a_dataclass_has_a_schema() -> None:
    assert schema_of(Shape) == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "what it is called"},
            "colour": {"enum": ["red", "blue"]},
            "points": {"type": "array", "items": schema_of(Point)},
            "size": {"enum": ["small", "large"]},
            "tags": {"type": "object", "additionalProperties": {"type": "integer"}},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["name", "colour", "points"],
        "additionalProperties": False,
    }
    assert schema_of(Point)["required"] == ["x"]


def test_a_typed_dictionary_has_a_schema() -> None:
    schema = schema_of(Person)
    assert schema["required"] == ["name"]
    assert schema["properties"] == {"name": {"type": "string"}, "age": {"type": "integer"}}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}), (int, {"type": "integer"}), (float, {"type": "number"}), (bool, {"type": "boolean"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}), (dict, {"type": "object"}), (Any, {}),
        (tuple[int, str], {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}],
                           "minItems": 2, "maxItems": 2}),
        ({"type": "string"}, {"type": "string"}),
    ],
)  # fmt: skip
def test_a_type_hint_has_a_schema(hint: Any, schema: dict[str, Any]) -> None:
    assert schema_of(hint) == schema


def test_a_class_that_contains_itself_refers_to_its_definition() -> None:
    here = {"$ref": "#/$defs/Tree"}
    tree = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "branches": {"type": "array", "items": here},
            "parent": {"anyOf": [here, {"type": "null"}]},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    assert schema_of(Tree) == {**here, "$defs": {"Tree": tree}}
    assert schema_of(list[Tree]) == {"type": "array", "items": here, "$defs": {"Tree": tree}}


def test_an_answer_becomes_nested_objects_of_one_class() -> None:
    parse = parser_of(Tree, schema_of(Tree))
    assert parse('{"name": "a", "branches": [{"name": "b", "parent": {"name": "c"}}]}') == Tree(
        "a", [Tree("b", parent=Tree("c"))]
    )
    with pytest.raises(SchemaMismatch, match=r"branches\[0\] lacks name"):
        parse('{"name": "a", "branches": [{}]}')


@pytest.mark.parametrize("hint", [Even, Odd, dict[str, Even], tuple[Even, Odd], tuple[Odd, Even]])
def test_classes_that_contain_each_other_have_a_schema_without_loose_ends(hint: Any) -> None:
    schema = schema_of(hint)
    named = re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(schema))
    assert named and set(named) <= set(schema["$defs"])
    deep = {"next": {"next": {"next": None}}}
    value: Any = {"a": deep} if hint == dict[str, Even] else [deep, deep] if hint not in (Even, Odd) else deep
    assert mismatch(value, schema) is None
    assert mismatch(json.loads(json.dumps(value).replace("null", "5")), schema)


def test_two_classes_of_one_name_are_two_definitions() -> None:
    def make(kind: type) -> type:
        cls = make_dataclass("Node", [("value", kind), ("next", Any)])
        cls.__annotations__["next"] = cls | None
        return cls

    schema = schema_of(tuple[make(int), make(str)])  # type: ignore[misc]
    assert set(schema["$defs"]) == {"Node", "Node_2"}
    assert mismatch([{"value": 1, "next": None}, {"value": "a", "next": None}], schema) is None
    assert mismatch([{"value": 1, "next": None}, {"value": 2, "next": None}], schema)


def test_an_answer_that_is_nested_without_end_is_refused() -> None:
    text = '{"name": "a", "parent": ' * 20_000 + "null" + "}" * 20_000
    with pytest.raises(SchemaMismatch, match="deep"):
        parser_of(Tree, schema_of(Tree))(text)


@pytest.mark.parametrize("hint", [object, print, 5, set, complex, list[object]])
def test_what_has_no_json_is_refused_by_name(hint: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        schema_of(hint)
    assert caught.value.option == "json_schema"


def test_an_answer_becomes_the_dataclass() -> None:
    text = '{"name": "a", "colour": "red", "points": [{"x": 1}, {"x": 2, "y": 3}], "note": null}'
    shape = parser_of(Shape, schema_of(Shape))(text)
    assert shape == Shape("a", Colour.RED, [Point(1), Point(2, 3.0)])
    assert isinstance(shape.points[1].y, float)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("not JSON", "not JSON"),
        ("{}", "lacks name"),
        ('{"name": "a", "colour": "green", "points": []}', "colour is none of"),
        ('{"name": "a", "colour": "red", "points": [{"x": 1.5}]}', r"points\[0\].x is not of type integer"),
        ('{"name": "a", "colour": "red", "points": [], "more": 1}', "more is not allowed"),
        ('{"name": "a", "colour": "red", "points": [], "tags": {"t": "x"}}', "tags.t"),
    ],
)
def test_an_answer_that_does_not_match_says_where(text: str, why: str) -> None:
    with pytest.raises(SchemaMismatch, match=why) as caught:
        parser_of(Shape, schema_of(Shape))(text)
    assert caught.value.details["text"] == text


def test_a_check_of_the_class_itself_is_heard() -> None:
    @dataclass
    class Even:
        n: int

        def __post_init__(self) -> None:
            if self.n % 2:
                raise ValueError("odd")

    # The class is local, so its hints must not be strings.
    Even.__annotations__ = {"n": int}
    with pytest.raises(SchemaMismatch, match="odd"):
        parser_of(Even, schema_of(Even))('{"n": 3}')


def test_a_pydantic_model_is_taken() -> None:
    pydantic = pytest.importorskip("pydantic")

    class User(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        name: str
        age: int = pydantic.Field(ge=0)

    User.model_rebuild(_types_namespace={"pydantic": pydantic})
    schema = schema_of(User)
    assert schema["required"] == ["name", "age"]
    user = parser_of(User, schema)('{"name": "Ana", "age": 5}')
    assert isinstance(user, User) and user.age == 5
    with pytest.raises(SchemaMismatch, match="minimum"):
        parser_of(User, schema)('{"name": "Ana", "age": -1}')


def test_a_pydantic_model_keeps_its_definitions_inside_another_type() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Leaf(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        value: int

    class Twig(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        leaves: list[Leaf]

    Twig.model_rebuild(_types_namespace={"Leaf": Leaf})
    schema = schema_of(dict[str, Twig])
    assert mismatch({"a": {"leaves": [{"value": 1}]}}, schema) is None
    assert mismatch({"a": {"leaves": [{"value": "x"}]}}, schema)


VALID_AND_NOT: list[tuple[dict[str, Any] | bool, Any, Any]] = [
    ({"type": ["string", "null"]}, None, 1),
    ({"type": "integer"}, 1.0, 1.5),
    ({"type": "integer"}, 1, True),
    ({"type": "number", "minimum": 1, "exclusiveMaximum": 3}, 1, 3),
    ({"multipleOf": 3}, 9, 10),
    ({"const": 1}, 1.0, True),
    ({"enum": [[1, {"a": 2}]]}, [1.0, {"a": 2}], [1, {"a": 3}]),
    ({"minLength": 2, "maxLength": 3}, "ab", "abcd"),
    ({"pattern": "^a"}, "ab", "ba"),
    ({"minItems": 1, "maxItems": 2, "items": {"type": "null"}}, [None], []),
    ({"uniqueItems": True}, [1, 2], [1, 1.0]),
    ({"prefixItems": [{"type": "string"}], "items": False}, ["a"], ["a", 1]),
    ({"patternProperties": {"^n": {"type": "integer"}}, "additionalProperties": False}, {"n1": 1}, {"x": 1}),
    ({"minProperties": 1}, {"a": 1}, {}),
    ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, 6, 4),
    ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, 9, 3),
    ({"allOf": [{"minimum": 1}, {"maximum": 5}]}, 3, 9),
    ({"not": {"type": "string"}}, 1, "a"),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}}, "x", 1),
    (True, 1, SimpleNamespace()),
]


@pytest.mark.parametrize(("schema", "good", "bad"), VALID_AND_NOT)
def test_each_keyword_is_checked(schema: Any, good: Any, bad: Any) -> None:
    assert mismatch(good, schema) is None
    if schema is not True:
        assert mismatch(bad, schema)
        assert mismatch(good, False)


def test_a_reference_to_nowhere_is_an_error() -> None:
    for reference in ("#/$defs/none", "https://example.org/schema"):
        with pytest.raises(InvalidOption):
            mismatch(1, {"$ref": reference})


def test_a_recursive_schema_is_followed() -> None:
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    assert mismatch({"children": [{"children": []}]}, tree) is None
    assert mismatch({"children": [{"children": 5}]}, tree)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_any_json_passes_an_empty_schema_unchanged(value: Any) -> None:
    assert parser_of({}, {})(json.dumps(value)) == value
    assert mismatch(value, {"const": value}) is None


def test_values_are_built_by_hint() -> None:
    assert build_value([1, "a"], tuple[int, str]) == (1, "a")
    assert build_value([1, 1], set[int]) == {1}
    assert build_value({"a": {"x": 1}}, dict[str, Point]) == {"a": Point(1)}
    assert build_value({"x": 1}, Point | None) == Point(1)
    assert build_value(None, Point | None) is None
