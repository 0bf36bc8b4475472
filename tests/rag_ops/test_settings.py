"""A setting's one declaration: what is made of flags, what is refused, and in which words."""

import dataclasses
from collections.abc import Sequence

import pytest

from rag_ops import settings
from rag_ops.errors import InputError
from rag_ops.settings import setting


@dataclasses.dataclass(frozen=True)
class Inner:
    limit: int = setting(3, "most of them", flag="inner_limit", at_least=1)


@dataclasses.dataclass(frozen=True)
class Outer:
    url: str = setting(..., "where it is")
    words: Sequence[str] = setting((), "some words")
    share: float | None = setting(None, "of all", within=(0, 1))
    least: int = setting(0, "none or more", at_least=0)
    kind: str = setting("a", "a or b", choices=("a", "b"))
    temperature: float = setting(1.0, "any number")
    inner: Inner = dataclasses.field(default_factory=Inner)

    def __post_init__(self) -> None:
        settings.check(self)


def test_the_fields_of_the_right_names_are_filled_at_every_depth():
    made = settings.make(Outer, {"url": "x", "inner_limit": 9, "words": ["a"], "somebody_elses": 1}, kind="b")
    assert made == Outer("x", ["a"], kind="b", inner=Inner(9))
    assert settings.make(Outer, {"url": "x"}) == Outer("x")


def test_a_value_that_must_be_given_is_missed():
    with pytest.raises(TypeError, match="url"):
        settings.make(Outer, {})


def test_the_kind_of_a_setting_is_its_annotation():
    kinds = {name: settings.kind_of(Outer, name) for name in settings.declared(Outer)}
    assert kinds == {
        "url": (str, False),
        "words": (str, True),
        "share": (float, False),
        "least": (int, False),
        "kind": (str, False),
        "temperature": (float, False),
    }


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"least": -1}, "--least is negative: -1; expected 0 or more"),
        ({"least": float("nan")}, "--least is no whole number: nan; expected a whole number"),
        ({"least": None}, "--least is no whole number; expected a whole number"),
        ({"least": 1.5}, "--least is no whole number: 1.5; expected a whole number"),
        ({"share": 0}, "--share is out of range: 0; expected over 0, to 1"),
        ({"share": float("nan")}, "--share is out of range: nan; expected over 0, to 1"),
        ({"share": 1.01}, "--share is out of range: 1.01; expected over 0, to 1"),
        ({"kind": "c"}, "--kind is unknown: 'c'; expected a or b"),
        ({"temperature": float("inf")}, "--temperature is not finite: inf; expected a number, such as 1"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_flags_name(values, line):
    with pytest.raises(InputError) as refused:
        Outer("x", **values)
    assert str(refused.value) == line


def test_a_flag_of_another_name_is_the_one_that_is_named():
    with pytest.raises(InputError, match=r"^--inner_limit is too small: 0; expected 1 or more$"):
        settings.check(Inner(0))


def test_what_is_not_given_is_not_checked():
    assert Outer("x", share=None).share is None
