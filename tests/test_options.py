"""KEY=VALUE becomes what the dataclass says it is, or an error that says what it should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from benchmark.errors import UsageError
from benchmark.options import build, parse_settings, typed_options


@dataclass(frozen=True)
class Options:
    name: ClassVar[str] = "not an option"

    levels: int = 4
    threshold: float = 8.0
    scale: float | None = None
    steps: int | None = None
    signed: bool = False
    mode: str = "auto"
    either: int | str = 0
    hidden: int = field(default=0, init=False)

    def __post_init__(self):
        if self.levels < 1:
            raise ValueError("levels must be at least 1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("levels=8", 8),
        ("levels=-3", -3),
        ("threshold=8", 8.0),
        ("threshold=1e-3", 0.001),
        ("threshold=.5", 0.5),
        ("scale=30", 30.0),
        ("steps=3", 3),
        ("signed=true", True),
        ("signed=True", True),
        ("signed=1", True),
        ("signed=yes", True),
        ("signed=false", False),
        ("signed=0", False),
        ("signed=no", False),
        ("mode=8", "8"),
        ("mode=", ""),
        ("mode=a=b", "a=b"),
        ("either=5", 5),
        ("either=five", "five"),
    ],
)
def test_text_becomes_the_type_of_the_field(text, value):
    key = text.partition("=")[0]
    found = typed_options(Options, parse_settings([text]), "x")[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "value"), [("levels", 8), ("threshold", 8.5), ("signed", True), ("mode", "m"), ("steps", 3)]
)
def test_a_value_of_the_right_type_stays(key, value):
    found = typed_options(Options, {key: value}, "x")[key]
    assert found == value and type(found) is type(value)


def test_a_whole_number_becomes_a_float_where_one_is_wanted():
    found = typed_options(Options, {"threshold": 8, "scale": 30}, "x")
    assert [type(value) for value in found.values()] == [float, float]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("levels", "four", "int"),
        ("levels", "4.5", "int"),
        ("levels", "", "int"),
        ("levels", True, "int"),
        ("levels", 4.5, "int"),
        ("threshold", "high", "float"),
        ("threshold", "nan", "float"),
        ("threshold", "inf", "float"),
        ("threshold", True, "float"),
        ("scale", "1,5", "float"),
        ("scale", "-inf", "float"),
        ("steps", "3.0", "int"),
        ("signed", "maybe", "bool"),
        ("signed", "2", "bool"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(key, value, expected):
    with pytest.raises(UsageError) as refused:
        typed_options(Options, {key: value}, "method x")
    assert str(refused.value) == f"option {key!r} of method x must be {expected}, not {str(value)!r}."


@pytest.mark.parametrize("key", ["level", "name", "hidden", "Levels"])
def test_an_unknown_option_lists_the_known_ones(key):
    with pytest.raises(UsageError) as refused:
        typed_options(Options, {key: "1"}, "method x")
    message = str(refused.value)
    assert message.startswith(f"method x has no option {key!r}.")
    assert "Options: either, levels, mode, scale, signed, steps, threshold." in message
    assert ("Did you mean 'levels'" in message) == (key.lower() in ("level", "levels"))


def test_build():
    assert build(Options, {"levels": "8", "scale": "2"}, "x") == Options(levels=8, scale=2.0)
    with pytest.raises(UsageError, match=r"^method x: levels must be at least 1"):
        build(Options, {"levels": 0}, "method x")


@pytest.mark.parametrize("setting", ["levels", "=8", ""])
def test_what_is_not_key_value_is_refused(setting):
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        parse_settings([setting])


def test_a_key_given_twice_is_refused():
    with pytest.raises(UsageError, match="levels is given twice"):
        parse_settings(["levels=4", "mode=m", "levels=4"])


@pytest.mark.parametrize(
    "text", ["dynamic-confidence[images=5]", "margin[images_needed=3]", "conformal[images=5]", "random[rates=1]"]
)
def test_what_fitting_fills_in_is_no_option(text):
    from benchmark.evaluation import parse_policy

    with pytest.raises(UsageError, match="has no option"):
        parse_policy(text)
