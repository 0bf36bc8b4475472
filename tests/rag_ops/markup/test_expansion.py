"""Calls are expanded by the dump's templates as MediaWiki does, within bounds; apparatus stays out."""

import time

import pytest

from rag_ops.markup import expansion
from rag_ops.markup.expansion import Expander
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.markup.template_source import template_name, templates_of, transcluded
from rag_ops.markup.wikitext import to_text

LATVIAN = SiteInfo("ltgwiki", "ltg", {"taiss": 10, "fails": 6, "kategoreja": 14})

SOME_WIKI = SiteInfo()


def expand(markup, title="Nile", site=SOME_WIKI, **pages):
    """The expansion of a page by templates that are given by name."""
    templates = templates_of({f"Template:{name.replace('_', ' ')}": text for name, text in pages.items()}, site)
    return Expander(templates, site).expand(markup, title).wikitext


@pytest.mark.parametrize(
    ("call", "template", "expected"),
    [
        ("{{t|a|b}}", "{{{1}}}-{{{2}}}-{{{3|c}}}-{{{4|}}}", "a-b-c-"),
        ("{{t| a |n= b }}", "<{{{1}}}><{{{n}}}>", "< a ><b>"),
        ("{{t|a|1=b}}", "{{{1}}}", "b"),
        ("{{t|2=b}}", "{{{1|x}}}{{{2}}}", "xb"),
        ("{{t|n=}}", "{{{n|x}}}|{{{m|y}}}", "|y"),
        ("{{t|a}}", "{{{{{1}}}|{{{2|}}}}}", ""),
        ("{{t}}", "a<noinclude>b</noinclude><includeonly>c</includeonly><!-- d -->", "ac"),
        ("{{t}}", "a<onlyinclude>b</onlyinclude>c<onlyinclude>d</onlyinclude>", "bd"),
        ("{{t|[[a|b]]}}", "{{{1}}}", "[[a|b]]"),
        ("{{t|a=b}}", "{{{1|none}}}", "none"),
        ("{{t|1=a=b}}", "{{{1}}}", "a=b"),
        ("{{t|<nowiki>|}}</nowiki>}}", "({{{1}}})", "(<nowiki>|}}</nowiki>)"),
        ("x {{t}}", "* a", "x \n* a"),
        ("x\n{{t}}", "* a", "x\n* a"),
        ("{{ t }}", "y", "y"),
        ("{{T}} {{template:t}} {{Template:_t_}}", "y", "y y y"),
        ("{{subst:t}}", "y", "y"),
        ("{{t}}", "{{{1}}} is not given", " is not given"),
        ("{{t}}", "{{missing}}.", "."),
        ("{{t}}", "{{{{PAGENAME}}|x}}", ""),
    ],
)
def test_arguments_and_what_is_transcluded(call, template, expected):
    assert expand(call, t=template) == expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("{{#if: x | yes | no }}{{#if: | yes | no }}", "yesno"),
        ("{{#if:x}}{{#if:|y}}", ""),
        ("{{#ifeq: 1.0 | 01 | same | other }} {{#ifeq:a|A|same|other}}", "same other"),
        ("{{#ifexpr: 2 > 1 | a | b }}{{#ifexpr: 2 < 1 | a | b }}{{#ifexpr:||b}}", "abb"),
        ("{{#iferror: {{#expr: 1/0}} | bad | good }} {{#iferror: {{#expr:1/2}} | bad }}", "bad 0.5"),
        ("{{#ifexist: Nile | a | b}}", "b"),
        ("{{#switch: b | a = 1 | b | c = 2 | d = 3 }}", "2"),
        ("{{#switch: x | a = 1 | #default = 2 | b = 3 }}", "2"),
        ("{{#switch: x | a = 1 | 5 }} {{#switch: x | a = 1 }}", "5 "),
        ("{{#switch: {{lc:A}} | A = 1 | a = 2 }}", "2"),
        ("{{lc:ÀB}}{{uc:àb}}{{lcfirst:AB}}{{ucfirst:ab}}", "àbÀBaBAb"),
        ("{{formatnum:1234567.5}} {{formatnum:1,234|R}} {{formatnum:1234|NOSEP}}", "1,234,567.5 1234 1234"),
        ("{{padleft:7|3}} {{padleft:7|3|ab}} {{padright:7|4|0}} {{padleft:7|x}} {{padleft:7|3|}}", "007 ab7 7000 7 7"),
        ("{{urlencode:a b/c}} {{urlencode:a b|WIKI}} {{urlencode:a b|PATH}}", "a+b%2Fc a_b a%20b"),
        ("{{anchorencode:''a'' [[b|c d]]}}", "a_c_d"),
        ("{{#len:Žan}} {{#pos:abcb|b}} {{#rpos:abcb|b}} {{#sub:abcdef|1|3}} {{#sub:abcdef|-2}}", "3 1 3 bcd ef"),
        ("{{#replace:a-b-c|-|+}} {{#explode:a,b,c|,|1}} {{#explode:a,b,c|,|-1}} {{#count:banana|a}}", "a+b+c b c 3"),
        ("{{#titleparts:A/b/c|2}} {{#titleparts:A/b/c||2}} {{#titleparts:A/b/c|-1}}", "A/b b/c A/b"),
        ("{{plural:1|one|many}} {{plural:3|one|many}} {{plural:0|0=none|one|many}}", "one many none"),
        ("{{#time:j F Y|2009-05-14}} {{#time:Y|14 May 1999 + 2 years}}", "14 May 2009 2001"),
        ("{{#time:l, d M y|May 4, 2021}} {{#iferror:{{#time:Y|no date}}|bad|good}}", "Tuesday, 04 May 21 bad"),
        ("{{ns:1}} {{ns:user_TALK}} {{ns:0}}", "Talk User talk "),
        ("{{PAGENAME}} {{FULLPAGENAMEE}} {{NAMESPACE}}{{BASEPAGENAME}}", "White Nile/Map White_Nile/Map White Nile"),
        ("{{#tag:nowiki|a|b}} x{{#tag:ref|y}}z", "<nowiki>a</nowiki> xz"),
        ("{{DEFAULTSORT:Nile, White}}{{fullurl:Nile|action=edit}}", ""),
        ("{{int:comma-separator}}{{int:edit}}", ", "),
        ("{{#if:{{{1}}}|given|not}}", "given"),
        ("{{{1|a {{uc:b}}}}}", "a B"),
        ("{{#if:x|a{{!}}b{{=}}c}}", "a|b=c"),
    ],
)
def test_parser_functions(call, expected):
    assert expand(call, "White Nile/Map") == expected


@pytest.mark.parametrize(
    "call",
    [
        "{{CURRENTYEAR}}",
        "{{#time:Y}}",
        "{{#time:Y|now}}",
        "{{#expr:{{CURRENTYEAR}}-1950}}",
        "{{#if:{{#property:P1}}|a}}",
    ],
)
def test_what_only_the_clock_or_a_database_knows_is_not_made_up(call):
    assert expand(call) == call
    assert to_text(expand("aged {{age}}", age=f"about {call}")) == "aged"


def test_a_call_that_meets_lua_is_left_to_the_handlers():
    pages = {
        "birth_date": "{{#invoke:Dates|birth|{{{1}}}}}",
        "born": "born {{birth date|{{{1}}}|3|14}}",
        "either": "{{#if:{{{1|}}}|{{{1}}}|{{#invoke:A|b}}}}",
        "lost": "{{#invoke:A|b}}",
        "loses": "c{{lost}}",
    }
    assert to_text(expand("{{birth date|1879|3|14}}", **pages)) == "March 14, 1879"
    assert to_text(expand("Einstein, {{born|1879}}.", **pages)) == "Einstein, born March 14, 1879."
    assert expand("{{either|x}} {{either}} {{lost}} {{loses}}", **pages) == "x {{either}} {{lost}} {{loses}}"


def test_a_handler_comes_first_in_the_wiki_that_it_is_of_and_last_elsewhere():
    page = {"bullet": "* {{{1|item}}}"}
    assert expand("a {{bullet}}", site=SiteInfo("enwiki"), **page) == "a {{bullet}}"
    assert expand("a {{bullet}}", site=SiteInfo("xwiki"), **page) == "a \n* item"


def test_arguments_of_a_handlers_call_are_expanded_and_do_not_part_it():
    pages = {"two": "a{{!}}b=c", "outer": "{{nowrap|{{two}} {{{1}}}}}"}
    assert to_text(expand("x {{nowrap|{{two}}}} y", **pages)) == "x a∣b=c y"
    assert to_text(expand("x {{outer|[[d|e]]}} y", **pages)) == "x a∣b=c e y"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{| class=x\n| a table\n|}", "Text."),
        ("<table><tr><td>a</td></tr></table>", "Text."),
        ('<div class="box">A box of words.</div>', "Text."),
        ("<div style='x'>A plain block.</div>", "A plain block.\nText."),
        ("[[Nile]] · [[White Nile|White]] · [https://nile.example river]", "Text."),
        ("[[Nile]]", "Nile\nText."),
        ("[[File:A.png|thumb|A caption of words]][[Category:Rivers]]", "Text."),
        (":''This is about a river.''", "This is about a river.\nText."),
    ],
)
def test_a_call_alone_on_its_lines_is_kept_unless_it_is_apparatus(template, expected):
    assert to_text(expand("{{t}}\nText.", t=template)) == expected


def test_a_box_is_known_by_a_template_that_it_calls_and_is_not_expanded(monkeypatch):
    pages = {"box": "<div class=b>{{{1}}}</div>{{count}}", "outer": "{{box|a}}[[Category:X]]", "loop": "{{loop}}a"}
    pages |= {"count": "x", "maybe": "{{#if:{{{1|}}}|{{box|b}}|prose}}"}
    assert expand("{{outer}} {{maybe}} {{maybe|1}} {{loop}}", **pages) == "{{outer}} prose {{maybe|1}} {{loop}}"
    monkeypatch.setattr(expansion, "MAX_NODES", 0)
    assert expand("{{outer}}", **pages) == "{{outer}}"


def test_links_alone_are_prose_within_a_sentence_and_a_table_is_not():
    assert to_text(expand("See {{t}}.", t="[[Nile]], [[Congo]]")) == "See Nile, Congo."
    assert to_text(expand("{{t}}'''Nile''' is a river.", t="{|\n| a\n|}")) == "Nile is a river."


def test_a_table_whose_ends_are_two_templates_goes_with_what_stands_between():
    assert to_text(expand("{{top}}\n| a\n{{end}}\nText.", top="{|", end="|}")) == "Text."


def test_nothing_of_an_expansion_is_taken_for_another_call():
    assert "{{" not in expand("{{t|{}}", t="{{{1}}}{t}}", u="x")
    assert expand("\ue0100\ue011 {{t}}", t="<nowiki>a</nowiki>\ue0100\ue011") == "0 <nowiki>a</nowiki>0"


def test_a_template_that_says_so_makes_a_disambiguation_page_also_through_a_redirect():
    pages = {
        "Taiss:Zeimeibys": "{{#ifeq:{{NAMESPACE}}||__DISAMBIG__}}",
        "Taiss:Zeim": "#REDIRECT [[Taiss:Zeimeibys]]",
        "Taiss:Cyts": "__NOTOC__",
    }
    expander = Expander(templates_of(pages, LATVIAN), LATVIAN)
    found = [expander.expand(f"A{{{{{name}}}}}").disambiguates for name in ("zeimeibys", "Zeim", "cyts", "Taiss:zeim")]
    assert found == [True, True, False, True]


def test_where_the_case_of_the_first_letter_counts_two_templates_may_differ_by_it():
    site = SiteInfo("xwiktionary", case_sensitive=True)
    assert expand("{{x|1}} {{X|1}}", site=site, x="small {{{1}}}", X="great {{{1}}}") == "small 1 great 1"


def test_numbers_are_those_of_the_wikis_language():
    german = SiteInfo("dewiki", "de")
    assert expand("{{formatnum:1234.5}} {{formatnum:1.234,5|R}}", site=german, t="") == "1.234,5 1234.5"
    assert expand("{{plural:1.000|eins|viele}}", site=german, t="") == "viele"


def test_pronunciations_are_expanded_only_if_they_are_wanted():
    for keep_ipa, expected in ((False, "a {{IPA-de|b}}"), (True, "a [b]")):
        site = SiteInfo("dewiki", "de", keep_ipa=keep_ipa)
        assert expand("a {{IPA-de|b}}", site=site, **{"IPA-de": "[{{{1}}}]"}) == expected


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Infobox_river", "Infobox river"),
        ("  infobox   river ", "Infobox river"),
        ("taiss:infobox", "Infobox"),
        ("Template:Infobox", "Infobox"),
        ("Vīta: upe", "Vīta: upe"),
        ("a#b", "A"),
        (":Nile", None),
        ("Kategoreja:Upis", None),
        ("a[b", None),
        ("", None),
        ("x" * 300, None),
    ],
)
def test_names_of_templates(title, name):
    assert template_name(title, LATVIAN) == name


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("a<noinclude>b", "a"),
        ("a<noinclude />b", "ab"),
        ("a<!-- <noinclude> -->b", "a<!-- <noinclude> -->b"),
        ("<nowiki><noinclude></nowiki>a", "<nowiki><noinclude></nowiki>a"),
        ("<ONLYINCLUDE>a</ONLYINCLUDE>b", "a"),
    ],
)
def test_what_is_transcluded(page, text):
    assert transcluded(page) == text


BOMB = {f"b{n}": f"{{{{b{n + 1}|{{{{{{1}}}}}}}}}}" * 10 for n in range(20)}


@pytest.mark.parametrize(
    ("call", "pages"),
    [
        ("{{b0|x}}", {**BOMB, "b20": "{{{1}}}" * 10}),
        ("{{d|" * 12 + "x" + "}}" * 12, {"d": "{{{1}}}" * 50}),
        ("{{loop}}", {"loop": "a{{loop}}"}),
        ("{{one}}", {"one": "{{two}}", "two": "{{one}}"}),
        ("{{a0}}", {f"a{n}": f"{{{{a{n + 1}}}}}" for n in range(300)}),
        ("{{s|0}}", {"s": "{{#switch:x|" + "|".join(f"y{n}" for n in range(2000)) + "}}" * 1}),
        ("{{n}}", {"n": "{{#if:x|" * 90 + "y" + "}}" * 90}),
        ("{{p}}" * 3000, {"p": "{{padleft:x|500}}" * 100}),
        ("{{r}}", {"r": "{{#replace:" + "a" * 1000 + "|a|" + "b" * 1000 + "}}"}),
        ("{{u}}", {"u": "{{{" * 5000}),
        ("{{l}}", {"l": "[[" * 5000 + "{{l2" * 5000}),
    ],
)
def test_a_hostile_template_costs_bounded_time_and_memory(call, pages):
    started = time.process_time()
    text = expand(f"Before {call} after.", **pages)
    assert text.startswith("Before ")
    assert text.endswith(" after.")
    assert len(text) < 3 * expansion.MAX_CHARS
    assert time.process_time() - started < 10


def test_pages_after_a_hostile_one_are_expanded_as_ever():
    site = SiteInfo()
    pages = {**{f"Template:{name}": text for name, text in BOMB.items()}, "Template:t": "fine"}
    expander = Expander(templates_of(pages, site), site)
    assert [expander.expand(page).wikitext for page in ("a {{b0|x}} {{t}}", "a {{t}}")] == [
        "a {{b0|x}} {{t}}",
        "a fine",
    ]
