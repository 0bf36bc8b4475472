"""Tags and texts of HTML, with the standard library's parser as the oracle where a page is well-formed."""

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.markup.html_scanner import Tag, Text, scan

RAW = frozenset(("script", "style"))


def scanned(page: str) -> list:
    return [part.text if isinstance(part, Text) else (part.name, part.closing) for part in scan(page, RAW)]


class Oracle(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, {name: value or "" for name, value in reversed(attrs)}))


WORDS = st.text("abc é>'&=-", max_size=6)
ELEMENTS = st.builds(
    lambda name, values: "<{0}{1}>x</{0}>".format(name, "".join(f' d{n}="{v}"' for n, v in enumerate(values))),
    st.sampled_from(["p", "SPAN", "h2", "td"]),
    st.lists(WORDS, max_size=3),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ELEMENTS, max_size=8).map("".join))
def test_attributes_are_those_that_the_standard_parser_finds(page):
    oracle = Oracle()
    oracle.feed(page)
    oracle.close()
    ours = [part for part in scan(page, RAW) if isinstance(part, Tag) and not part.closing]
    assert [(tag.name, tag.attributes()) for tag in ours] == oracle.found


@pytest.mark.parametrize(
    ("page", "parts"),
    [
        ("a<!-- <p> -->b<!DOCTYPE html>c<?x y?>d", ["a", "b", "c", "d"]),
        ("<style>p > a { }</style>x", [("style", False), ("style", True), "x"]),
        ("<script>'</scripts>' <b></script >x", [("script", False), ("script", True), "x"]),
        ("1 < 2 <3 </ >x", ["1 < 2 <3 </ >x"]),
        ("<a title='>'>x</a >", [("a", False), "x", ("a", True)]),
        ('x<a title=">', ["x"]),
        ("x<!-- y", ["x"]),
        ("x<style>y", ["x", ("style", False)]),
    ],
)
def test_what_is_no_tag(page, parts):
    assert "".join(map(str, scanned(page))) == "".join(map(str, parts))
