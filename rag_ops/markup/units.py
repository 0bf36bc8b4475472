"""Units of measure (`units.tsv`), and how MediaWiki's {{convert}} rounds (Module:Convert of English Wikipedia)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from rag_ops.markup import tables

FUDGE = 1e-14  # Module:Convert adds it before taking the floor of a logarithm


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measure.

    Attributes:
        symbol, name, plural: "km/h", "kilometre per hour" and "kilometres per hour".
        scale: one unit in SI units of its kind.
        kind: what it measures; only units of one kind convert into each other.
        default: code of the unit that {{convert}} converts to when none is given.
        offset: for temperatures, what zero of this unit is in its own degrees above absolute zero.
        fine: whether whole numbers convert into it with more digits ("integer_more_precision").
        inverse: whether more of it is less of the others, as litres per distance are of distances per litre.
    """

    symbol: str
    name: str
    plural: str
    scale: float
    kind: str
    default: str
    offset: float = 0.0
    fine: bool = False
    inverse: bool = False


def _units() -> Iterator[tuple[str, Unit]]:
    for codes, kind, factor, default, symbol, name, plural, offset, how in tables.rows("units.tsv", 9):
        top, _, bottom = factor.partition("/")
        scale = float(Fraction(top) / Fraction(bottom or 1))
        unit = Unit(symbol, name, plural or name + "s", scale, kind, default, float(offset or 0))
        unit = dataclasses.replace(unit, fine=how == "fine", inverse=how == "inverse")
        yield from ((code.replace("_", " "), unit) for code in codes.split())


def _multiples(units: dict[str, Unit]) -> Iterator[tuple[str, Unit]]:
    """Thousands, millions and so on of each unit, as {{convert|5|e6km2}} has them."""
    for code, unit in units.items():
        for prefix, (word, factor) in _WORDS.items():
            name = f"{word} {unit.plural}"
            defaults = " ".join(prefix + default for default in unit.default.split())
            multiple = Unit(f"{word} {unit.symbol}", name, name, unit.scale * factor, unit.kind, defaults)
            if not (unit.offset or unit.inverse or prefix + code in units):
                yield prefix + code, multiple


_WORDS = {"e3": ("thousand", 1e3), "e6": ("million", 1e6), "e9": ("billion", 1e9), "e12": ("trillion", 1e12)}
SINGLE_UNITS = dict(_units())
UNITS = {**SINGLE_UNITS, **dict(_multiples(SINGLE_UNITS))}
COMPOSITES = {"ftin": ("ft", "in", 12), "stlb": ("st", "lb", 14), "lboz": ("lb", "oz", 16), "ydft": ("yd", "ft", 3)}


def convert(value: float, source: Unit, target: Unit) -> float:
    """The value in another unit of the same kind.

    >>> convert(100, UNITS["C"], UNITS["F"])
    212.0
    """
    if source.kind == "temperature":
        return round((value - source.offset) * source.scale / target.scale + target.offset, 9)
    amount = source.scale / value if source.inverse else value * source.scale
    return target.scale / amount if target.inverse else amount / target.scale


def precision(written: str, value: float, converted: float, source: Unit, target: Unit) -> int:
    """Digits after the decimal point of a converted value, as Module:Convert's default_precision gives them.

    As many as the input has, more or fewer by the ratio of the numbers, at least two significant figures; three in
    kelvin between temperatures; more for whole numbers into feet and pounds.

    Args:
        written: the input number as written, without separators: it shows the precision.
        value, converted: its value, and that in the target unit.

    Returns:
        Digits; negative for rounding to tens, hundreds, and so on.
    """
    digits = written.lstrip("+-−")
    mantissa, _, exponent = digits.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    own = len(decimals) if point else -(len(whole) - len(whole.rstrip("0")))
    own -= int(exponent) if exponent.lstrip("+-").isdecimal() else 0
    if source.kind == "temperature":
        kelvin = abs((value - source.offset) * source.scale)
        least = 2 if kelvin < 1e-8 else 2 - math.floor(math.log10(kelvin) + FUDGE)
        return max(own, least)
    if value == 0 or converted == 0:
        return 0
    if target.fine and float(value).is_integer():
        adjust = -math.log10(source.scale)
    else:
        adjust = math.log10(abs(value / converted))
    least = 1 - math.floor(math.log10(abs(converted)) + FUDGE)
    return max(math.floor(own + adjust + math.log10(2)), least)


def format_number(value: float | Decimal, digits: int) -> str:
    """A number rounded half up to `digits` after the point (negative: to tens and so on), thousands grouped.

    >>> format_number(29028.87, 0), format_number(1234.5, -2), format_number(-0.25, 1)
    ('29,029', '1,200', '−0.3')
    """
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    rounded = exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    text = f"{abs(rounded):,.{max(digits, 0)}f}"
    return "−" + text if rounded < 0 else text


def significant_digits(value: float, figures: int) -> int:
    """Digits after the point that leave `figures` significant ones."""
    return figures - 1 - math.floor(math.log10(abs(value)) + FUDGE) if value else figures - 1
