"""The templates that carry content, expanded to the words that a reader sees; all others are dropped.

`templates.tsv` says which handler a template has. A handler gets the template's arguments as plain text and returns
plain text. What English Wikipedia's template shows is the rule; what needs the clock (the age of a living person, the
current year) is left out, because two runs must give the same text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

from rag_ops.markup import tables
from rag_ops.markup.convert import expand_convert

Handler = Callable[[Sequence[str], Mapping[str, str]], str]  # positional arguments in order, and the named ones


class Raised(str):
    """What a template shows as a superscript: an exponent only behind a number."""


MONTHS = "January February March April May June July August September October November December".split()
ABBREVIATED = {"abbr": "on"}


def handler_of(name: str) -> Handler | None:
    """The handler of a template by its name as written in the page; None if the template carries no content.

    >>> handler_of("Template:Birth_date")(["1879", "3", "14"], {"df": "yes"})
    '14 March 1879'
    >>> handler_of("cite web") is None
    True
    """
    name = " ".join(name.replace("_", " ").split()).lower().removeprefix("template:").strip()
    if name.startswith("lang-"):
        return lambda positional, named: _at(positional, 0) or named.get("text", named.get("1", ""))
    if name.startswith("script/"):
        return _argument("1")
    if name.startswith("formatnum:"):
        return lambda positional, named: format_number(name.removeprefix("formatnum:"))
    return HANDLERS.get(name)


def format_number(text: str) -> str:
    """Groups a number's thousands and keeps its decimals; a text that is no number stays as it is.

    >>> format_number("1234567.25"), format_number("-5000"), format_number("n/a")
    ('1,234,567.25', '−5,000', 'n/a')
    """
    digits = text.strip().replace(",", "").replace("−", "-")
    if not re.fullmatch(r"-?\d+(\.\d+)?", digits):
        return text.strip()
    whole, point, decimals = digits.lstrip("-").partition(".")
    return ("−" if digits.startswith("-") else "") + f"{int(whole):,}{point}{decimals}"


def _at(positional: Sequence[str], place: int, default: str = "") -> str:
    return (positional[place].strip() if place < len(positional) else "") or default


def _filled(positional: Sequence[str]) -> list[str]:
    """The arguments that are not empty."""
    return [part.strip() for part in positional if part.strip()]


def _is_yes(argument: str | None) -> bool:
    return (argument or "").lower() in ("y", "yes", "true", "1", "on")


def _argument(number: str) -> Handler:
    """A handler that gives the argument of this number, by position or by name."""
    return lambda positional, named: _at(positional, int(number) - 1) or named.get(number, "")


def _ship(prefix: str) -> Handler:
    def handle(positional: Sequence[str], named: Mapping[str, str]) -> str:
        name, number, shown = (_at(positional, place) for place in range(3))
        if shown == "2":
            return name
        return f"{prefix} {name}".strip() + (f" ({number})" if number and shown != "6" else "")

    return handle


def _date(positional: Sequence[str], *, day_first: bool) -> str:
    year, month, day = (_at(positional, place) for place in range(3))
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
    return _date(positional, day_first=_is_yes(named.get("df")) and not _is_yes(named.get("mf")))


def _death_and_age(positional: Sequence[str], named: Mapping[str, str]) -> str:
    values = _filled(positional)
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
    died, born = _at(positional, 0), _at(positional, 1)
    if died.isdecimal() and born.isdecimal():
        return f"{died} (aged {int(died) - int(born) - 1}–{int(died) - int(born)})"
    return died


def _as_of(positional: Sequence[str], named: Mapping[str, str]) -> str:
    if named.get("alt"):
        return named["alt"]
    words = "since" if _is_yes(named.get("since")) else "as of"
    words = words if _is_yes(named.get("lc")) else words.capitalize()
    return f"{words} {_date(positional, day_first=True)}" + named.get("post", "")


def _fraction(positional: Sequence[str], named: Mapping[str, str]) -> str:
    parts = _filled(positional)[:3]
    if len(parts) < 2:
        return "".join(f"1/{part}" for part in parts)
    return " ".join([*parts[:-2], "/".join(parts[-2:])])


def _value(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{val}}: a number with its uncertainty, exponent and unit."""
    number, uncertainty, minus = (_at(positional, place) for place in range(3))
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
    return "×10^" + _at(positional, 0).replace("-", "−")


def _nihongo(positional: Sequence[str], named: Mapping[str, str]) -> str:
    english, japanese, reading, extra = (_at(positional, place) for place in range(4))
    inside = ", ".join(part for part in (japanese, reading, extra or named.get("extra", "")) if part)
    if not english:
        return f"{reading} ({japanese})" if reading and japanese else inside
    return f"{english} ({inside})" if inside else english


def _marriage(positional: Sequence[str], named: Mapping[str, str]) -> str:
    spouse, start, end = (_at(positional, place) for place in range(3))
    years = f"{start}–{end}" if start and end else start
    return f"{spouse} (m. {years})" if years else spouse


def _nuclide(positional: Sequence[str], named: Mapping[str, str]) -> str:
    element, mass = _at(positional, 0), _argument("2")(positional, named)
    return f"{element}-{mass}" if mass else element


def _sortable_date(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{dts}}: a date, as words or as numbers."""
    if len(positional) >= 2 and _at(positional, 0).isdecimal():
        return _plain_date(positional, named)
    return " ".join(_filled(positional))


def _quotation(positional: Sequence[str], named: Mapping[str, str]) -> str:
    text = _at(positional, 0) or named.get("text", named.get("quote", ""))
    author = named.get("author", named.get("sign", _at(positional, 1)))
    return f"{text} — {author}" if text and author else text


def _coordinates(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{coord|13|19|N|169|9|W}}: 13°19′N 169°9′W; nothing if it is shown in the page's corner alone."""
    if "inline" not in named.get("display", "inline").split(","):
        return ""
    groups: list[str] = []
    numbers: list[str] = []
    for part in _filled(positional):
        if part in ("N", "S", "E", "W"):
            groups.append("".join(number + mark for number, mark in zip(numbers, "°′″", strict=False)) + part)
            numbers = []
        elif re.fullmatch(r"[\d.]+", part):
            numbers.append(part)
    return " ".join(groups)


def _sic(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{sic|acco|modate}}: accommodate with its mistake, which editors part so that no spelling robot mends it."""
    parts = _filled(positional)
    word = "".join(part for part in parts if part != "?")
    mark = "[sic?]" if "?" in parts else "[sic]"
    return word if _is_yes(named.get("hide")) else f"{word} {mark}".strip()


def _above_below(named: Mapping[str, str]) -> str:
    return ("^" + named["p"] if named.get("p") else "") + named.get("b", "")


def _author_year(positional: Sequence[str], named: Mapping[str, str]) -> str:
    """{{harvtxt|Boolos|Jeffrey|1974}}: an author who is part of the sentence."""
    parts = _filled(positional)
    return f"{' & '.join(parts[:-1])} ({parts[-1]})" if len(parts) > 1 else "".join(parts)


def _population_density(positional: Sequence[str], named: Mapping[str, str]) -> str:
    population, area = (_at(positional, place).replace(",", "") for place in (0, 1))
    unit, other = _at(positional, 2, "km2"), _at(positional, 3, "sqmi")
    try:
        density = float(population) / float(area)
    except (ValueError, ZeroDivisionError):
        return ""
    digits = min(int(named["prec"]), 20) if named.get("prec", "").isdecimal() else (0 if density >= 100 else 1)
    arguments = [f"{density:.{digits}f}", "/" + unit, "/" + other] + ([str(digits)] if digits else [])
    return expand_convert(arguments, ABBREVIATED)


def _order_of_magnitude(positional: Sequence[str], named: Mapping[str, str]) -> str:
    try:
        number = Decimal(_at(positional, 0))
    except InvalidOperation:
        return _at(positional, 0)
    return f"{number:,f}" if number.is_finite() and abs(number.adjusted()) < 1000 else _at(positional, 0)


def _height(positional: Sequence[str], named: Mapping[str, str]) -> str:
    for unit in ("m", "cm"):
        if named.get(unit):
            return expand_convert([named[unit], unit, "ftin"], ABBREVIATED)
    return expand_convert([named["ft"], "ft", named.get("in", "0"), "in", "m"], ABBREVIATED) if named.get("ft") else ""


# What the first column of templates.tsv can say: handlers made for what the second column says,
MAKERS: dict[str, Callable[[str], Handler]] = {
    "always": lambda text: lambda positional, named: text,
    "argument": _argument,
    "before": lambda text: lambda positional, named: text + _at(positional, 0),
    "joined": lambda separator: lambda positional, named: separator.join(_filled(positional)),
    "last": lambda name: lambda positional, named: _at(positional[-1:], 0) or (name and named.get(name, "")),
    "number": lambda text: lambda positional, named: text + format_number(_at(positional, 0)),
    "pattern": lambda text: lambda positional, named: text.format("", _at(positional, 0), _at(positional, 1)).strip(),
    "ship": _ship,
}
# and the functions of this module, without their underscores.
FUNCTIONS: dict[str, Handler] = {
    "convert": expand_convert,
    "abbreviated_convert": lambda positional, named: expand_convert(positional, {**ABBREVIATED, **named}),
    "above_below": lambda positional, named: Raised(named.get("p", "")) if not named.get("b") else _above_below(named),
    "superscript": lambda positional, named: Raised(_at(positional, 0)),
    "circa": lambda positional, named: " – ".join(f"c. {date}" for date in _filled(positional[:2])) or "c.",
    "dental": lambda positional, named: "/".join(filter(None, (named.get("upper"), named.get("lower")))),
    "first_two": lambda positional, named: " ".join(_filled(positional[:2])),
    "link_elsewhere": lambda positional, named: named.get("lt") or named.get("display") or _at(positional, 0),
    **{
        function.__name__.lstrip("_"): function
        for function in (
            *(_as_of, _author_year, _coordinates, _death_and_age, _death_year_and_age, _fraction, _height, _marriage),
            *(_nihongo, _nuclide, _order_of_magnitude, _plain_date, _population_density, _quotation, _scientific),
            *(_sic, _sortable_date, _value),
        )
    },
}


def _handlers(rows: Iterable[Sequence[str]]) -> dict[str, Handler]:
    """The handlers by name; a name that stands there twice is an error, because one would override the other unseen."""
    table: dict[str, Handler] = {}
    for kind, detail, names in rows:
        handler = FUNCTIONS[kind] if kind in FUNCTIONS else MAKERS[kind](detail.replace(r"\n", "\n"))
        for name in names.split("|"):
            if name in table:
                raise ValueError(f"two handlers for the template {name!r}")
            table[name] = handler
    return table


HANDLERS = _handlers(tables.rows("templates.tsv", 3))
