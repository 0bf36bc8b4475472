"""Answers of an uncased vocabulary in the passages' spelling."""

import pytest
from transformers import AutoTokenizer

from rag_ops.generation.spelling import respell

TEXT = "The unit is named after André-Marie Ampère; it costs US$1,729.50 at Grant's Tomb (since 1897)."


@pytest.mark.parametrize(
    "original",
    ["André-Marie Ampère", "US$1,729.50", "Grant's Tomb", "Grant's Tomb (since 1897)", "unit is named", "1897"],
)
def test_what_the_tokenizer_lost_comes_back(minilm, original):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    ids = tokenizer(original, add_special_tokens=False)["input_ids"]
    assert respell(tokenizer.decode(ids), [TEXT]) == original


def test_a_part_of_a_word_is_no_place():
    assert respell("amp", [TEXT]) == "amp"
    assert respell("amp", [TEXT, "an Amp is short for it"]) == "Amp"
    assert respell("ere", ["Ampère"]) == "ere"
    assert respell("a m", ["was A. M. in the AM"]) == "AM"


def test_a_part_of_a_number_is_no_place():
    assert respell("729", [TEXT]) == "729"
    assert respell("1 , 729", [TEXT, "of 1,729, or 2"]) == "1,729"
    assert respell("50 ;", [TEXT]) == "50 ;"
    assert respell("in 1914 , 1", ["in 1914, 1 in 1915"]) == "in 1914, 1"


def test_the_first_text_decides_and_what_no_text_has_stays():
    assert respell("the who", ["THE WHO played", "The Who"]) == "THE WHO"
    assert respell("nobody said so", [TEXT]) == "nobody said so"
    assert respell("", [TEXT]) == ""
    assert respell(" ", [TEXT]) == " "


def test_accents_written_apart_belong_to_their_letter():
    assert respell("ampere", ["Ampe\u0300re"]) == "Ampe\u0300re"
    assert respell("cafe", ["the cafe\u0301 is open"]) == "cafe\u0301"


def test_spaces_and_lines_are_one_space():
    assert respell("new york", ["in New\n  York"]) == "New York"
    assert respell("istanbul", ["İstanbul is large"]) == "İstanbul"
    assert respell("strasse", ["Straße"]) == "strasse"
