"""The templates that carry content, expanded to the words that a reader sees; all others are dropped.

`templates.tsv` says which handler a template has. A handler gets the template's arguments as plain text and returns
plain text. What English Wikipedia's template shows is the rule; what needs the clock (the age of a living person, the
current year) is left out, because two runs must give the same text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

from rag_ops.markup import abroad, speech, tables
from rag_ops.markup.arguments import Handler, Raised, argument, at, filled, is_yes
from rag_ops.markup.convert import expand_convert
from rag_ops.markup.languages import ENGLISH, Language, language
from rag_ops.markup.siteinfo import ENGLISH_SITE, SiteInfo

MONTHS = "January February March April May June July August September October November December".split()
TEMPLATE = 10  # the namespace
ANY = "*"  # in the table: wikis of any language
COUNTRIES = {code: name for codes, name in tables.rows("countries.tsv", 2) for code in codes.split()}
CURRENCIES = dict(tables.rows("currencies.tsv", 2))
_DEGREES = re.compile(r"[+\-−]?\d+\.\d+")
MUSIC = {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮", "n": "♮", "x": "𝄪", "bb": "𝄫"}
MUSIC |= {"doublesharp": "𝄪", "double sharp": "𝄪", "doubleflat": "𝄫", "double flat": "𝄫"}
RUPEE_WORDS = {"k": "thousand", "m": "million", "b": "billion", "t": "trillion"}
RUPEE_WORDS |= {"l": "lakh", "c": "crore", "lc": "lakh crore"}
ABBREVIATED = {"abbr": "on"}


def handler_of(name: str, site: SiteInfo = ENGLISH_SITE) -> Handler | None:
    """The handler of a template by its name as written in the page; None if the template carries no content.

    A name's first letter is the same in either case, and all letters are if the name has several words; a template
    that is no template of the wiki's language has no handler, even if another language has one of its name.

    >>> handler_of("Template:Birth_date")(["1879", "3", "14"], {"df": "yes"})
    '14 March 1879'
    >>> handler_of("cite web") is None, handler_of("ESP")([], {}), handler_of("Esp")(["6"], {})
    (True, 'Spain', '×10^6')
    >>> handler_of("formatnum:1234567", SiteInfo(code="de"))([], {})
    '1.234.567'
    """
    name = " ".join(name.replace("_", " ").split())
    language = site.language
    before, colon, behind = name.partition(":")
    if colon and before.lower() == "formatnum":
        return lambda positional, named: language.format_number(behind)
    if colon and site.namespaces.get(before.lower()) == TEMPLATE:
        name = behind.strip()
    if name[:5].lower() == "lang-":
        return speech.in_language(name[5:], language.code)
    if name[:7].lower() == "script/":
        return argument("1")
    table = _handlers_of(language)
    small = name[:1].lower() + name[1:]
    handler = table.get(small) or (table.get(small.lower()) if " " in small else None)
    if handler is None and (text := abroad.itself(name, language)) is not None:
        return lambda positional, named: text
    if handler is None and language.code == "de" and name.endswith("S") and speech.name_of(name[:-1], "de"):
        return speech.in_language(name[:-1], "de")  # {{laS|aqua}}: lateinisch aqua
    if handler is None and language.code == ENGLISH:
        return _english(name, keep_ipa=site.keep_ipa)
    return handler


def _english(name: str, *, keep_ipa: bool) -> Handler | None:
    """The handler of a template of English Wikipedia that no line of the table could name."""
    if (country := COUNTRIES.get(name)) is not None:
        return lambda positional, named: country
    if keep_ipa and name[:3] == "IPA":
        return speech.english_pronunciation if name == "IPAc-en" else speech.pronunciation
    return None


def _english_number(text: str) -> str:
    return language(ENGLISH).format_number(text)


def _season(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{nhly|1999}}: 1999–2000, a season over two years."""
    year, part = at(positional, 0), at(positional, 1)
    if not (year.isdecimal() and len(year) == 4):
        return year
    end = int(year) + 1
    if part in ("start", "end"):
        return year if part == "start" else str(end)
    return f"{year}–{end if end % 100 == 0 else f'{end % 100:02d}'}"


def _currency(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{currency|13 billion|USD}}: US$13 billion."""
    amount = at(positional, 0) or named.get("amount", "")
    code = (at(positional, 1) or named.get("type", "") or "USD").upper()
    return CURRENCIES.get(code, code + " ") + _english_number(amount)


def _rupees(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{INRConvert|5|c}}: ₹5 crore; the dollars behind it are of the day."""
    return " ".join(filled(["₹" + _english_number(at(positional, 0)), RUPEE_WORDS.get(at(positional, 1), "")]))


def _flag(positional: Sequence[str], named: Mapping[str, str]) -> str:
    country = at(positional, 0)
    return named.get("name") or COUNTRIES.get(country, country)


def _flag_and_athlete(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{flagathlete|Ada Li|CHN}}: Ada Li (CHN)."""
    name, country = at(positional, 0), at(positional, 1)
    return f"{name} ({country})" if country else name


def _ordinal(positional: Sequence[str], named: Mapping[str, str]) -> str:
    number = at(positional, 0)
    if not (number.isascii() and number.isdecimal()):
        return number
    ending = "th" if number[-2:] in ("11", "12", "13") else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th")
    return number + ending


def _music(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{music|flat}}: ♭; {{music|time|3|4}}: 3/4; of other signs nothing."""
    sign = at(positional, 0).lower()
    return "/".join(filled(positional[1:3])) if sign == "time" else MUSIC.get(sign, "")


def _reign(positional: Sequence[str], named: Mapping[str, str]) -> str:
    years = filled(positional[:2])
    return "r. " + "–".join(years) if years else ""


def _old_style(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{OldStyleDate|14|апреля|1891|2}}: 2 (14) апреля 1891, the day of the old calendar first."""
    day, month, year, old, old_month = (at(positional, place) for place in range(5))
    if old_month:
        return " ".join(filled([old, old_month, f"({day} {month})", year]))
    return " ".join(filled([old, f"({day})" if old else day, month, year]))


def _chinese_life(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{bd|1900年|1月1日|1980年|2月2日}}: （1900年1月1日－1980年2月2日）."""
    born, died = at(positional, 0) + at(positional, 1), at(positional, 2) + at(positional, 3)
    return f"（{born}－{died}）" if born or died else ""


def _ship(prefix: str) -> Handler:
    def handle(positional: Sequence[str], named: Mapping[str, str]) -> str:
        name, number, shown = (at(positional, place) for place in range(3))
        if shown == "2":
            return name
        return f"{prefix} {name}".strip() + (f" ({number})" if number and shown != "6" else "")

    return handle


def _date(positional: Sequence[str], *, day_first: bool) -> str:
    year, month, day = (at(positional, place) for place in range(3))
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


def _plain_date(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return _date(positional, day_first=is_yes(named.get("df")) and not is_yes(named.get("mf")))


def _death_and_age(positional: Sequence[str], named: Mapping[str, str]) -> str:
    values = filled(positional)
    half = len(values) // 2
    died, born = values[:half], values[half:]
    if len(died) not in (1, 3) or not all(part.isdecimal() for part in values):
        return _plain_date(positional, named)
    date = _plain_date(died, named)
    years = int(died[0]) - int(born[0])
    if len(died) == 1:
        return f"{date} (aged {years - 1}–{years})"
    before_birthday = (int(died[1]), int(died[2])) < (int(born[1]), int(born[2]))
    return f"{date} (aged {years - before_birthday})"


def _death_year_and_age(positional: Sequence[str], named: Mapping[str, str]) -> str:
    died, born = at(positional, 0), at(positional, 1)
    if died.isdecimal() and born.isdecimal():
        return f"{died} (aged {int(died) - int(born) - 1}–{int(died) - int(born)})"
    return died


def _as_of(positional: Sequence[str], named: Mapping[str, str]) -> str:
    if named.get("alt"):
        return named["alt"]
    words = "since" if is_yes(named.get("since")) else "as of"
    words = words if is_yes(named.get("lc")) else words.capitalize()
    return f"{words} {_date(positional, day_first=True)}" + named.get("post", "")


def _fraction(positional: Sequence[str], named: Mapping[str, str]) -> str:
    parts = filled(positional)[:3]
    if len(parts) < 2:
        return "".join(f"1/{part}" for part in parts)
    return " ".join([*parts[:-2], "/".join(parts[-2:])])


def _value(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{val}}: a number with its uncertainty, exponent and unit."""
    number, uncertainty, minus = (at(positional, place) for place in range(3))
    number = _grouped(number)
    exponent = named.get("e", "")
    unit = named.get("ul") or named.get("u", "")
    per = named.get("upl") or named.get("up", "")
    if uncertainty and minus:
        number = f"{number} +{uncertainty.lstrip('+')} −{minus.lstrip('-−')}"
    elif uncertainty:
        number = f"{number} ± {_grouped(uncertainty)}" if not uncertainty.startswith("(") else number + uncertainty
        number = f"({number})" if exponent or unit == "%" else number
    if exponent:
        number += _scientific([exponent], {})
    text = named.get("p", "") + number + named.get("s", "")
    if unit:
        text += ("" if unit in ("%", "°", "′", "″") else " ") + unit + (f"/{per}" if per else "")
    return text + named.get("end", "")


def _grouped(number: str) -> str:
    match = re.fullmatch(r"([+\-−]?)(\d+)(\.\d+)?(\(\d+\))?(?:e([+\-−]?\d+))?", number.replace(",", ""))
    if not match:
        return number
    sign, whole, decimals, bracket, exponent = match.groups(default="")
    text = sign.replace("-", "−") + f"{int(whole):,}" + decimals + bracket
    return text + (_scientific([exponent], {}) if exponent else "")


def _scientific(positional: Sequence[str], named: Mapping[str, str]) -> str:
    return "×10^" + at(positional, 0).replace("-", "−")


def _nihongo(positional: Sequence[str], named: Mapping[str, str]) -> str:
    english, japanese, reading, extra = (at(positional, place) for place in range(4))
    if is_yes(named.get("lead")):
        japanese, reading = japanese and f"Japanese: {japanese}", reading and f"Hepburn: {reading}"
    inside = ", ".join(part for part in (japanese, reading, extra or named.get("extra", "")) if part)
    if not english:
        return f"{reading} ({japanese})" if reading and japanese else inside
    return f"{english} ({inside})" if inside else english


def _marriage(positional: Sequence[str], named: Mapping[str, str]) -> str:
    spouse, start, end = (at(positional, place) for place in range(3))
    years = f"{start}–{end}" if start and end else start
    return f"{spouse} (m. {years})" if years else spouse


def _nuclide(positional: Sequence[str], named: Mapping[str, str]) -> str:
    element, mass = at(positional, 0), argument("2")(positional, named)
    return f"{element}-{mass}" if mass else element


def _sortable_date(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{dts}}: a date, as words or as numbers."""
    if len(positional) >= 2 and at(positional, 0).isdecimal():
        return _plain_date(positional, named)
    return " ".join(filled(positional))


def _quotation(positional: Sequence[str], named: Mapping[str, str]) -> str:
    text = at(positional, 0) or named.get("text", named.get("quote", ""))
    author = named.get("author", named.get("sign", at(positional, 1)))
    return f"{text} — {author}" if text and author else text


def _coordinates(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{coord|13|19|N|169|9|W}}: 13°19′N 169°9′W; nothing if it is shown in the page's corner alone."""
    if "inline" not in named.get("display", "inline").split(","):
        return ""
    groups: list[str] = []
    numbers: list[str] = []
    degrees: list[str] = []  # north and east, as decimals
    for part in filled(positional):
        if _DEGREES.fullmatch(part) and not groups and not numbers and len(degrees) < 2:
            degrees.append(part)
        elif part in ("N", "S", "E", "W"):
            numbers, degrees = degrees + numbers, []
            groups.append("".join(number + mark for number, mark in zip(numbers, "°′″", strict=False)) + part)
            numbers = []
        elif re.fullmatch(r"[\d.]+", part):
            numbers.append(part)
    if len(degrees) == 2 and not groups:
        north, east = (part.startswith(("-", "−")) for part in degrees)
        first, second = (part.lstrip("+-−") for part in degrees)
        return f"{first}°{'S' if north else 'N'} {second}°{'W' if east else 'E'}"
    return " ".join(groups)


def _sic(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{sic|acco|modate}}: accommodate with its mistake, which editors part so that no spelling robot mends it."""
    parts = filled(positional)
    word = "".join(part for part in parts if part != "?")
    mark = "[sic?]" if "?" in parts else "[sic]"
    return word if is_yes(named.get("hide")) else f"{word} {mark}".strip()


def _above_below(named: Mapping[str, str]) -> str:
    return ("^" + named["p"] if named.get("p") else "") + named.get("b", "")


def _author_year(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{harvtxt|Boolos|Jeffrey|1974}}: an author who is part of the sentence."""
    parts = filled(positional)
    return f"{' & '.join(parts[:-1])} ({parts[-1]})" if len(parts) > 1 else "".join(parts)


def _population_density(positional: Sequence[str], named: Mapping[str, str]) -> str:
    population, area = (at(positional, place).replace(",", "") for place in (0, 1))
    unit, other = at(positional, 2, "km2"), at(positional, 3, "sqmi")
    try:
        density = float(population) / float(area)
    except (ValueError, ZeroDivisionError):
        return ""
    digits = min(int(named["prec"]), 20) if named.get("prec", "").isdecimal() else (0 if density >= 100 else 1)
    arguments = [f"{density:.{digits}f}", "/" + unit, "/" + other] + ([str(digits)] if digits else [])
    return expand_convert(arguments, ABBREVIATED)


def _order_of_magnitude(positional: Sequence[str], named: Mapping[str, str]) -> str:
    try:
        number = Decimal(at(positional, 0))
    except InvalidOperation:
        return at(positional, 0)
    return f"{number:,f}" if number.is_finite() and abs(number.adjusted()) < 1000 else at(positional, 0)


def _height(positional: Sequence[str], named: Mapping[str, str]) -> str:
    for unit in ("m", "cm"):
        if named.get(unit):
            return expand_convert([named[unit], unit, "ftin"], ABBREVIATED)
    return expand_convert([named["ft"], "ft", named.get("in", "0"), "in", "m"], ABBREVIATED) if named.get("ft") else ""


# What the first column of templates.tsv can say: handlers made for what the second column says, and for a language,
MAKERS: dict[str, Callable[[str, Language], Handler]] = {
    "always": lambda text, _: lambda positional, named: text,
    "argument": lambda number, _: argument(number),
    "before": lambda text, _: lambda positional, named: text + at(positional, 0),
    "centuries": lambda detail, _: abroad.centuries(detail),
    "date": lambda _, language: abroad.date(language),
    "default": lambda text, _: lambda positional, named: at(positional, 0, text),
    "first_of": lambda names, _: abroad.first_of(names),
    "joined": lambda separator, _: lambda positional, named: separator.join(filled(positional)),
    "labelled": lambda detail, _: speech.labelled(detail),
    "language": lambda _, language: speech.language_of_argument(language.code),
    "last": lambda name, _: lambda positional, named: at(positional[-1:], 0) or (name and named.get(name, "")),
    "number": lambda text, language: lambda positional, named: text + abroad.number(language)(positional, named),
    "pattern": lambda text, _: lambda positional, named: text.format("", at(positional, 0), at(positional, 1)).strip(),
    "quantity": lambda _, language: abroad.quantity(language),
    "ship": lambda prefix, _: _ship(prefix),
}
# and the functions of this module, without their underscores.
FUNCTIONS: dict[str, Handler] = {
    "convert": expand_convert,
    "abbreviated_convert": lambda positional, named: expand_convert(positional, {**ABBREVIATED, **named}),
    "above_below": lambda positional, named: Raised(named.get("p", "")) if not named.get("b") else _above_below(named),
    "superscript": abroad.raised,
    "spanish_century": abroad.spanish_century,
    "portuguese_century": abroad.portuguese_century,
    "hours": abroad.hours,
    "circa": lambda positional, named: " – ".join(f"c. {date}" for date in filled(positional[:2])) or "c.",
    "dental": lambda positional, named: "/".join(filter(None, (named.get("upper"), named.get("lower")))),
    "first_two": lambda positional, named: " ".join(filled(positional[:2])),
    "link_elsewhere": lambda positional, named: named.get("lt") or named.get("display") or at(positional, 0),
    **{
        function.__name__.lstrip("_"): function
        for function in (
            *(_as_of, _author_year, _coordinates, _death_and_age, _death_year_and_age, _fraction, _height, _marriage),
            *(_nihongo, _nuclide, _order_of_magnitude, _plain_date, _population_density, _quotation, _scientific),
            *(_sic, _sortable_date, _value, _chinese_life, _currency, _flag, _flag_and_athlete, _old_style, _ordinal),
            *(_music, _reign, _rupees, _season),
        )
    },
}


def _handlers(rows: Iterable[Sequence[str]], language: Language) -> dict[str, Handler]:
    """The handlers of a language's wikis by name; those of any language are overridden by its own.

    A name that stands there twice is an error, because one would override the other unseen.
    """
    own: dict[str, Handler] = {}
    others: dict[str, Handler] = {}
    for kind, detail, names, languages in rows:
        table = others if languages == ANY else own
        if table is own and language.code not in (languages or ENGLISH).split():
            continue
        handler = FUNCTIONS[kind] if kind in FUNCTIONS else MAKERS[kind](detail.replace(r"\n", "\n"), language)
        for name in names.split("|"):
            if name in table:
                raise ValueError(f"two handlers for the template {name!r}")
            table[name] = handler
    return {**others, **own}


@functools.cache
def _handlers_of(language: Language) -> dict[str, Handler]:
    return _handlers(tables.rows("templates.tsv", 4), language)


HANDLERS = _handlers_of(language(ENGLISH))
