"""Pages in HTML: parts as from wikitext, of both of MediaWiki's renderers, and hostile pages."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_ops.markup import html, wikitext
from rag_ops.markup.html import render
from rag_ops.markup.parts import Part, Wanted, prose
from rag_ops.markup.siteinfo import SiteInfo

ALL = Wanted(tables=True, captions=True)
FORBIDDEN = ("|", "{{", "[[", "<ref")


def text_of(page: str, site: SiteInfo = html.ENGLISH_SITE) -> str:
    return prose(render(page, site).parts)


def parts_of(page: str, site: SiteInfo = html.ENGLISH_SITE) -> list[tuple[str, str, str]]:
    return [(part.kind, part.section, part.text) for part in render(page, site, ALL).parts]


# Wikitext, and what MediaWiki's two renderers make of it, written from their documentation.
PAIRS = [json.loads(line) for line in Path(__file__).with_name("html_pairs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["wikitext"][:20])
def test_html_gives_the_parts_that_its_wikitext_gives(pair):
    assert render(pair["html"], wanted=ALL).parts == wikitext.to_parts(pair["wikitext"], wanted=ALL)


def test_a_whole_page_of_parsoid():
    page = """<!DOCTYPE html><html><head><title>Berlin</title><style>p{}</style></head>
    <body class="mw-body-content parsoid-body mw-parser-output"><section data-mw-section-id="0">
    <div class="hatnote">For others, see</div><div class="shortdescription" style="display:none">A city</div>
    <table class="infobox ib vcard" about="#mwt1" data-mw='{"a":">"}'><tbody>
    <tr><th colspan="2" class="infobox-above">Berlin</th></tr>
    <tr><td colspan="2"><figure><img/><figcaption>View</figcaption></figure></td></tr>
    <tr><th scope="row">Country</th><td><a href="./Germany">Germany</a></td></tr>
    <tr><th colspan="2">Area</th></tr><tr><th>• City</th><td>891 km<sup>2</sup></td></tr>
    <tr><th>Rivers</th><td><div class="plainlist"><ul><li>Spree</li><li>Havel</li></ul></div></td></tr>
    <tr><th>Coordinates</th><td><span class="geo-inline">52°N</span></td></tr></tbody></table>
    <p><b>Berlin</b> is a&nbsp;city.</p><div class="navbox"><table><tr><td>no</td></tr></table></div>
    <link rel="mw:PageProp/Category" href="./Category:Cities"/></section></body></html>"""
    assert parts_of(page) == [
        ("prose", "", "Berlin is a city."),
        ("infobox", "", "Country: Germany\nArea, City: 891 km2\nRivers: Spree, Havel"),
        ("caption", "", "View"),
    ]


def test_what_stands_around_the_page_in_a_whole_site_is_none_of_it():
    page = """<body><nav>menu</nav><h1 id="firstHeading">Ulm</h1><div>before</div><div id="mw-content-text">
    <div class="mw-parser-output"><p>Ulm is a city.</p></div></div><div>after</div>
    <footer>issued from</footer></body>"""
    assert text_of(page) == "Ulm is a city."
    assert text_of("<h1>Ulm</h1><p>Ulm is a city.</p><footer>issued from</footer>") == "Ulm is a city."


def test_pronunciations_stay_if_they_are_wanted():
    page = '<p>Ulm (<span class="IPA" lang="de-fonipa">[ʊlm]</span>) is</p>'
    assert text_of(page) == "Ulm is"
    assert text_of(page, SiteInfo(keep_ipa=True)) == "Ulm ([ʊlm]) is"


def test_closing_sections_go_by_the_language():
    page = "<p>a</p><h2>Einzelnachweise</h2><p>b</p><h2>Geschichte</h2><p>c</p>"
    assert parts_of(page, SiteInfo(code="de")) == [("prose", "", "a"), ("prose", "Geschichte", "c")]
    assert "b" in text_of(page)


def test_of_a_text_in_several_scripts_one_is_kept():
    rule = '{"twoway":[{"l":"zh-hant","t":"邦聯"},{"l":"zh-hans","t":"邦联"}]}'
    page = f"<p>A<span typeof='mw:LanguageVariant' data-mw-variant='{rule}'></span>B</p>"
    assert text_of(page, SiteInfo(code="zh")) == "A邦联B"


@pytest.mark.parametrize(
    ("page", "redirect", "disambiguates"),
    [
        ('<link rel="mw:PageProp/redirect" href="./B"/>', True, False),
        ('<div class="redirectMsg"><p>Redirect to:</p></div>', True, False),
        ('<meta http-equiv="refresh" content="0;url=B">', True, False),
        ('<p>x</p><meta property="mw:PageProp/disambiguation"/>', False, True),
        ('<div id="disambigbox" class="metadata plainlinks dmbox">', False, True),
        ("<p>x</p>", False, False),
    ],
)
def test_pages_that_say_what_they_are(page, redirect, disambiguates):
    found = render(page)
    assert (found.redirect, found.disambiguates) == (redirect, disambiguates)


def test_infoboxes_of_other_wikis_and_in_other_elements():
    rows = "<tr><td>Kingdom:</td><td>Animalia</td></tr><tr><th>2004–2021</th><td>Ulm</td><td>520</td></tr>"
    facts = [("infobox", "", "Kingdom: Animalia\n2004–2021: Ulm, 520")]
    assert parts_of(f'<table class="sinottico">{rows}</table>') == facts
    assert parts_of(f'<div class="infobox_v3"><p>A title</p><table>{rows}</table></div>') == facts


def test_a_table_in_a_table_is_one_of_its_own():
    inner = '<table class="wikitable"><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>'
    outer = f"<table class='wikitable'><tr><th>C</th><th>D</th></tr><tr><td>3 {inner}</td><td>4</td></tr></table>"
    assert parts_of(outer + "<p>x</p>") == [
        ("prose", "", "x"),
        ("table", "", "C: 3; D: 4"),
        ("table", "", "A: 1; B: 2"),
    ]


HOSTILE = [
    "<",
    "<a<a",
    "<!--",
    '<a b="',
    "<div>",
    "</span>",
    "<sup>1",
    "<h2>",
    "<h2>a</h2>x",
    "<table><tr><td>",
    "<figure>",
    "<b>x",
    "&",
    "&#9;",
    "\0",
    "(",
    ", ",
    "[ ",
    "{{",
    "__A",
    "<p>(",
    '<sup class="reference">1</sup>',
    "<li>",
    "<pre>",
    '<div class="mw-parser-output">',
    '<div class="infobox"><table><tr><td>a',
    "<td rowspan=999999 colspan=999999>a",
    '<math alttext="{{x}}">',
    '<span class="frac">1',
    "<script>",
    "<style></style ",
    "<caption>x",
    '<div class="navbox">',
    "<i class='x",
    "<figure><figcaption>x",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_pages_end_in_linear_time(piece):
    """Eight times the page takes some eight times as long: what is quadratic takes sixty-four."""
    begun = "<table>" if piece.startswith(("<td", "<caption")) else ""
    render(begun + piece * 30)  # patterns are compiled
    seconds = []
    for times in (300, 2_400):
        started = time.process_time()
        found = render(begun + piece * times, wanted=ALL)
        seconds.append(time.process_time() - started)
        if found:
            assert not any(mark in part.text for part in found.parts for mark in FORBIDDEN)
    assert seconds[1] < 24 * seconds[0] + 0.5


def test_a_page_beyond_the_bounds_is_none(monkeypatch):
    for name, most, page in (
        ("TAGS", 100, "<p>x</p>"),
        ("TABLES", 100, "<table></table>"),
        ("PAGE_CHARS", 1000, "x" * 10),
    ):
        assert most <= getattr(html, f"MAX_{name}")
        monkeypatch.setattr(html, f"MAX_{name}", most)
        assert render(page * 30) is not None
        assert render(page * 101) is None
        monkeypatch.undo()


PIECES = st.sampled_from(
    [
        "<p>",
        "</p>",
        "<b>",
        "</b>",
        "<table class=infobox>",
        "<table>",
        "</table>",
        "<tr>",
        "<td>",
        "<th colspan=2>",
        "</td>",
        "<caption>",
        "<sup>",
        "</sup>",
        "<sub>",
        "<h2>",
        "</h2>",
        "References",
        "<figure>",
        "<figcaption>",
        "</figure>",
        "<li>",
        "</li>",
        "<pre>",
        "</pre>",
        "<math alttext=x>",
        "</math>",
        "<div class=navbox>",
        "</div>",
        "<span class=frac>",
        "</span>",
        '<div class="mw-parser-output">',
        "text",
        "1",
        "⁄",
        "{{",
        "]]",
        "|",
        "__",
        "&lt;",
        "&#xe004;",
        "\ue004h3\ue005",
        "\0",
        "*",
        "<!--",
        "-->",
        "<",
        ">",
        '"',
        "<ref",
        "<img class=mwe-math-x alt=y>",
        "<cite>",
        "ISBN",
        "<div class=infobox>",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_page_raises_or_leaves_markup(page):
    for part in render(page, wanted=ALL).parts:
        assert isinstance(part, Part)
        for text in (part.text, part.section):
            assert not any(mark in text for mark in FORBIDDEN)
            assert not any("\ue000" <= character <= "\ue007" or character == "\0" for character in text)
