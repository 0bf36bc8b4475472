"""{{convert}}: parameters to the words that a reader sees, as English Wikipedia's Module:Convert writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from rag_ops.markup.units import COMPOSITES, UNITS, Unit, convert, format_number, precision, significant_digits

RANGES = {
    "-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "by": " by ", "x": " by ", "×": " × ", "xx": " × ",
    "to(-)": " to ", "to-": " to ", "to about": " to about ", "+/-": " ± ", "±": " ± ", "+": " + ", ",": ", ",
    "&": " and ", "and(-)": " and ", "or(-)": " or ", "between": " and ",
}  # fmt: skip
_TOGETHER = {  # how the input and the outputs stand together, by the parameter "disp"
    **{"or": "{} or {}", "comma": "{}, {}", "sqbr": "{} [{}]", "[]": "{} [{}]"},
    **dict.fromkeys(("x", "slash", "/"), "{}/{}"),
}
MAX_WORD_CHARS = 200  # no number and no unit is as long; the patterns below try a number's every cut
_NUMBER = re.compile(r"[+\-−]?(?:\d[\d,]*)?\.?\d*(?:e[+\-−]?\d+)?$", re.IGNORECASE)
_DIGITS = re.compile(r"[+\-−]?\d+")  # how many the result is to have
_FRACTION = re.compile(r"([+\-−]?)(?:(\d[\d,]*)\s*[+ ]\s*)?(\d+)\s*/{1,2}\s*(\d+)$")


def expand_convert(arguments: Sequence[str], named: Mapping[str, str]) -> str:
    """The text of {{convert|...}}.

    An unknown unit gives the value with the unit's code, never a hole.

    >>> expand_convert(["8848", "m", "ft"], {})
    '8,848 metres (29,029 ft)'
    >>> expand_convert(["26", "mi"], {"adj": "on"})
    '26-mile (42 km)'
    >>> expand_convert(["3", "to", "5", "km"], {"abbr": "on"})
    '3 to 5 km (1.9 to 3.1 mi)'
    """
    words = [argument.strip() for argument in arguments]
    parsed = None if any(len(word) > MAX_WORD_CHARS for word in words) else _split(words)
    if parsed is None:
        return " ".join(word for word in words[:2] if word)
    numbers, separator, code, rest = parsed
    flip = "flip" in (named.get("order"), named.get("disp"))
    shown_first = dict(named) if flip else named
    if flip:  # what is computed stands first, spelled out; the input in brackets, abbreviated
        named, shown_first = {"abbr": "off", **named}, {**named, "abbr": named.get("abbr", "on")}
    source = UNITS.get(code)
    shown = separator.join(map(_shown, numbers))
    values = [value for value in map(_value, numbers) if value is not None]
    if source is None or len(values) < len(numbers):
        return f"{shown} {code}".strip()
    second = _second_part(rest, source)
    if second is not None:
        return _multipart(numbers[0], source, second, rest[2:], named)
    targets, rest = _targets(rest, source, values[0])
    digits = rest[0] if rest and _DIGITS.fullmatch(rest[0]) else named.get("round_to")
    outputs = [_output(numbers, values, separator, source, target, digits, named) for target in targets]
    return _assemble(_input(shown, values[-1], source, shown_first), [text for text in outputs if text], named)


def _split(words: Sequence[str]) -> tuple[list[str], str, str, list[str]] | None:
    """Splits arguments into numbers, the word between the first two, a unit's code and the rest; None without one."""
    numbers, place = list(words[:1]), 1
    while place + 1 < len(words) and words[place] in RANGES and _value(words[place + 1]) is not None:
        numbers.append(words[place + 1])
        place += 2
    if place >= len(words):
        return None
    return numbers, RANGES.get(words[1], ""), words[place], list(words[place + 1 :])


def _value(number: str) -> float | None:
    number = number.replace("&minus;", "−").strip()
    if match := _FRACTION.match(number):
        sign, whole, top, bottom = match.groups()
        if int(bottom) == 0:
            return None
        value = int((whole or "0").replace(",", "")) + int(top) / int(bottom)
        return -value if sign in ("-", "−") else value
    if not number or not _NUMBER.match(number):
        return None
    try:
        value = float(number.replace(",", "").replace("−", "-"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _shown(number: str) -> str:
    """The input as a reader sees it: grouped, with a real minus sign, a fraction as it is written."""
    if _FRACTION.match(number):
        return re.sub(r"\s*\+\s*", " ", number.replace("//", "/")).replace("-", "−")
    if not re.fullmatch(r"[+\-−]?\d[\d,]*\.?\d*", number):
        return number.replace("-", "−")
    sign = "−" if number[0] in "-−" else ""
    whole, point, decimals = number.lstrip("+-−").replace(",", "").partition(".")
    grouped = f"{int(whole):,}" if len(whole) > 3 else whole
    return sign + grouped + point + decimals


def _targets(rest: list[str], source: Unit, value: float = 0.0) -> tuple[list[str], list[str]]:
    """Codes of the output units, and what follows them; metres are feet and inches below 3, as people are measured."""
    if rest and rest[0] and not _DIGITS.fullmatch(rest[0]):
        codes = [rest[0]] if rest[0] in UNITS or rest[0] in COMPOSITES else rest[0].split()
        return codes, rest[1:]
    default = "ft" if source.default == "ftin" and not 0 < value < 3 else source.default
    return [code.replace("_", " ") for code in default.split()], [word for word in rest if word]


def _second_part(rest: Sequence[str], source: Unit) -> tuple[str, Unit] | None:
    """The second number and unit of 6 ft 2 in."""
    if len(rest) >= 2 and _value(rest[0]) is not None and rest[1] in UNITS:
        unit = UNITS[rest[1]]
        if unit.kind == source.kind and unit.scale < source.scale and source.symbol in ("ft", "lb", "st", "mi", "yd"):
            return rest[0], unit
    return None


def _multipart(number: str, source: Unit, second: tuple[str, Unit], rest: list[str], named: Mapping[str, str]) -> str:
    value, small = _value(number) or 0.0, _value(second[0]) or 0.0
    total = value * source.scale + small * second[1].scale
    targets, rest = _targets(rest, UNITS["in"] if second[1].symbol == "in" else second[1])
    if not rest and targets == ["mm"]:
        targets = ["m"]
    outputs = []
    for code in targets:
        if (target := UNITS.get(code)) is None or target.kind != source.kind:
            continue
        converted = total / target.scale
        if rest and re.fullmatch(r"-?\d+", rest[0]):
            digits = int(rest[0])
        else:  # one more digit than the smaller unit gives by itself, as the module does for feet and inches
            own = precision(second[0], small or 1.0, (small or 1.0) * second[1].scale / target.scale, second[1], target)
            digits = max(own if target.scale < 1 else 2, significant_digits(converted, 2))
        outputs.append(f"{format_number(converted, digits)} {target.symbol}")
    short = named.get("abbr") in ("on", "in")
    if named.get("adj") == "on":
        shown = f"{_shown(number)}-{source.name}-{_shown(second[0])}-{second[1].name}"
    elif short:
        shown = f"{_shown(number)} {source.symbol} {_shown(second[0])} {second[1].symbol}"
    else:
        shown = f"{_shown(number)} {_name(source, value, named)} {_shown(second[0])} {_name(second[1], small, named)}"
    return _assemble(shown, outputs, named)


def _output(
    numbers: Sequence[str],
    values: Sequence[float],
    separator: str,
    source: Unit,
    code: str,
    digits: str | None,
    named: Mapping[str, str],
) -> str:
    if code in COMPOSITES and UNITS[COMPOSITES[code][0]].kind == source.kind:
        return separator.join(_composite(value, source, code, named) for value in values)
    target = UNITS.get(code)
    if target is None or target.kind != source.kind:
        return ""
    results = [convert(value, source, target) for value in values]
    step = {"5": 5, "25": 25, "50": 50}.get(named.get("round", ""))
    texts = []
    for number, value, result in zip(numbers, values, results, strict=True):
        if digits is not None:
            place = int(digits.replace("−", "-"))
        elif (figures := named.get("sigfig", "")).isdecimal() and int(figures) > 0:
            place = significant_digits(result, int(figures))
        else:
            written = number.replace(",", "")
            if match := _FRACTION.match(number):  # a fraction counts as so many digits as its denominator is worth
                written = "0." + "0" * max(round(math.log10(int(match[4]))), 1)
            place = precision(written, value, result, source, target)
        texts.append(format_number(round(result / step) * step, 0) if step else format_number(result, place))
    if len(set(texts)) == 1 and len(texts) == 2 and separator in (" to ", "–"):
        texts = texts[:1]
    joined = separator.join(texts)
    spelled = named.get("abbr", "off" if named.get("disp") == "or" else "") in ("off", "none", "in")
    if named.get("disp") == "number" or named.get("abbr") == "values":
        return joined
    return joined + _space(target) + (_name(target, results[-1], named) if spelled else target.symbol)


def _composite(value: float, source: Unit, code: str, named: Mapping[str, str]) -> str:
    big, small, ratio = COMPOSITES[code]
    count = round(value * source.scale / UNITS[small].scale)
    first, second = divmod(abs(count), ratio)
    sign = "−" if count < 0 else ""
    if named.get("abbr") in ("off", "none"):
        return f"{sign}{first} {_name(UNITS[big], first, named)} {second} {_name(UNITS[small], second, named)}"
    return f"{sign}{first:,} {big} {second} {small}" if first else f"{sign}{second} {small}"


def _input(shown: str, value: float, source: Unit, named: Mapping[str, str]) -> str:
    abbreviation = named.get("abbr", "out")
    if abbreviation == "values" or named.get("disp") == "number":
        return shown
    if named.get("adj") in ("on", "mid", "pre") and not source.kind.startswith("temperature"):
        hyphenated = source.name.replace(" ", "-") if not source.name.startswith("square") else source.name
        if abbreviation in ("on", "in"):
            return f"{shown} {source.symbol}"
        return f"{shown}-{_spelling(hyphenated, named)}"
    if abbreviation in ("on", "in") or (source.kind.startswith("temperature") and abbreviation != "off"):
        return shown + _space(source) + source.symbol
    if abbreviation == "~":
        return f"{shown} {_name(source, value, named)} [{source.symbol}]"
    return shown + " " + _name(source, value, named)


def _space(unit: Unit) -> str:
    return "" if unit.symbol.startswith("/") else " "


def _name(unit: Unit, value: float, named: Mapping[str, str]) -> str:
    return _spelling(unit.name if abs(value) == 1 or named.get("adj") == "on" else unit.plural, named)


def _spelling(name: str, named: Mapping[str, str]) -> str:
    if named.get("sp") == "us":
        return name.replace("metre", "meter").replace("litre", "liter")
    return name


def _assemble(given: str, outputs: Sequence[str], named: Mapping[str, str]) -> str:
    display, order = named.get("disp", ""), named.get("order", "")
    if not outputs:
        return given
    if display in ("output only", "out", "output number only", "number"):
        return "; ".join(outputs)
    if display == "flip" or order == "flip":
        given, outputs = outputs[0], [given, *outputs[1:]]
    return _TOGETHER.get(display, "{} ({})").format(given, "; ".join(outputs))
