"""Bold and italic marks by MediaWiki's rule, worked out by hand from Parser::doQuotes."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.markup.apostrophes import drop_quotes
from rag_ops.markup.wikitext import to_text


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("''a'' '''b''' '''''c'''''", "a b c"),
        ("'a' isn't ''b''", "'a' isn't b"),
        # Four apostrophes: the first is text. Six: likewise.
        ("''''a''''", "'a'"),
        ("''''''a'''''", "'a"),
        ("''a''''b''", "a'b"),
        # Neither bold nor italics close: one bold run is an apostrophe before italics,
        ("L'''Étranger'' paraît", "L'Étranger paraît"),
        ("the ''Nautilus''' crew", "the Nautilus' crew"),
        ("''[[Emma]]'''s end", "[[Emma]]'s end"),
        ("''a'''", "a'"),
        # first of all one after a word of one letter,
        ("word'''x a'''y '''z''", "wordx a'y z"),
        # else the first after another word,
        (" '''x word'''y '''z''", " x word'y z"),
        # else after a space.
        (" '''x'' y", " 'x y"),
        # Lines, labels of links and arguments of templates are read by themselves.
        ("''a\n'''b", "a\nb"),
        ("''a [[b|''c'''s]] d''", "a [[b|c's]] d"),
        ("{{lang|fr|l'''Homme''}} '''b'''", "{{lang|fr|l'Homme}} b"),
        # A link without a label shows its title as it is.
        ("[[Chi sta ''ngopp'']] [[Chi sta ''ngopp''|''lì'']]", "[[Chi sta ''ngopp'']] [[Chi sta ''ngopp''|lì]]"),
        # Bold that two elisions or two possessives open and close is not meant.
        ("nell'''Eneide'' e nell'''Orlando''", "nell'Eneide e nell'Orlando"),
        ("''Emma'''s and ''Persuasion'''s plots", "Emma's and Persuasion's plots"),
        ("''a'''b''c'''d ''e'''f''g'''", "abcd efg"),
        # Bold or italics end an address, which no space does.
        ("[http://a.example/b''c'' d]", "[http://a.example/b c  d]"),
    ],
)
def test_the_apostrophes_of_a_run_that_are_text_stay(markup, expected):
    assert drop_quotes(markup) == expected


def test_what_is_dropped_between_runs_keeps_them_apart():
    assert to_text("''a''<ref>x</ref>''b''") == "a b"
    assert to_text("'<nowiki/>''a'' ''b'<nowiki/>''") == "'a b'"
    assert to_text("''a''{{cite|x}}''b'' c") == "a b c"


PIECES = st.sampled_from(["''", "'''", "''''", "'''''", "[[", "]]", "{{", "}}", "|", "a", " ", "\n"])


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES).map("".join))
def test_nothing_but_apostrophes_goes(markup):
    text = drop_quotes(markup)
    assert text.replace("'", "") == markup.replace("'", "")
    assert len(text) <= len(markup)


@pytest.mark.parametrize("piece", ["''a[[", "'''", "[http://x''", "''{{|", "a'''b''"])
def test_a_long_line_costs_linear_time(piece):
    start = time.process_time()
    drop_quotes(piece * 20_000)
    assert time.process_time() - start < 2
