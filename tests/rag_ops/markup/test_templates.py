"""Each family of templates; expectations written by hand from what a reader of Wikipedia sees."""

import pytest

from rag_ops.markup import tables, templates
from rag_ops.markup.wikitext import to_text


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("{{val|1234.5}}", "1,234.5"),
        ("{{val|6.62|0.01|e=-34|u=J s}}", "(6.62 ± 0.01)×10^−34 J s"),
        ("{{val|299792458|u=m/s}}", "299,792,458 m/s"),
        ("{{val|50|u=%}}", "50%"),
        ("{{formatnum:1234567}}", "1,234,567"),
        ("{{formatnum:-1234.50}}", "−1,234.50"),
        ("{{frac|1|2}} and {{sfrac|3|4}} and {{frac|2|1|2}}", "1/2 and 3/4 and 2 1/2"),
        ("{{lang|fr|Liberté}}", "Liberté"),
        ("{{lang-de|Haus}}", "Haus"),
        ("{{lang-el|''Αθήνα''}}", "Αθήνα"),
        ("{{transl|ru|ISO|Moskva}}", "Moskva"),
        ("{{nowrap|10 km}} and {{nobr|1=a = b}}", "10 km and a = b"),
        ("{{As of|2012|7|4}} it was", "As of 4 July 2012 it was"),
        ("It was, {{as of|2012|lc=y}}, so", "It was, as of 2012, so"),
        ("{{circa|1500}}", "c. 1500"),
        ("{{c.|1500|1520}}", "c. 1500 – c. 1520"),
        ("{{birth date|1879|3|14}}", "March 14, 1879"),
        ("{{birth date|1879|3|14|df=y}}", "14 March 1879"),
        ("{{birth date and age|1970|4|29}}", "April 29, 1970"),
        ("{{death date and age|1953|3|5|1878|12|18}}", "March 5, 1953 (aged 74)"),
        ("{{death date and age|df=yes|1955|4|18|1879|3|14}}", "18 April 1955 (aged 76)"),
        ("{{death year and age|1955|1879}}", "1955 (aged 75–76)"),
        ("{{start date|1969|7|20}}", "July 20, 1969"),
        ("{{abbr|MSL|mean sea level}}", "MSL"),
        ("{{tooltip|UK|United Kingdom}}", "UK"),
        ("{{nihongo|Aikido|合気道|aikidō}}", "Aikido (合気道, aikidō)"),
        ("{{chem|H|2|O}}", "H2O"),
        ("{{small|tiny}} {{smaller|less}} {{big|large}}", "tiny less large"),
        ("{{vanchor|term}} {{angbr|a}}", "term ⟨a⟩"),
        ("1939{{ndash}}1945{{snd}}war", "1939–1945 – war"),
        ("a{{·}}b", "a · b"),
        ("10{{nbsp}}km", "10 km"),
        ("{{quote|To be.|Hamlet}}", "To be. — Hamlet"),
        ("{{flag|France}} won", "France won"),
        ("won by {{flagicon|FRA}} Agassi", "won by Agassi"),
        ("{{ill|Otto|de|Otto Maier}}", "Otto"),
        ("{{USS|Hornet|CV-12}}", "USS Hornet (CV-12)"),
        ("{{HMS|Beagle}}", "HMS Beagle"),
        ("{{nts|12345}}", "12,345"),
        ("{{dts|1969|7|20}}", "July 20, 1969"),
        ("6.02{{e|23}}", "6.02×10^23"),
        ("''Titanic''{{'s}} crew", "Titanic's crew"),
        ("{{keypress|Ctrl|C}}", "Ctrl+C"),
        ("{{simplenuclide2|Carbon|14}}", "Carbon-14"),
        ("{{hlist|a|b|c}}", "a, b, c"),
        ("{{unbulleted list|a|b}}", "a\nb"),
        ("10{{sup|8}} and x{{sub|1}}", "10^8 and x1"),
        ("{{coord|13|19|N|169|9|W|type:event}}", "13°19′N 169°9′W"),
        ("{{coord|13|19|N|169|9|W|display=title}}", ""),
        ("{{harvtxt|Boolos|Jeffrey|1974}} offer", "Boolos & Jeffrey (1974) offer"),
        ("{{pop density|3645257|640081.87|km2|sqmi|prec=1}}", "5.7/km2 (14.8/sq mi)"),
        ("{{marriage|Ann|1900|1910}}", "Ann (m. 1900–1910)"),
        ("{{nowrap|{{convert|5|km|mi}}}}", "5 kilometres (3.1 mi)"),
        ("{{cvt|5|km|mi}} of {{nobold|light|ignored}}", "5 km (3.1 mi) of light"),
        ("{{H:title|seen by the mouse alone|shown}} {{hover title|hidden|too}}", "shown too"),
        ("{{approx|40}}, {{circa|40}}", "approx. 40, c. 40"),
        ("{{nihongo2|合気道}}", "合気道"),
        (
            "he {{sic|acco|modated}} {{sic|hide=y|thier}} {{not a typo|te|h}} wishes",
            "he accomodated [sic] thier teh wishes",
        ),
    ],
)
def test_content_is_expanded(markup, expected):
    assert to_text(markup) == expected


@pytest.mark.parametrize(
    "markup",
    [
        "{{cite web|url=http://x|title=y}}",
        "{{Infobox person|name=A|birth_date={{birth date|1879|3|14}}}}",
        "{{main|Other}}",
        "{{IPA|/a/}}",
        "{{IPAc-en|ˈ|æ|l}}",
        "{{respell|a|BAY}}",
        "{{citation needed|date=May 2016}}",
        "{{sfn|Smith|2000|p=4}}",
        "{{rp|5}}",
        "{{refn|note}}",
        "{{Use dmy dates|date=May 2016}}",
        "{{unknown thing|with|arguments}}",
        "{{#if:x|y|z}}",
    ],
)
def test_apparatus_is_dropped(markup):
    assert to_text(f"before{markup} after") == "before after"


def test_no_handler_raises():
    """Each with odd arguments and odd names; all that fail are reported together."""
    failures = []
    for name in templates.HANDLERS:
        for arguments in ([], [""], ["x"], ["1"] * 7, ["-"] * 3, ["０", "𝟙", "²"]):
            for named in ({}, {"1": "y", "df": "y", "e": "x", "u": "m", "p": "1"}):
                try:
                    given = templates.HANDLERS[name](arguments, named)
                except Exception as error:
                    failures.append(f"{name} {arguments} {named}: {error!r}")
                else:
                    failures += [] if isinstance(given, str) else [f"{name} {arguments} {named}: {given!r}"]
    assert not failures, f"{len(failures)} fail:\n" + "\n".join(failures)


def test_a_template_with_two_handlers_is_an_error_and_not_the_later_one():
    with pytest.raises(ValueError, match="two handlers for the template 'val'"):
        templates._handlers([["value", "", "val"], ["always", "C", "carbon|val"]])


def test_every_row_of_the_table_says_what_its_handler_needs():
    for handler, detail, names in tables.rows("templates.tsv", 3):
        assert (handler in templates.MAKERS) != (handler in templates.FUNCTIONS), handler
        assert not (handler in templates.FUNCTIONS and detail), f"{handler} takes no detail: {detail}"
        assert all(name == " ".join(name.lower().split()) != "" for name in names.split("|")), names


def test_the_table_has_no_function_too_many():
    assert {handler for handler, _, _ in tables.rows("templates.tsv", 3)} == {*templates.MAKERS, *templates.FUNCTIONS}
