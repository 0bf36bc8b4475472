"""Hostile pages: within five seconds each is text or nothing, whatever its markup; the process lives on."""

import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.errors import JobError
from rag_ops.markup import bounded, wikitext
from rag_ops.markup.bounded import is_suspect, render
from rag_ops.markup.cutting import prepare
from rag_ops.markup.siteinfo import SiteInfo

MANY = 100_000
LIMIT_SECS = 5
HOSTILE = {
    "templates never closed": "{{" * MANY,
    "templates nested": "{{a|" * MANY + "}}" * MANY,
    "known templates nested": "{{nowrap|" * MANY + "}}" * MANY,
    "links never closed": "[[" * MANY,
    "links nested": "[[a|" * MANY + "]]" * MANY,
    "tags never closed": "<div>" * MANY,
    "tags nested": "<div>" * MANY + "</div>" * MANY,
    "tables never closed": "{|\n" * MANY,
    "tables nested": "{|\n|-\n" * MANY + "|}\n" * MANY,
    "arguments nested": "{{{a|" * MANY + "}}}" * MANY,
    "many templates": "{{val|1}} " * 20_000,
    "many links": "[[a]] " * MANY,
    "many outer links": "[http://a b]" * 20_000,
    "many parameters": "{{a|" + "b|" * MANY + "}}",
    "many attributes": "<div " + "a=b " * 20_000 + ">x</div>",
    "lists in lists": "*" * 20_000,
    "lines": "----\n" * 20_000,
    "headings": "== a ==\n" * 20_000,
    "tags that take each other's end": "<b " * 5000 + ">",
    "brackets that cross": "[[a {{b ]] }}" * 20_000,
    "tags that cross brackets": "<b>[[a</b>]]" * 20_000,
    "a heading that is no end of one": "=a" * MANY,  # this ends the parser's process, out of stack
    "one equals sign and spaces": "=" + " " * MANY,
    "commas": "," * MANY,
    "commas and spaces": ", " * MANY + "(",
    "empty brackets": "x" + " ()" * MANY,
    "sums in an open bracket": "(" + "$ " * MANY,
    "line separators": "\u2028" * MANY + "(",
    "empty powers": "<sup></sup>" * 20_000,
    "digits": "{{convert|" + "1" * MANY + "x|m}}",
    "decimals": "{{pop density|1|1|km2|sqmi|prec=999999999}}{{order of magnitude|1e999999999}}",
    "a title of spaces": "[[a" + " " * MANY + "b|]]",
    "ten megabytes of words": "word " * 2_100_000,
    "ten megabytes of markup": "{{a|[[b|<i>c</i>]]}} " * 500_000,
}
BEYOND = {
    "templates never closed",
    "tags that take each other's end",
    "a heading that is no end of one",
    "ten megabytes of words",
    "ten megabytes of markup",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_page_costs_at_most_its_time(name):
    start = time.process_time()
    text = render(HOSTILE[name])
    assert time.process_time() - start < LIMIT_SECS  # of this process; the other one's limit is the system's
    if name in BEYOND:
        assert text is None
    if text is not None:
        assert not any(mark in text for mark in ("|", "{{", "}}", "[[", "]]", "<ref"))


def test_a_large_sound_page_is_rendered_in_the_other_process_all_the_same():
    page = "The ''[[moon]]'' is {{convert|10|km|mi}} away. é日本\n" * 7000
    assert is_suspect(prepare(page)[0])
    assert render(page) == wikitext.to_text(page)
    assert render(page).startswith("The moon is 10 kilometres (6.2 mi) away. é日本\n")


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("a&#xd800;b&#0;c&#1;d", "a b&#0;c d"),
        ("&#x110000;x", "&#x110000;x"),
        ("{{formatnum:" + "1" * 5000 + "}}x", "x"),
    ],
)
def test_what_no_file_can_hold_does_not_come_out(markup, expected):
    text = render(markup)
    assert text.encode()
    assert text == expected


PIECES = st.sampled_from(
    ["{{", "}}", "[[", "]]", "|", "<b>", "</b>", "<b ", "<div", ">", "[http://x ", "]", "[", "''", "\n", "\n* ", "\n=",
     "=", "a ", ",", "(", ")", "$ ", "{{{", "}}}", "\n{|\n", "\n|}\n", "nowrap|", "&#5;", "<!--", "-->", "<ref>",
     "</ref>", "<sup>", "</sup>", "é", "\n:;", "\n----\n", "convert|1|m|", "\u2028"]
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=8), st.integers(1, 1000))
def test_repeated_pieces_cost_at_most_their_time(pieces, times):
    start = time.process_time()
    render("".join(pieces) * times)
    assert time.process_time() - start < LIMIT_SECS


def test_a_process_of_its_own_knows_the_names_of_files_too():
    page = "[[Datei:A.jpg|mini|Ein Bild]]Text. " + "<i>word</i> " * 9000
    assert is_suspect(prepare(page)[0])
    assert render(page, SiteInfo("dewiki", "de", {"datei": 6})).startswith("Text. word word")


@pytest.mark.parametrize(
    ("script", "message"),
    [("import os; os.kill(os.getpid(), 9)", "was killed"), (None, "cannot be started")],
)
def test_a_process_that_the_system_kills_is_no_fault_of_the_page(script, message, monkeypatch, tmp_path):
    """A page is dropped for what it takes itself; that a machine has no memory left says nothing of it."""
    if script is None:
        python = tmp_path / "none"
    else:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{script}'\n")
        python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(JobError, match=message):
        bounded.render("x" * (bounded.SUSPECT_CHARS + 1))
