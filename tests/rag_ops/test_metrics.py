"""Tests of rag_ops.metrics."""

import pytest

from rag_ops.metrics import exact_match, f1, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles", "beatles"),
        ("a  man, a plan", "man plan"),
        ("theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("...", ""),
        ("Ångström the 2nd", "ångström 2nd"),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


def test_exact_match_takes_any_gold_answer():
    assert exact_match("the Moon.", ["Sun", "moon"]) == 1
    assert exact_match("moons", ["moon"]) == 0
    assert exact_match(None, ["moon"]) == 0
    assert exact_match("", []) == 0


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("moon", ["moon"], 1),
        ("moon sun", ["moon"], 2 / 3),
        ("moon moon", ["moon"], 2 / 3),
        ("ice", ["moon", "dry ice"], 2 / 3),
        ("ice", ["moon"], 0),
        ("the", ["a"], 0),
        (None, ["moon"], 0),
        ("moon", [], 0),
    ],
)
def test_f1(answer, gold, expected):
    assert f1(answer, gold) == pytest.approx(expected)
