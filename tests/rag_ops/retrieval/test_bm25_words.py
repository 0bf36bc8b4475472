"""The words that BM25 counts: bm25s' rules and Snowball's stems, by language."""

from __future__ import annotations

import bm25s
import pytest
import Stemmer

from rag_ops.retrieval.bm25_words import LANGUAGES, Words, query_terms, stemmer_of, stop_words

TEXTS = [
    "The Aardvarks were digging; IBM's C3-PO didn't 1,024 x y_z naïve ÉCOLE",
    "Die Häuser der Könige standen nicht in den Straßen von Zürich",
    "Les chevaux étaient dans les écuries de l'empereur",
    "Игроки сборной не были в Москве 🙂 и играли",
]


@pytest.mark.parametrize("code", ["en", "de", "fr", "ru"])
def test_words_are_those_of_bm25s(code) -> None:
    """Its tokenizer with the same stemmer."""
    stemmer = Stemmer.Stemmer(stemmer_of(code))
    expected = bm25s.tokenize(TEXTS, stopwords=code, stemmer=stemmer, return_ids=False, show_progress=False)
    words = Words(code)
    assert [words.stems_of(text) for text in TEXTS] == expected


def test_every_language_has_what_the_table_names() -> None:
    """A stemmer that Snowball has, and stop words in lower case."""
    assert {stemmer for stemmer, _ in LANGUAGES.values() if stemmer} <= set(Stemmer.algorithms())
    for code, (_, stop) in LANGUAGES.items():
        assert bool(stop) == bool(stop_words(code)), code
        Words(code)


def test_composed_and_decomposed_letters_are_one_word() -> None:
    """As people and file systems write them."""
    words = Words("fr")
    assert words.stems_of("cafe\u0301") == words.stems_of("caf\u00e9") != []


@pytest.mark.parametrize(
    ("text", "part"),
    [("東京は日本の首都である", "首都"), ("กรุงเทพมหานครเป็นเมืองหลวง", "เมือง"), ("中国的首都是北京。", "北京")],
)
def test_of_scripts_without_spaces_parts_are_found(text, part) -> None:
    """By pairs of letters; words between spaces beside them stay whole."""
    words = Words("ja")
    found = set(words.stems_of(part))
    assert found
    assert found <= set(words.stems_of(text))
    assert "wikipedia" in words.stems_of(f"Wikipedia{text}")


def test_a_language_without_a_stemmer_keeps_its_words() -> None:
    """As they are written, in lower case."""
    assert Words("xx").stems_of("The Digging") == ["the", "digging"]


def test_terms_are_counted_and_do_not_depend_on_what_was_read_before() -> None:
    """Nor on the words being forgotten."""
    words = Words("en")
    first = query_terms(words, "rivers of a river and kings")
    words.ids("some other words")
    assert [part.tolist() for part in query_terms(words, "kings river rivers")] == [part.tolist() for part in first]
    assert sorted(first[1].tolist()) == [1, 2]
    words.forget()
    assert query_terms(words, "king river river")[0].tolist() == first[0].tolist()
