import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from sippet import errors
from sippet.errors import ERRORS, InvalidOption, SippError, UnsupportedOption, from_dict

ROOT = Path(__file__).parents[1]


def test_every_error_has_a_code_of_its_own() -> None:
    assert len(ERRORS) == len({cls.__name__ for cls in ERRORS.values()})
    for code, cls in ERRORS.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
        assert "code" in vars(cls), f"{cls.__name__} says its own code"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^( {4}[ │├└─]*)([A-Z]\w+)\b", line)
        if not found:
            continue
        depth = (len(found[1]) - 4) // 4
        path = [*path[:depth], found[2]]
        drawn[found[2]] = path[-2] if depth else None
    real = {
        cls.__name__: None if cls is SippError else next(base.__name__ for base in cls.__bases__)
        for cls in ERRORS.values()
    }
    assert drawn == real


def test_javascript_has_the_same_codes() -> None:
    script = (ROOT / "static" / "js" / "errors.mjs").read_text()
    codes = re.findall(r'"([a-z_]+)"', script.split("CODES", 1)[1].split("]", 1)[0])
    assert codes == list(dict.fromkeys(codes))
    assert set(codes) == set(ERRORS)


@pytest.mark.parametrize("cls", ERRORS.values())
def test_an_error_survives_the_way_to_javascript_and_back(cls: type[SippError]) -> None:
    error = cls.__new__(cls)
    SippError.__init__(error, "It broke.", hint="Mend it.", details={"option": "x", "n": 1})
    error.__cause__ = ValueError("why")
    data = json.loads(json.dumps(error.to_dict()))
    again = from_dict(data)
    assert type(again) is cls
    assert (again.message, again.hint, again.details) == ("It broke.", "Mend it.", {"option": "x", "n": 1})
    assert data["cause"] == "ValueError: why"
    assert str(again) == "It broke. Mend it."


@pytest.mark.parametrize("cls", ERRORS.values())
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_can_be_copied_and_pickled(cls: type[SippError], way: Any) -> None:
    details = {"option": "a", "b": [1]}
    error = from_dict({"code": cls.code, "message": "It broke.", "hint": "Mend it.", "details": details})
    again = way(error)
    assert type(again) is cls
    assert (again.to_dict(), again.args, str(again)) == (error.to_dict(), error.args, str(error))
    assert getattr(again, "option", "a") == "a"


def test_an_unknown_code_becomes_the_root() -> None:
    assert type(from_dict({"code": "from_the_future", "message": "?"})) is SippError


@pytest.mark.parametrize("cls", [InvalidOption, UnsupportedOption])
def test_an_option_error_names_the_option(cls: type[InvalidOption]) -> None:
    error = cls("top_p", "top_p is wrong.", limit=1)
    assert error.option == "top_p"
    assert error.details == {"option": "top_p", "limit": 1}
    assert from_dict(error.to_dict()).option == "top_p"  # type: ignore[attr-defined]
