"""Tests of metrics: next to second implementations, written from the definitions without its code."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.errors import InputError
from rag_ops.evaluation import metrics
from rag_ops.evaluation.metrics import (
    GoldPatterns,
    GoldTexts,
    exact_match,
    f1,
    first_place,
    has_answer,
    normalise,
    tokens,
)

# Letters with and without marks, of several scripts; digits, fractions, punctuation, white space and controls.
CHARACTERS = (
    "abThe AN\u00e9e\u0301\u03a3\u03c2\u03c3\u0130\u6771\u0915\u093f12\u00bd\u2155.,'-$+\u2019\u00a0\u200b\n\t\x00"
)
TEXTS = st.text(CHARACTERS, max_size=30)


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


def naive_tokens(text: str) -> list[str]:
    """DPR's tokens, character by character from Unicode's categories."""
    found, run = [], ""
    for character in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(character)[0]
        if kind in "LNM":
            run += character
            continue
        found += [run] if run else []
        found += [character] if kind not in "ZC" else []
        run = ""
    return [token.lower() for token in (*found, *([run] if run else []))]


def naive_has_answer(text: str, gold: list[str]) -> bool:
    words = naive_tokens(text)
    for answer in filter(None, map(naive_tokens, gold)):
        if any(words[start : start + len(answer)] == answer for start in range(len(words))):
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_tokens_are_runs_of_letters_numbers_and_marks_or_one_character(text):
    assert tokens(text) == naive_tokens(text)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.lists(st.text(CHARACTERS, max_size=4), max_size=3))
def test_has_answer_next_to_a_search_of_token_lists(text, gold):
    assert has_answer(text, gold) == naive_has_answer(text, gold)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_f1_is_symmetric_bounded_and_1_where_words_match(answer, gold):
    assert f1(answer, [gold]) == f1(gold, [answer])
    assert 0 <= f1(answer, [gold]) <= 1
    if exact_match(answer, [gold]) and normalise(gold):
        assert f1(answer, [gold]) == 1


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("The Moon is grey.", ["moon"], True),
        ("Moonlight is grey.", ["moon"], False),
        ("He is from the U.S. Army", ["u.s"], True),
        ("He is from the US Army", ["u.s."], False),
        ("caf\u00e9 noir", ["cafe\u0301"], True),
        ("cafe noir", ["caf\u00e9"], False),
        ("Apollo 11 landed", ["apollo  11"], True),
        ("the moon", ["a moon"], False),  # articles are words here: this is not SQuAD's normalisation
        ("anything", [""], False),
        ("", ["moon"], False),
    ],
)
def test_has_answer(text, gold, expected):
    assert has_answer(text, gold) is expected


def test_the_first_place_counts_from_one():
    assert first_place(["the sun", "the moon", "moon"], GoldTexts(["moon"])) == 2
    assert first_place(["the sun"], GoldTexts(["moon"])) is None


@pytest.mark.parametrize(
    ("pattern", "answer", "exact", "held"),
    [
        (r"19\d\d", "1969", 1, True),
        (r"19\d\d", "1969, in July", 1, True),  # matched from the beginning, not to the end
        (r"19\d\d", "in 1969", 0, True),
        (r"(Neil )?Armstrong", "neil armstrong", 1, True),
        (r"^Armstrong$", "Neil\nArmstrong", 0, True),  # ^ and $ are lines' ends
        ("caf\u00e9", "cafe\u0301", 0, True),  # passages are compared in NFD, answers as they are
    ],
)
def test_patterns_match_answers_from_the_beginning_and_passages_anywhere(pattern, answer, exact, held):
    gold = GoldPatterns([pattern])
    assert (gold.exact(answer), gold.f1(answer), gold.held_in(answer)) == (exact, None, held)
    assert gold.exact(None) == 0


def test_a_pattern_that_is_none_is_told_with_its_question():
    with pytest.raises(InputError, match=r"no regular expression.*question q7: \(a"):
        GoldPatterns(["(a"], "q7")


def test_a_pattern_that_never_ends_is_told(monkeypatch):
    monkeypatch.setattr(metrics, "PATTERN_SECS", 0.2)
    gold = GoldPatterns([r"(x|xx|xxx)+[yz]$"], "q8")
    with pytest.raises(InputError, match=r"takes more than 0.2 s.*question q8"):
        gold.held_in("x" * 60)
