"""Infoboxes as lines: facts with readable names, labels of other parameters, nothing of images and colours."""

import re

import pytest

from rag_ops.markup import infobox, tables
from rag_ops.markup.parts import Wanted
from rag_ops.markup.wikitext import to_parts, to_text

COUNTRY = """{{Infobox country
| common_name = Utopia
| image_flag = Flag.svg
| flag_width = 120px
| capital = [[Amaurot|The City]]<ref>x</ref>
| leader_title1 = [[President]]
| leader_name1 = Ada {{small|(since 2010)}}
| leader_name2 = Bob
| official_languages = {{hlist|Greek|Latin}}
| established_event1 = Founded
| established_date1 = {{start date|1516|12|3}}
| population_estimate = 3645257
| area_km2 = 178.91
| latd = 12 | longd = 70
| currency =
| drives_on = right
| map_caption = {{map caption|x}}
}}"""


def facts(markup):
    return [part.text.split("\n") for part in to_parts(markup, wanted=Wanted(True)) if part.kind == "infobox"]


def test_parameters_become_facts_with_readable_names():
    assert facts(COUNTRY + "\n'''Utopia''' is an island.") == [
        [
            "Capital: The City",
            "President: Ada (since 2010)",
            "Leader name: Bob",
            "Official languages: Greek, Latin",
            "Founded: December 3, 1516",
            "Population estimate: 3,645,257",
            "Area km2: 178.91",
            "Drives on: right",
        ]
    ]
    assert to_text(COUNTRY + "\n'''Utopia''' is an island.") == "Utopia is an island."


def test_an_infobox_is_known_by_its_name_in_many_languages():
    for name in (
        "Infobox person",
        "infobox_ville",
        "Taxobox",
        "Ficha de escritor",
        "Картка",
        "基礎情報 国",
        "Şehir bilgi kutusu",
    ):
        assert infobox.is_infobox(name), name
    for name in ("Cite book", "Information", "Navbox", "Convert", "Navbox infobox templates"):
        assert not infobox.is_infobox(name), name


@pytest.mark.parametrize(
    "name",
    "image image_size imagesize logo_alt map_caption pushpin_map color bgcolor latd coordinates coat_alt footnotes "
    "signature_alt box_width title_style population_ref Bild 画像".split(),
)
def test_what_is_no_fact_is_left_out(name):
    assert infobox.lines([(name, "12")]) == []


@pytest.mark.parametrize(
    "name",
    "height width type class architectural_style flagship colors mapping crew age language latest_release_version "
    "longest_span photographer cover_artist altitude place".split(),
)
def test_facts_that_look_like_it_stay(name):
    assert infobox.lines([(name, "12")]) == [f"{infobox.readable(name)}: 12"]


def test_names_of_files_and_switches_are_no_facts():
    assert infobox.lines([("route", "Alabama 3.svg"), ("collapsed", "yes"), ("motto", "Dare")]) == ["Motto: Dare"]


def test_only_sizes_get_separators():
    given = [("population_total", "3645257"), ("oclc", "12345678"), ("founded", "1999"), ("elevation_m", "12345.6")]
    assert infobox.lines(given) == [
        "Population total: 3,645,257",
        "Oclc: 12345678",
        "Founded: 1999",
        "Elevation m: 12345.6",
    ]


def test_an_infobox_within_another_is_one_of_its_own():
    inner = "{{Infobox officeholder|office = Mayor|term = 1990}}"
    assert facts(f"{{{{Infobox person|birth_place = Ulm|module = {inner}}}}}") == [
        ["Birth place: Ulm"],
        ["Office: Mayor", "Term: 1990"],
    ]


def test_an_infobox_has_the_section_that_it_stands_in():
    [part] = [one for one in to_parts(f"A\n== History ==\n{COUNTRY}", wanted=Wanted(True)) if one.kind == "infobox"]
    assert part.section == "History"


def test_captions_of_files_are_kept_if_asked_for():
    page = "[[File:A.png|thumb|alt=x|The [[Seine|river]] in ''Paris'']] Text.\n== B ==\n[[File:B.png|thumb|left]]"
    assert [part for part in to_parts(page, wanted=Wanted(captions=True)) if part.kind == "caption"] == [
        part for part in to_parts(page, wanted=Wanted(True, True)) if part.kind == "caption"
    ]
    [caption] = [part for part in to_parts(page, wanted=Wanted(captions=True)) if part.kind == "caption"]
    assert (caption.section, caption.text) == ("", "The river in Paris")
    assert all(part.kind == "prose" for part in to_parts(page, wanted=Wanted(True)))


def test_every_rule_is_of_a_kind_and_names_groups_that_it_has():
    for kind, pattern, detail in tables.rows("infobox_parameters.tsv", 3):
        assert kind in ("drop", "label", "value", "number")
        assert bool(detail) == (kind in ("label", "value"))
        groups = re.compile(pattern).groups
        assert all(int(number) <= groups for number in re.findall(r"\\(\d)", detail))
