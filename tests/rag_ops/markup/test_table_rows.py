"""Tables as lines: spans, header rows, nested and layout tables, hostile ones, and the cells of real articles."""

import bz2
import re
import time
import xml.etree.ElementTree as ElementTree

import pytest

from pipelines.demo.command import package_path
from rag_ops.markup import bounded, table_rows
from rag_ops.markup.parts import Wanted
from rag_ops.markup.siteinfo import ENGLISH_SITE
from rag_ops.markup.wikitext import to_parts, to_text

CITIES = """{| class="wikitable"
|+ style="color:red" | Largest [[city|cities]]
! Rank !! City !! Population<br>(2020)
|-
| 1 || [[Berlin|the capital]] || {{formatnum:3664088}}
|-
| 2
| align="right" | '''Hamburg'''<ref>x</ref>
| 1,852,478
|}"""


def rows(markup, kind="table"):
    return [part.text.split("\n") for part in to_parts(markup, wanted=Wanted(True)) if part.kind == kind]


def test_rows_stand_under_their_headers_and_the_caption_first():
    markup = f"Before.\n==Land==\n===Cities===\n{CITIES}\nAfter."
    parts = to_parts(markup, wanted=Wanted(True))
    assert [(part.kind, part.section, part.text) for part in parts] == [
        ("prose", "", "Before."),
        ("prose", "Land > Cities", "After."),
        (
            *("table", "Land > Cities > Largest cities"),
            "Largest cities\nRank: 1; City: the capital; Population (2020): 3,664,088\n"
            "Rank: 2; City: Hamburg; Population (2020): 1,852,478",
        ),
    ]
    assert to_text(markup) == "Before.\nAfter."


def test_cells_that_span_rows_and_columns_stand_in_each():
    [found] = rows(
        "{| class=wikitable\n! rowspan=2 | Year !! colspan=2 | Population\n|-\n! Men !! Women\n|-\n"
        "| rowspan='2' | 1950 || 10 || 12\n|-\n| colspan=2 | 30\n|}"
    )
    assert found == [
        "Year: 1950; Population Men: 10; Population Women: 12",
        "Year: 1950; Population Men Women: 30",
    ]


def test_columns_of_one_name_are_joined_and_empty_cells_left_out():
    [found] = rows("{|class=wikitable\n!Name!!colspan=2|Votes!!Note\n|-\n|Ada||10||20%||\n|-\n|Bob||5||10%||–\n|}")
    assert found == ["Name: Ada; Votes: 10, 20%", "Name: Bob; Votes: 5, 10%"]


def test_a_row_across_the_table_stands_before_the_rows_below_it():
    [found] = rows(
        "{|class=wikitable\n!Event!!Year\n|-\n!colspan=2|Singles\n|-\n|Paris||1999\n|-\n|colspan=2|'''Doubles'''\n|-\n|Rome||2000\n|}"
    )
    assert found == ["Singles; Event: Paris; Year: 1999", "Doubles; Event: Rome; Year: 2000"]


def test_new_headers_within_a_table_hold_from_there_on():
    [found] = rows(
        "{|class=wikitable\n!City!!2011\n|-\n|Calgary||1,096,833\n|-\n!Town!!2006\n|-\n|Red Deer||82,772\n|}"
    )
    assert found == ["City: Calgary; 2011: 1,096,833", "Town: Red Deer; 2006: 82,772"]


def test_rows_of_a_label_and_a_value_need_no_header():
    assert rows("{|class=wikitable\n!Capital\n|Tirana\n|-\n!Language:\n|Albanian\n|}") == [
        ["Capital: Tirana", "Language: Albanian"]
    ]
    assert rows('{| class="infobox"\n!Capital\n|Tirana\n|-\n!Language\n|Albanian\n|}', "infobox") == [
        ["Capital: Tirana", "Language: Albanian"]
    ]


def test_pipes_of_links_and_templates_are_none_of_the_tables():
    [found] = rows("{|class=wikitable\n!A!!B\n|-\n|[[x|{{nowrap|a}}]]||{{nowrap\n|c}}\n|-\n|[[open||d\n|-\n|e||f\n|}")
    assert found[0] == "A: a; B: c"
    assert found[-1] == "A: e; B: f"


def test_a_nested_table_is_one_of_its_own_and_the_outer_one_a_layout():
    assert rows(f"{{|\n|\n{CITIES}\n|\n{CITIES}\n|}}\nText.") == 2 * rows(CITIES)


@pytest.mark.parametrize(
    "markup",
    [
        '{| class="navbox"\n!A!!B\n|-\n|[[x]]||[[y]]\n|}',
        "{|\n| left || right\n|-\n| a || b\n|}",
        "{| class=wikitable\n! One column\n|-\n| a\n|-\n| b\n|}",
        "{| class=wikitable\n! A !! B\n|}",
        "{| class=wikitable\n! A !! B\n|-\n| [[File:A.png]] || [[File:B.png|thumb|x]]\n|}",
        "{|\n|}",
        "{| class=wikitable\n! A !! B\n|-\n| never || closed\n",
    ],
)
def test_tables_that_hold_no_data_give_no_lines(markup):
    assert rows(markup) == []


def test_tables_of_closing_sections_are_dropped_with_them():
    assert rows(f"Text.\n==References==\n{CITIES}") == []


def test_no_markup_is_left_in_rows():
    for cell in ("{{unknown|a}}x", "[[File:A.png|20px]] y", "a<br/>b", "<nowiki>[[z]]</nowiki>", "&nbsp;|", "{{", "]]"):
        for found in rows(f"{{|class=wikitable\n!A!!B\n|-\n|k||{cell}\n|-\n|1||2\n|}}"):
            assert not re.search(r"\{\{|\[\[|<|\||[\ue000-\ue007]", "\n".join(found)), found


@pytest.mark.parametrize(
    "hostile",
    [
        "{|class=wikitable\n!A!!B\n" + "|-\n|rowspan=1000 colspan=1000|x||y\n" * 3000 + "|}",
        "{|class=wikitable\n!" + "A" * 100_000 + "!!B\n" + "|-\n|1||2\n" * 20_000 + "|}",
        "{|class=wikitable\n!A!!B\n|-\n|rowspan=1000|" + "x " * 50_000 + "||1\n" + "|-\n|2\n" * 999 + "|}",
        "{|\n|" * 20_000,
        "{|class=wikitable\n|" + "[[" * 50_000 + "\n|}",
        "{|class=wikitable\n" + "|-\n|{{a||[[b\n" * 30_000 + "|}",
        "{|class=wikitable\n|" + "{{a|" * 20_000 + "}}" * 20_000 + "\n|}",
    ],
    ids=("spans", "a long header", "a long cell over many rows", "begun", "links", "open braces", "nested templates"),
)  # pytest puts the name of a test into the environment, which holds no hundred thousand characters
def test_a_hostile_table_takes_bounded_time_and_room(hostile):
    started = time.process_time()
    parts = bounded.render_parts(hostile, wanted=Wanted(True)) or []
    assert sum(len(part.text) for part in parts) < 4_000_000
    assert time.process_time() - started < 20


def test_a_process_of_its_own_gives_the_same_parts():
    page = f"Lead.\n{{{{Infobox x|population = 36450}}}}\n==A==\n[[File:A.png|thumb|A nice view]]\n{CITIES}" * 2
    wanted = Wanted(True, True)
    expected = to_parts(page, wanted=wanted)
    assert {part.kind for part in expected} == {"prose", "infobox", "table", "caption"}
    assert bounded.in_child(page, ENGLISH_SITE, wanted, None) == expected
    assert bounded.render_parts(page, wanted=wanted) == expected


def cells_of(markup):
    """The texts of a page's cells by another rule: lines of tables of data that begin with a pipe or an exclamation
    mark, without references and attributes; cells with templates are left out.
    """
    markup = re.sub(r"(?s)<ref[^>/]*>.*?</ref>|<ref[^>]*/>|<!--.*?-->", "", markup)
    for table in re.findall(r"(?ms)^\{\|[^\n]*(?:wikitable|sortable).*?^\|\}", markup):
        for line in table.split("\n")[1:]:
            if not line.startswith(("|", "!")) or line.startswith(("|-", "|}", "|+")):
                continue
            line = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", line)
            for cell in re.split(r"\|\||!!", line[1:]):
                text = re.sub(r"''+|<[^>]*>", " ", cell.rpartition("|")[2])
                if not re.search(r"[{}\[\]&]", text) and re.search(r"\w{2}", text):
                    yield " ".join(text.split())


def test_19_of_20_cells_of_articles_full_of_tables_come_out():
    path = package_path("gensim", "test/test_data/enwiki-table-markup.xml.bz2")
    wanted = found = 0
    for _, element in ElementTree.iterparse(bz2.BZ2File(path)):
        if element.tag.endswith("}text"):
            parts = to_parts(element.text or "", wanted=Wanted(True))
            text = " ".join(part.text for part in parts if part.kind != "prose")
            text = " ".join(text.replace(",", " ").split())  # lines of a cell are joined with commas
            cells = [" ".join(cell.replace(",", " ").split()) for cell in cells_of(element.text or "")]
            wanted += len(cells)
            found += sum(cell in text for cell in cells)
    assert wanted > 700
    assert found / wanted >= 0.95


def test_the_class_of_a_table_is_read_from_any_quotes():
    for attributes in ('class="a navbox"', "class='navbox'", "width=1 CLASS = navbox"):
        assert table_rows.Table(attributes).is_layout
