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
    """

    symbol: str
    name: str
    plural: str
    scale: float
    kind: str
    default: str
    offset: float = 0.0
    fine: bool = False


def _units() -> Iterator[tuple[str, Unit]]:
    for codes, kind, factor, default, symbol, name, plural, offset, fine in tables.rows("units.tsv", 9):
        top, _, bottom = factor.partition("/")
        scale = float(Fraction(top) / Fraction(bottom or 1))
        unit = Unit(symbol, name, plural or name + "s", scale, kind, default, float(offset or 0), bool(fine))
        yield from ((code, unit) for code in codes.split())


UNITS = dict(_units())
COMPOSITES = {"ftin": ("ft", "in", 12), "stlb": ("st", "lb", 14), "lboz": ("lb", "oz", 16), "ydft": ("yd", "ft", 3)}


def convert(value: float, source: Unit, target: Unit) -> float:
    """The value in another unit of the same kind.

    >>> convert(100, UNITS["C"], UNITS["F"])
    212.0
    """
    if source.kind == "temperature":
        return round((value - source.offset) * source.scale / target.scale + target.offset, 9)
    return value * source.scale / target.scale


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
