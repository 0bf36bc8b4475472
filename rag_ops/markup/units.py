"""Units of measure, and the rounding and wording of MediaWiki's {{convert}} (Module:Convert of English Wikipedia)."""

from __future__ import annotations

import dataclasses
import math
from decimal import ROUND_HALF_UP, Decimal

FUDGE = 1e-14  # Module:Convert adds it before taking the floor of a logarithm


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measure.

    Attributes:
        symbol: as abbreviated: "km/h".
        name: singular: "kilometre per hour".
        plural: "kilometres per hour".
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


def _table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}

    def add(
        codes: str, symbol: str, name: str, scale: float, kind: str, default: str, plural: str = "", fine: bool = False
    ) -> None:
        unit = Unit(symbol, name, plural or name + "s", scale, kind, default, fine=fine)
        for code in codes.split():
            units[code] = unit

    metre = {"nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "dm": 0.1, "m": 1.0, "km": 1e3}
    prefix = {"nm": "nano", "um": "micro", "mm": "milli", "cm": "centi", "dm": "deci", "m": "", "km": "kilo"}
    metric_to = {"nm": "in", "um": "in", "mm": "in", "cm": "in", "dm": "in", "m": "ftin", "km": "mi"}
    for code, scale in metre.items():
        symbol = code.replace("u", "μ")
        add(code, symbol, prefix[code] + "metre", scale, "length", metric_to[code])
        area_to = {"m": "sqft", "km": "sqmi"}.get(code, "sqin")
        add(f"{code}2 sq{code} {code}²", f"{code}2", f"square {prefix[code]}metre", scale**2, "area", area_to)
        add(f"{code}3 cu{code} {code}³", f"{code}3", f"cubic {prefix[code]}metre", scale**3, "volume", "cuft")
        per_hour, per_second = f"{prefix[code]}metre per hour", f"{prefix[code]}metre per second"
        add(f"{code}/h", f"{symbol}/h", per_hour, scale / 3600, "speed", "mph", f"{prefix[code]}metres per hour")
        add(f"{code}/s", f"{symbol}/s", per_second, scale, "speed", "ft/s", f"{prefix[code]}metres per second")
    add("kph kmh", "km/h", "kilometre per hour", 1 / 3.6, "speed", "mph", "kilometres per hour")
    for code, name, plural, scale, to in (
        ("in", "inch", "inches", 0.0254, "mm"),
        ("ft", "foot", "feet", 0.3048, "m"),
        ("yd", "yard", "yards", 0.9144, "m"),
        ("mi", "mile", "miles", 1609.344, "km"),
    ):
        add(f"{code} {name}", code, name, scale, "length", to, plural, fine=code == "ft")
        square_to = {"mi": "km2", "in": "cm2"}.get(code, "m2")
        add(
            f"sq{code} {code}2 {code}²", f"sq {code}", f"square {name}", scale**2, "area", square_to, f"square {plural}"
        )
        add(f"cu{code} {code}3 {code}³", f"cu {code}", f"cubic {name}", scale**3, "volume", "m3", f"cubic {plural}")
        add(f"{code}/s", f"{code}/s", f"{name} per second", scale, "speed", "m/s", f"{plural} per second")
    for codes, symbol, name, scale, kind, to, plural in (
        ("nmi", "nmi", "nautical mile", 1852.0, "length", "km mi", ""),
        ("furlong", "furlong", "furlong", 201.168, "length", "m", ""),
        ("fathom", "fathom", "fathom", 1.8288, "length", "ft m", ""),
        ("ly", "ly", "light-year", 9.4607304725808e15, "length", "pc", ""),
        ("pc", "pc", "parsec", 3.0856775814913673e16, "length", "ly", ""),
        ("AU au", "AU", "astronomical unit", 149597870700.0, "length", "km mi", ""),
        ("ha", "ha", "hectare", 1e4, "area", "acre", ""),
        ("acre acres", "acre", "acre", 4046.8564224, "area", "ha", ""),
        ("l L litre liter", "L", "litre", 1e-3, "volume", "impgal USgal", ""),
        ("ml mL", "mL", "millilitre", 1e-6, "volume", "impoz USoz", ""),
        ("cl cL", "cL", "centilitre", 1e-5, "volume", "impoz USoz", ""),
        ("hl hL", "hL", "hectolitre", 0.1, "volume", "USgal", ""),
        ("cc", "cc", "cubic centimetre", 1e-6, "volume", "cuin", ""),
        ("USgal U.S.gal gal", "US gal", "US gallon", 0.003785411784, "volume", "L impgal", ""),
        ("impgal", "imp gal", "imperial gallon", 0.00454609, "volume", "L USgal", ""),
        ("USoz USfloz", "US fl oz", "US fluid ounce", 2.95735295625e-5, "volume", "mL", ""),
        ("impoz impfloz", "imp fl oz", "imperial fluid ounce", 2.84130625e-5, "volume", "mL", ""),
        ("USbsh bu", "US bsh", "US bushel", 0.03523907016688, "volume", "L", ""),
        ("oilbbl bbl", "bbl", "barrel", 0.158987294928, "volume", "m3", ""),
        ("acre.ft acreft acre-ft", "acre⋅ft", "acre-foot", 1233.48183754752, "volume", "m3", "acre-feet"),
        ("ug", "μg", "microgram", 1e-9, "mass", "gr", ""),
        ("mg", "mg", "milligram", 1e-6, "mass", "gr", ""),
        ("g", "g", "gram", 1e-3, "mass", "oz", ""),
        ("kg", "kg", "kilogram", 1.0, "mass", "lb", ""),
        ("t tonne tonnes MT", "t", "tonne", 1e3, "mass", "LT ST", ""),
        ("gr", "gr", "grain", 6.479891e-5, "mass", "g", ""),
        ("oz", "oz", "ounce", 0.028349523125, "mass", "g", ""),
        ("st", "st", "stone", 6.35029318, "mass", "lb kg", "stone"),
        ("LT", "long tons", "long ton", 1016.0469088, "mass", "t", ""),
        ("ST tn", "short tons", "short ton", 907.18474, "mass", "t", ""),
        ("ozt", "ozt", "troy ounce", 0.0311034768, "mass", "oz g", ""),
        ("mph mi/h", "mph", "mile per hour", 0.44704, "speed", "km/h", "miles per hour"),
        ("kn kt knot knots", "kn", "knot", 0.5144444444444445, "speed", "km/h mph", ""),
        ("Pa", "Pa", "pascal", 1.0, "pressure", "psi", ""),
        ("hPa", "hPa", "hectopascal", 1e2, "pressure", "inHg", ""),
        ("kPa", "kPa", "kilopascal", 1e3, "pressure", "psi", ""),
        ("MPa", "MPa", "megapascal", 1e6, "pressure", "psi", ""),
        ("bar", "bar", "bar", 1e5, "pressure", "kPa", ""),
        ("mbar mb", "mbar", "millibar", 1e2, "pressure", "inHg", ""),
        ("atm", "atm", "standard atmosphere", 101325.0, "pressure", "kPa", ""),
        ("psi", "psi", "pound per square inch", 6894.757293168361, "pressure", "kPa", "pounds per square inch"),
        ("inHg", "inHg", "inch of mercury", 3386.389, "pressure", "kPa", "inches of mercury"),
        ("mmHg torr", "mmHg", "millimetre of mercury", 133.322387415, "pressure", "kPa", "millimetres of mercury"),
        ("J", "J", "joule", 1.0, "energy", "cal", ""),
        ("kJ", "kJ", "kilojoule", 1e3, "energy", "kcal", ""),
        ("MJ", "MJ", "megajoule", 1e6, "energy", "kWh", ""),
        ("cal", "cal", "calorie", 4.184, "energy", "J", ""),
        ("kcal Cal", "kcal", "kilocalorie", 4184.0, "energy", "kJ", ""),
        ("kWh kW.h", "kWh", "kilowatt-hour", 3.6e6, "energy", "MJ", ""),
        ("eV", "eV", "electronvolt", 1.602176634e-19, "energy", "aJ", ""),
        ("BTU Btu", "Btu", "British thermal unit", 1055.05585262, "energy", "kJ", ""),
        ("W", "W", "watt", 1.0, "power", "hp", ""),
        ("kW", "kW", "kilowatt", 1e3, "power", "hp", ""),
        ("MW", "MW", "megawatt", 1e6, "power", "hp", ""),
        ("GW", "GW", "gigawatt", 1e9, "power", "hp", ""),
        ("hp bhp shp ihp", "hp", "horsepower", 745.6998715822702, "power", "kW", "horsepower"),
        ("PS", "PS", "metric horsepower", 735.49875, "power", "kW", "metric horsepower"),
        ("N", "N", "newton", 1.0, "force", "lbf", ""),
        ("kN", "kN", "kilonewton", 1e3, "force", "lbf", ""),
        ("MN", "MN", "meganewton", 1e6, "force", "lbf", ""),
        ("lbf", "lbf", "pound-force", 4.4482216152605, "force", "N", "pounds-force"),
        ("N.m Nm", "N⋅m", "newton-metre", 1.0, "torque", "lbft", ""),
        ("lbft lb.ft lbfft ftlbf", "lb⋅ft", "pound-foot", 1.3558179483314003, "torque", "Nm", "pound-feet"),
        (
            "/km2 PD/km2",
            "/km2",
            "inhabitant per square kilometre",
            1e-6,
            "density",
            "/sqmi",
            "inhabitants per square kilometre",
        ),
        (
            "/sqmi PD/sqmi",
            "/sq mi",
            "inhabitant per square mile",
            1 / 2589988.110336,
            "density",
            "/km2",
            "inhabitants per square mile",
        ),
        ("/ha", "/ha", "per hectare", 1e-4, "density", "/acre", "per hectare"),
        ("/acre", "/acre", "per acre", 1 / 4046.8564224, "density", "/ha", "per acre"),
        ("kg/m3", "kg/m3", "kilogram per cubic metre", 1.0, "mass density", "lb/cuft", "kilograms per cubic metre"),
        ("g/cm3", "g/cm3", "gram per cubic centimetre", 1e3, "mass density", "lb/cuin", "grams per cubic centimetre"),
        (
            "lb/cuft",
            "lb/cu ft",
            "pound per cubic foot",
            16.018463373960142,
            "mass density",
            "g/cm3",
            "pounds per cubic foot",
        ),
        ("m3/s", "m3/s", "cubic metre per second", 1.0, "flow", "cuft/s", "cubic metres per second"),
        ("cuft/s", "cu ft/s", "cubic foot per second", 0.028316846592, "flow", "m3/s", "cubic feet per second"),
    ):
        add(codes, symbol, name, scale, kind, to, plural)
    add("lb lbs", "lb", "pound", 0.45359237, "mass", "kg", fine=True)
    for codes, symbol, name, scale, to, offset in (
        ("C °C degC", "°C", "degree Celsius", 1.0, "F", -273.15),
        ("F °F degF", "°F", "degree Fahrenheit", 5 / 9, "C", -459.67),
        ("K", "K", "kelvin", 1.0, "C F", 0.0),
    ):
        plural = name.replace("degree", "degrees") if "degree" in name else name + "s"
        for code in codes.split():
            units[code] = Unit(symbol, name, plural, scale, "temperature", to, offset)
    return units


UNITS = _table()
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
        value: its value.
        converted: the value in the target unit.
        source: its unit.
        target: the other unit.

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
