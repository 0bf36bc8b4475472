"""Markdown as FineWiki writes it, to parts."""

import pytest

from rag_ops.markup import markdown
from rag_ops.markup.markdown import render
from rag_ops.markup.parts import Wanted
from rag_ops.markup.siteinfo import SiteInfo


def parts_of(text: str, **more) -> list[tuple[str, str, str]]:
    return [(part.kind, part.section, part.text) for part in render(text, wanted=Wanted(tables=True), **more)]


def test_headings_lists_and_tables():
    text = "# Ulm\nUlm is **a** city.\n\n## Data\n### Years\n"
    text += "| Year | People |\n|---|---:|\n| 1900 | 42,982 \\| est. |\n\n1. one\n- two"
    assert parts_of(text) == [
        ("prose", "", "Ulm is a city."),
        ("prose", "Data > Years", "one\ntwo"),
        ("table", "Data > Years", "Year: 1900; People: 42,982 ∣ est."),
    ]


def test_closing_sections_go_by_the_language():
    text = "x\n\n## Weblinks\ny\n### z\nz\n## Lage\nw"
    assert parts_of(text, site=SiteInfo(code="de")) == [("prose", "", "x"), ("prose", "Lage", "w")]


def test_code_is_as_it_is_written():
    assert parts_of("```\n# no heading\n* x\n```\nend") == [("prose", "", "# no heading\n* x\nend")]


@pytest.mark.parametrize(
    "piece", ["|", "#", "# a\n", "**", "**a", "- ", "|a|\n", "|-", "```\n", "\\", "_", "\ue004t1\ue005\n"]
)
def test_hostile_texts_end(piece):
    assert all("\ue004" not in part.text for part in render(piece * 5_000, wanted=Wanted(tables=True)))


def test_a_text_of_megabytes_is_none():
    assert render("x" * (markdown.MAX_PAGE_CHARS + 1)) is None
