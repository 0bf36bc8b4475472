"""Columns by the names that corpora in use give them."""

import pytest

from rag_ops.articles.columns import Columns, find_columns, joined_text
from rag_ops.errors import InputError

DEFAULTS = Columns("text", "title", "id")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["text"], Columns("text")),
        (["docid", "url", "title", "headings", "body"], Columns("body", "title", "docid")),
        (["_id", "wikipedia_id", "wikipedia_title", "text"], Columns("text", "wikipedia_title", "_id")),
        (["contents", "id", "text"], Columns("text", None, "id")),
    ],
)
def test_names_in_common_use(names, expected):
    assert find_columns(names, DEFAULTS, str) == expected


def test_a_name_that_a_flag_gives_must_be_there():
    assert find_columns(["a", "b", "text"], Columns("a", "b", "id"), str) == Columns("a", "b")
    for wanted, flag in (
        (Columns("body"), "text"),
        (Columns("text", "name"), "title"),
        (Columns("text", "title", "n"), "id"),
    ):
        with pytest.raises(InputError, match=f"here has id, title, text, contents'; .*--{flag}_column"):
            find_columns(["id", "title", "text", "contents"], wanted, lambda: "here")


def test_a_corpus_without_texts_is_refused():
    with pytest.raises(InputError, match="an article has no text: 'here has url'"):
        find_columns(["url"], DEFAULTS, lambda: "here")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("as it is", "as it is"),
        (["One.\n", None, "Two."], "One.\nTwo."),
        ([], ""),
        ({"paragraph": ["One.\n", "Two.\n"], "paragraph_id": [0, 1]}, "One.\nTwo."),
        (["One.", 2], ["One.", 2]),
        ({"a": 1}, {"a": 1}),
        (None, None),
    ],
)
def test_paragraphs_are_put_together_and_nothing_else_is(value, expected):
    assert joined_text(value) == expected
