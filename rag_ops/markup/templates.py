"""The templates that carry content, expanded to the words that a reader sees; all others are dropped.

A handler gets the template's arguments as plain text and returns plain text. Names are lower case, underscores as
spaces. What English Wikipedia's template shows is the rule; what needs the clock (the age of a living person, the
current year) is left out, because two runs must give the same text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

from rag_ops.markup.convert import expand_convert

Handler = Callable[[Sequence[str], Mapping[str, str]], str]

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December",
)  # fmt: skip
ELEMENTS = {
    "H": "hydrogen", "C": "carbon", "N": "nitrogen", "O": "oxygen", "F": "fluorine", "Na": "sodium", "P": "phosphorus",
    "S": "sulfur", "Cl": "chlorine", "K": "potassium", "Ca": "calcium", "Br": "bromine", "I": "iodine",
}  # fmt: skip
_YES = ("y", "yes", "true", "1", "on")


def expand(name: str, positional: Sequence[str], named: Mapping[str, str]) -> str | None:
    """The text of a template, or None when it carries none and is dropped.

    Args:
        name: as written in the page, in any case.
        positional: arguments without a name, in order, plain text.
        named: the others.

    >>> expand("Birth date", ["1879", "3", "14"], {"df": "yes"})
    '14 March 1879'
    >>> expand("cite web", ["x"], {}) is None
    True
    """
    handler = HANDLERS.get(normalise(name)) or _by_prefix(normalise(name))
    return handler(positional, named) if handler else None


def is_known(name: str) -> bool:
    """Whether `expand` gives text for templates of this name."""
    name = normalise(name)
    return name in HANDLERS or _by_prefix(name) is not None


def normalise(name: str) -> str:
    """A template's name without case, underscores, outer spaces and the namespace.

    >>> normalise(" Template:Lang_fr ")
    'lang fr'
    """
    name = " ".join(name.replace("_", " ").split()).lower()
    return name.removeprefix("template:").strip()


def _by_prefix(name: str) -> Handler | None:
    if name.startswith("lang-"):
        return _last_of_first(0)
    if name.startswith("script/"):
        return _argument(0)
    if name.startswith("formatnum:"):
        return lambda positional, named: format_number(name.removeprefix("formatnum:"))
    return None


def format_number(text: str) -> str:
    """Thousands grouped, decimals as they are; what is no number stays.

    >>> format_number("1234567.25"), format_number("-5000"), format_number("n/a")
    ('1,234,567.25', '−5,000', 'n/a')
    """
    digits = text.strip().replace(",", "").replace("−", "-")
    if not re.fullmatch(r"-?\d+(\.\d+)?", digits):
        return text.strip()
    whole, point, decimals = digits.lstrip("-").partition(".")
    return ("−" if digits.startswith("-") else "") + f"{int(whole):,}{point}{decimals}"


def _at(positional: Sequence[str], place: int, default: str = "") -> str:
    return positional[place].strip() if place < len(positional) and positional[place].strip() else default


def _last(positional: Sequence[str]) -> str:
    return positional[-1].strip() if positional else ""


def _argument(place: int) -> Handler:
    """The argument at `place`, or the one named by its number."""
    return lambda positional, named: _at(positional, place) or named.get(str(place + 1), "").strip()


def _last_of_first(place: int) -> Handler:
    """The argument at `place`, else the named `text`, as the lang templates have it."""
    return lambda positional, named: _at(positional, place) or named.get("text", named.get(str(place + 1), "")).strip()


def _constant(text: str) -> Handler:
    return lambda positional, named: text


def _joined(separator: str) -> Handler:
    return lambda positional, named: separator.join(part.strip() for part in positional if part.strip())


def _date(year: str, month: str, day: str, *, day_first: bool) -> str:
    if month.isdecimal() and 1 <= int(month) <= 12:
        month = MONTHS[int(month) - 1]
    day = str(int(day)) if day.isdecimal() else day
    if not month:
        return year
    if not day:
        return f"{month} {year}".strip()
    if day_first:
        return f"{day} {month} {year}".strip()
    return f"{month} {day}, {year}" if year else f"{month} {day}"


def _day_first(named: Mapping[str, str]) -> bool:
    return named.get("df", "").strip().lower() in _YES and named.get("mf", "").strip().lower() not in _YES


def _plain_date(positional: Sequence[str], named: Mapping[str, str]) -> str:
    text = _date(_at(positional, 0), _at(positional, 1), _at(positional, 2), day_first=_day_first(named))
    return text if _at(positional, 1) or len(positional) < 2 else _at(positional, 0)


def _birth_year(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return _at(positional, 0)


def _death_and_age(positional: Sequence[str], named: Mapping[str, str]) -> str:
    values = [part.strip() for part in positional if part.strip()]
    half = len(values) // 2
    died, born = values[:half], values[half:]
    if len(died) not in (1, 3) or not all(part.isdecimal() for part in (*died, *born)):
        return _plain_date(positional[:3], named)
    date = _date(*([*died, "", ""][:3]), day_first=_day_first(named))
    years = int(died[0]) - int(born[0])
    if len(died) == 1:
        return f"{date} (aged {years - 1}–{years})"
    before_birthday = (int(died[1]), int(died[2])) < (int(born[1]), int(born[2]))
    return f"{date} (aged {years - before_birthday})"


def _death_year_and_age(positional: Sequence[str], named: Mapping[str, str]) -> str:
    died, born = _at(positional, 0), _at(positional, 1)
    if died.isdecimal() and born.isdecimal():
        return f"{died} (aged {int(died) - int(born) - 1}–{int(died) - int(born)})"
    return died


def _as_of(positional: Sequence[str], named: Mapping[str, str]) -> str:
    if named.get("alt"):
        return named["alt"].strip()
    words = "since" if named.get("since", "").lower() in _YES else "as of"
    words = words if named.get("lc", "").lower() in _YES else words.capitalize()
    date = _date(_at(positional, 0), _at(positional, 1), _at(positional, 2), day_first=True)
    return f"{words} {date}" + named.get("post", "")


def _circa(positional: Sequence[str], named: Mapping[str, str]) -> str:
    dates = [part.strip() for part in positional[:2] if part.strip()]
    return " – ".join(f"c. {date}" for date in dates) if dates else "c."


def _fraction(positional: Sequence[str], named: Mapping[str, str]) -> str:
    parts = [part.strip() for part in positional if part.strip()]
    if len(parts) == 1:
        return f"1/{parts[0]}"
    if len(parts) == 2:
        return f"{parts[0]}/{parts[1]}"
    return f"{parts[0]} {parts[1]}/{parts[2]}" if parts else ""


def _value(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{val}}: a number with its uncertainty, exponent and unit."""
    number = _grouped(_at(positional, 0))
    uncertainty, minus = _at(positional, 1), _at(positional, 2)
    exponent = named.get("e", "").strip()
    unit = (named.get("ul") or named.get("u") or "").strip()
    per = (named.get("upl") or named.get("up") or "").strip()
    if uncertainty and minus:
        number = f"{number} +{uncertainty.lstrip('+')} −{minus.lstrip('-−')}"
    elif uncertainty:
        number = f"{number} ± {_grouped(uncertainty)}" if not uncertainty.startswith("(") else number + uncertainty
        number = f"({number})" if exponent or unit == "%" else number
    if exponent:
        number += f"×10^{exponent.replace('-', '−')}"
    text = named.get("p", "") + number + named.get("s", "")
    if unit:
        text += ("" if unit in ("%", "°", "′", "″") else " ") + unit + (f"/{per}" if per else "")
    end = (named.get("end") or "").strip()
    return text + end


def _grouped(number: str) -> str:
    match = re.fullmatch(r"([+\-−]?)(\d+)(\.\d+)?(\(\d+\))?(?:e([+\-−]?\d+))?", number.replace(",", ""))
    if not match:
        return number
    sign, whole, decimals, bracket, exponent = match.groups()
    text = {"-": "−"}.get(sign, sign) + f"{int(whole):,}" + (decimals or "") + (bracket or "")
    return text + (f"×10^{exponent.replace('-', '−')}" if exponent else "")


def _scientific(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return f"×10^{_at(positional, 0).replace('-', '−')}"


def _superscript(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return "^" + _at(positional, 0)


def _nihongo(positional: Sequence[str], named: Mapping[str, str]) -> str:
    english, japanese, reading, extra = (_at(positional, place) for place in range(4))
    extra = extra or named.get("extra", "").strip()
    inside = ", ".join(part for part in (japanese, reading, extra) if part)
    if not english:
        return f"{reading} ({japanese})" if reading and japanese else inside
    return f"{english} ({inside})" if inside else english


def _formula(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{chem|H|2|O}}: symbols and their counts, run together."""
    return "".join(part.strip() for part in positional)


def _ship(prefix: str) -> Handler:
    def handle(positional: Sequence[str], named: Mapping[str, str]) -> str:
        name, number = _at(positional, 0), _at(positional, 1)
        shown = _at(positional, 2)
        if shown == "2":
            return name
        return " ".join(part for part in (prefix, name) if part) + (
            f" ({number})" if number and shown not in ("6",) else ""
        )

    return handle


def _any_ship(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return " ".join(part for part in (_at(positional, 0), _at(positional, 1)) if part)


def _marriage(positional: Sequence[str], named: Mapping[str, str]) -> str:
    spouse, start, end = (_at(positional, place) for place in range(3))
    years = f"{start}–{end}" if start and end else start
    return f"{spouse} (m. {years})" if years else spouse


def _nuclide(positional: Sequence[str], named: Mapping[str, str]) -> str:
    element = _at(positional, 0)
    mass = _at(positional, 1) or named.get("2", "").strip()
    return f"{element}-{mass}" if mass else element


def _number_of(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return format_number(_at(positional, 0))


def _order(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{dts}}: a date, as words or as numbers."""
    if len(positional) >= 2 and _at(positional, 0).isdecimal():
        return _plain_date(positional, named)
    return " ".join(part.strip() for part in positional if part.strip())


def _link_elsewhere(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return (named.get("lt") or named.get("display") or _at(positional, 0)).strip()


def _quotation(positional: Sequence[str], named: Mapping[str, str]) -> str:
    text = _at(positional, 0) or named.get("text", named.get("quote", "")).strip()
    author = named.get("author", named.get("sign", _at(positional, 1))).strip()
    return f"{text} — {author}" if text and author else text


def _spaces(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return " "


def _keys(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return "+".join(part.strip() for part in positional if part.strip())


def _money(symbol: str) -> Handler:
    return lambda positional, named: symbol + format_number(_at(positional, 0))


def _coordinates(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{coord|13|19|N|169|9|W}}: 13°19′N 169°9′W; nothing where it is shown in the page's corner alone."""
    if "inline" not in named.get("display", "inline").split(","):
        return ""
    groups: list[str] = []
    numbers: list[str] = []
    for part in positional:
        part = part.strip()
        if part in ("N", "S", "E", "W"):
            groups.append("".join(number + mark for number, mark in zip(numbers, "°′″", strict=False)) + part)
            numbers = []
        elif re.fullmatch(r"[\d.]+", part):
            numbers.append(part)
    return " ".join(groups)


def _sic(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{sic|acco|modate}}: accommodate with its mistake, which editors part so that no spelling robot mends it."""
    word = "".join(part.strip() for part in positional if part.strip() != "?")
    mark = "[sic?]" if any(part.strip() == "?" for part in positional) else "[sic]"
    return word if named.get("hide", "").lower() in _YES else f"{word} {mark}".strip()


def _bible(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return " ".join(part for part in (_at(positional, 0), _at(positional, 1)) if part)


def _author_year(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{harvtxt|Boolos|Jeffrey|1974}}: an author who is part of the sentence."""
    parts = [part.strip() for part in positional if part.strip()]
    return f"{' & '.join(parts[:-1])} ({parts[-1]})" if len(parts) > 1 else "".join(parts)


def _population_density(positional: Sequence[str], named: Mapping[str, str]) -> str:
    population, area = (_at(positional, place).replace(",", "") for place in (0, 1))
    unit, other = _at(positional, 2, "km2"), _at(positional, 3, "sqmi")
    try:
        density = float(population) / float(area)
    except (ValueError, ZeroDivisionError):
        return ""
    digits = min(int(named["prec"]), 20) if named.get("prec", "").isdecimal() else (0 if density >= 100 else 1)
    number = f"{density:.{digits}f}"
    arguments = [number, "/" + unit, "/" + other] + ([str(digits)] if digits else [])
    return expand_convert(arguments, {"abbr": "on"})


def _dental(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return "/".join(named[side] for side in ("upper", "lower") if named.get(side))


def _order_of_magnitude(positional: Sequence[str], named: Mapping[str, str]) -> str:
    try:
        number = Decimal(_at(positional, 0))
    except InvalidOperation:
        return _at(positional, 0)
    return f"{number:,f}" if number.is_finite() and abs(number.adjusted()) < 1000 else _at(positional, 0)


def _handlers() -> dict[str, Handler]:
    """The table; a name that stands in it twice is an error, because one handler would override the other unseen."""
    table: dict[str, Handler] = {}

    def add(names: str, handler: Handler) -> None:
        for name in names.split("|"):
            if name in table:
                raise ValueError(f"two handlers for the template {name!r}")
            table[name] = handler

    add("convert|conv", expand_convert)
    add("cvt", lambda positional, named: expand_convert(positional, {"abbr": "on", **named}))
    add("val", _value)
    add("frac|sfrac|fraction|sfraction", _fraction)
    add("lang|script|transl|transliteration", lambda p, n: _last(p) or n.get("text", ""))
    add(
        "nowrap|nobr|nobreak|nowiki|j|small|smaller|big|bigger|large|larger|resize|bold|b|italic|i|em|strong",
        lambda p, n: _last(p) or n.get("1", "").strip(),
    )
    add("angbr|angle bracket|vr|grapheme", lambda p, n: f"⟨{_at(p, 0)}⟩")
    add(
        "smallcaps|sc|sc2|small caps|vanchor|visible anchor|linktext|noitalic|nobold|normal",
        _argument(0),
    )
    add(
        "u|underline|tt|mono|code|kbd|key|var|samp|math|mvar|mathcal|big math|font|unicode|polytonic|grc|hebrew|arabic",
        _argument(0),
    )
    add("nastaliq|nq|native phrase|gaps|ruby|longitem", _argument(0))
    add("color|font color|colored link|background color", lambda p, n: _last(p))
    add("abbr|tooltip|abbrv|define|popup", _argument(0))
    add("h:title|hover title", _argument(1))
    add("as of|asof", _as_of)
    add("circa|c.|ca.|ca", _circa)
    add("approx", lambda p, n: "approx. " + _at(p, 0))
    add("floruit|fl.", lambda p, n: ("fl. " + _at(p, 0)).strip())
    add(
        "birth date|dob|start date|end date|film date|date|birth-date|start-date|launch date|birth date and age|bda|"
        "birth date and age2|start date and age|release date|end date and age|death date",
        _plain_date,
    )
    add("birth year and age|birth year|bya", _birth_year)
    add("death date and age|dda|death-date and age", _death_and_age)
    add("death year and age|dya", _death_year_and_age)
    add("age|ageyears|age in years", _constant(""))
    add("nihongo|nihongo3|nihongo krt|nihongo foot", _nihongo)
    add("nihongo2", _argument(0))
    add("chem|chem2|ce|chemical formula", _formula)
    add("quote|blockquote|quotation|cquote|bquote|centered quote|poemquote|rquote", _quotation)
    add("flag|flagcountry|flagu|flag country|flagcountry2", _argument(0))
    add("ill|interlanguage link|illm|ill2", _link_elsewhere)
    for prefix in (
        "USS",
        "HMS",
        "RMS",
        "SS",
        "MS",
        "MV",
        "HMAS",
        "HMCS",
        "SMS",
        "USCGC",
        "INS",
        "RV",
        "HNLMS",
        "ORP",
        "USNS",
    ):
        add(prefix.lower(), _ship(prefix))
    add("ship", _any_ship)
    add("sclass|sclass-|sclass2|sclass2-", lambda p, n: f"{_at(p, 0)}-class {_at(p, 1)}".strip())
    add("nts|number table sorting|formatnum|num|fnum|number", _number_of)
    add("dts|date table sorting", _order)
    add("sort", _argument(1))
    add("sortname", lambda p, n: f"{_at(p, 0)} {_at(p, 1)}".strip())
    add("e|esp|×10^", _scientific)
    add("sup|superscript", _superscript)
    add("sub|subscript", _argument(0))
    add("pow", lambda p, n: f"{_at(p, 0)}^{_at(p, 1)}")
    add("su", lambda p, n: "".join(part for part in ("^" + n["p"] if n.get("p") else "", n.get("b", ""))))
    add("keypress|key press|button", _keys)
    add("marriage|married", _marriage)
    add("simplenuclide|simplenuclide2|nuclide|nuclide2", _nuclide)
    add("hlist|cslist|comma separated entries", _joined(", "))
    add(
        "plainlist|flatlist|unbulleted list|ubl|ublist|vunblist|plain list|bulleted list|blist|ordered list|"
        "indented plainlist",
        _joined("\n"),
    )
    add("columns-list|column list", lambda p, n: _last(p))
    add("pipe|!", _constant("|"))
    add("=", _constant("="))
    add("mdash|em dash|—|mdashb", _constant("—"))
    add("snd|spaced ndash|spnd|spndash|spaced en dash|dash", _constant(" – "))
    add("spaced mdash|snds", _constant(" — "))
    add("ndash|en dash|–", _constant("–"))
    add("·|•|dot|middot|bullet|bull|∙", _constant(" · "))
    add(
        "nbsp|space|spaces|thinsp|thin space|hair space|zwsp|zwnj|nnbsp|ns|sp|shy|wbr|indent|in5|break|br|crlf", _spaces
    )
    add("'s", _constant("'s"))
    add("'", _constant("'"))
    add("' \"|'\"", _constant("'\""))
    add("\" '|\"'", _constant("\"'"))
    add("okina", _constant("ʻ"))
    add("ayin", _constant("ʿ"))
    add("hamza", _constant("ʾ"))
    add("sharp|music sharp", _constant("♯"))
    add("flat|music flat", _constant("♭"))
    add("us$|usd", _money("US$"))
    add("gbp|pound sterling|£", _money("£"))
    add("eur|euro|€", _money("€"))
    add("inr|indian rupee|₹", _money("₹"))
    add("coord|coor", _coordinates)
    add("bibleref|bibleverse|bibleref2|bibleverse2", _bible)
    add("harvtxt|harvtxt2", _author_year)
    add("us patent|us patent2", lambda p, n: "U.S. Patent " + format_number(_at(p, 0)))
    add("pop density|popdensity", _population_density)
    add("dentalformula|dental formula", _dental)
    add("eqm|equilibrium", _constant("⇌"))
    for symbol, element in ELEMENTS.items():
        add(element, _constant(symbol))
    add("order of magnitude", _order_of_magnitude)
    add("railgauge|track gauge|rail gauge", _argument(0))
    add("lsj", _argument(1))
    add("not a typo|typo|as written|not typo|notatypo", _joined(""))
    add("sic", _sic)
    add("url|official url|plain url", _constant(""))
    add("oldstyledate|old style date", lambda p, n: " ".join(x for x in (_at(p, 0), _at(p, 1)) if x))
    add("height", lambda p, n: _height(n))
    return table


def _height(named: Mapping[str, str]) -> str:
    if named.get("m"):
        return expand_convert([named["m"], "m", "ftin"], {"abbr": "on"})
    if named.get("cm"):
        return expand_convert([named["cm"], "cm", "ftin"], {"abbr": "on"})
    if named.get("ft"):
        return expand_convert([named["ft"], "ft", named.get("in", "0"), "in", "m"], {"abbr": "on"})
    return ""


HANDLERS = _handlers()
