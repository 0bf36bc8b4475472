"""Each family of templates; expectations written by hand from what a reader of Wikipedia sees."""

import pytest

from rag_ops.markup import tables, templates
from rag_ops.markup.languages import language
from rag_ops.markup.siteinfo import SiteInfo
from rag_ops.markup.wikitext import to_text


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("{{val|1234.5}}", "1,234.5"),
        (
            "{{yes}}, {{Yes|since 1990}}, {{no}}, {{n/a}}, {{N/A|none}}, {{TBA}}, {{won}}, {{nom}}",
            "Yes, since 1990, No, N/A, none, TBA, Won, Nominated",
        ),
        ("{{val|6.62|0.01|e=-34|u=J s}}", "(6.62 ± 0.01)×10^−34 J s"),
        ("{{val|299792458|u=m/s}}", "299,792,458 m/s"),
        ("{{val|50|u=%}}", "50%"),
        ("{{formatnum:1234567}}", "1,234,567"),
        ("{{formatnum:-1234.50}}", "−1,234.50"),
        ("{{frac|1|2}} and {{sfrac|3|4}} and {{frac|2|1|2}}", "1/2 and 3/4 and 2 1/2"),
        ("{{lang|fr|Liberté}}", "Liberté"),
        ("{{lang-de|Haus}}", "German: Haus"),
        ("{{lang-el|''Αθήνα''}}", "Greek: Αθήνα"),
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
    ("markup", "expected"),
    [
        (
            "({{langx|la|Roma}}; {{langx|grc|Ῥώμη|translit=Rhṓmē|lit=strength}})",
            "(Latin: Roma; Ancient Greek: Ῥώμη, romanized: Rhṓmē, lit. 'strength')",
        ),
        ("{{langx|fr|eau|label=none}}, {{lang-sr-Cyrl|вода}}, {{lang-xx|aqua}}", "eau, Serbian Cyrillic: вода, aqua"),
        (
            "{{zh|s=简|t=簡|p=jiǎn}} and {{zh|c=水|labels=no}}",
            "simplified Chinese: 简; traditional Chinese: 簡; pinyin: jiǎn and 水",
        ),
        ("{{nihongo|Water|水|mizu|lead=yes}}", "Water (Japanese: 水, Hepburn: mizu)"),
        ("1914{{endash}}18{{emdash}}a 4{{times}}4 of 20{{±}}1", "1914–18—a 4×4 of 20±1"),
        ("from {{stn|Leeds}} and {{rws|York}} to {{stl|MTR|Central}}", "from Leeds and York to Central"),
        (
            "{{currency|5&nbsp;million|EUR}}, {{currency|1200|SEK}}, {{A$|3000}}, {{INRConvert|5|c}}",
            "€5 million, SEK 1,200, A$3,000, ₹5 crore",
        ),
        ("E{{music|b}} in {{music|time|3|4}}", "E♭ in 3/4"),
        ("({{nee|Curie}}; {{literally|dawn}}; {{reign|1100|1135}})", "(née Curie; lit. 'dawn'; r. 1100–1135)"),
        (
            "{{coord|-33.8688|151.2093|display=inline,title}} {{coord|51.5|N|0.12|W}}",
            "33.8688°S 151.2093°E 51.5°N 0.12°W",
        ),
        ("in {{nhly|1998}}, {{nhly|1999}} and {{mlby|2001}}", "in 1998–99, 1999–2000 and 2001"),
        (
            "{{FRA}} {{flag|GER}} {{fb|BRA}} {{flagathlete|[[Li]]|CHN}} {{flagicon|CHN}}",
            "France Germany Brazil Li (CHN)",
        ),
        ("on the {{ordinal|3}}, {{ordinal|12}} and {{ordinal|21}}", "on the 3rd, 12th and 21st"),
        (
            "{{ESP}} {{esp|3}} {{SS|Great Britain}} {{Birth Date|1900|1|2}}",
            "Spain ×10^3 SS Great Britain January 2, 1900",
        ),
        ("{{VAL|1}} {{ss|x}} {{uss|x}}", ""),
        ("{{tiny|a}} {{font|b|color=red}} {{color|red|c}}", "a b c"),
    ],
)
def test_templates_of_english_wikipedia_of_today(markup, expected):
    assert to_text(markup) == expected


@pytest.mark.parametrize(
    ("code", "markup", "expected"),
    [
        (
            "fr",
            "{{unité|1234567|km}} et {{unité|9,8|m||s|-2}}, {{nombre|12000|âmes}}",
            "1 234 567 km et 9,8 m⋅s−2, 12 000 âmes",
        ),
        (
            "fr",
            "le {{date|1|1|1900}}, le {{Date de naissance|5|mai|1821}}, {{date-|mai 1968}}",
            "le 1er janvier 1900, le 5 mai 1821, mai 1968",
        ),
        (
            "fr",
            "{{s-|V|e}}, {{s2-|XI|e|XII|e}}, {{sp-|V|e|au|X|e}}, {{-s-|II|e}}, {{XIXe siècle}}, {{2e}}",
            "Ve siècle, XIe et XIIe siècles, Ve au Xe siècle, IIe siècle av. J.-C., XIXe siècle, 2e",
        ),
        ("fr", "{{heure|14|30}} {{lien|trad=Cheese|lang=en|Fromage}} {{citation|Oui}}", "14 h 30 Fromage « Oui »"),
        ("it", "{{q|Sì}} {{M|5|ul=km}} {{formatnum:1234.5}}", "«Sì» 5 1234,5"),
        (
            "es",
            "el {{siglo|V|a|s}} y el {{siglo|XX}}; {{unidad|12000|km}}; {{fecha|5|5|1950}}",
            "el siglo V a. C. y el XX; 12 000 km; 5 de mayo de 1950",
        ),
        ("pt", "{{séc|V}}, {{séc|X|XI}}, {{fmtn|56789}}", "século V, séculos X e XI, 56 789"),
        ("de", '{{"|Ja}} {{laS|aqua}} {{lang|en|water}} {{formatnum:12345.6}}', "„Ja“ lateinisch aqua water 12.345,6"),
        (
            "ru",
            "({{lang-en|London}}) {{нп5|Лондон||en|London}} {{число|12345}} {{до н. э.}}",
            "(англ. London) Лондон 12 345 до н. э.",
        ),
        ("uk", "{{lang-de|Wien}} {{нп|Відень|у Відні|de|Wien}}", "нім. Wien у Відні"),
        ("ja", "{{仮リンク|水|en|Water}}と{{読み仮名|水|みず}}（{{lang-en|water}}）", "水と水（みず）（英語: water）"),
        (
            "zh",
            "{{link-en|水|Water}}、{{tsl|en|Water|水|淡水}}、{{bd|1900年|1月|1950年|}}",
            "水、淡水、（1900年1月－1950年）",
        ),
        ("pl", "{{liczba|5000}}, {{liczba|50000}}, {{link-interwiki|Woda|Q=Q283}}", "5000, 50 000, Woda"),
        ("sv", "{{lang-en|water}} {{Citat|Ja}}", "engelska: water ”Ja”"),
        ("ltg", "{{lang-en|water}} {{nowrap|a b}} {{convert|5|km|mi}}x", "water a b x"),
        ("fr", "{{date|14|juillet|1789}}{{e|3}}{{frac|1|2}}", "14 juillet 1789e"),
    ],
)
def test_each_wiki_has_its_own_templates(code, markup, expected):
    assert to_text(markup, SiteInfo(code=code)) == expected


def test_pronunciations_are_kept_if_asked_for():
    page = "Paris ({{IPAc-en|ˈ|p|ær|ɪ|s}}; {{IPA|fr|paʁi|lang}}; {{IPA-fr|paʁi}}; {{IPA|/x/}}) is"
    assert to_text(page) == "Paris is"
    kept = "Paris (/ˈpærɪs/; [paʁi]; [paʁi]; /x/) is"
    assert to_text(page, SiteInfo(keep_ipa=True)) == kept


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


@pytest.mark.parametrize("code", ["en", "fr", "es", "ja", "ru", "zh"])
def test_no_handler_raises(code):
    """Each with odd arguments and odd names; all that fail are reported together."""
    failures = []
    handlers = templates._handlers_of(language(code))
    for name in handlers:
        for arguments in ([], [""], ["x"], ["1"] * 7, ["-"] * 3, ["０", "𝟙", "²"]):
            for named in ({}, {"1": "y", "df": "y", "e": "x", "u": "m", "p": "1"}):
                try:
                    given = handlers[name](arguments, named)
                except Exception as error:
                    failures.append(f"{name} {arguments} {named}: {error!r}")
                else:
                    failures += [] if isinstance(given, str) else [f"{name} {arguments} {named}: {given!r}"]
    assert not failures, f"{len(failures)} fail:\n" + "\n".join(failures)


def test_a_template_with_two_handlers_is_an_error_and_not_the_later_one():
    with pytest.raises(ValueError, match="two handlers for the template 'val'"):
        templates._handlers([["value", "", "val", ""], ["always", "C", "carbon|val", "en de"]], language("en"))


def test_every_row_of_the_table_says_what_its_handler_needs():
    for handler, detail, names, _ in tables.rows("templates.tsv", 4):
        assert (handler in templates.MAKERS) != (handler in templates.FUNCTIONS), handler
        assert not (handler in templates.FUNCTIONS and detail), f"{handler} takes no detail: {detail}"
        assert all(name == " ".join(name.split()) != "" for name in names.split("|")), names
        assert all(name[0] == name[0].lower() for name in names.split("|")), names


def test_the_table_has_no_function_too_many():
    assert {handler for handler, *_ in tables.rows("templates.tsv", 4)} == {*templates.MAKERS, *templates.FUNCTIONS}
