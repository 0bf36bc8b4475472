"""Conversions against figures worked out by hand, the table against definitions, and Module:Convert's rounding."""

import math
from fractions import Fraction

import pytest

from rag_ops.markup.units import SINGLE_UNITS, UNITS, convert, format_number, precision


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (1, "mi", "km", 1.609344),
        (1, "acre", "ha", 0.40468564224),
        (1, "lb", "kg", 0.45359237),
        (-40, "C", "F", -40),
        (0, "K", "C", -273.15),
        (32, "F", "K", 273.15),
        (1, "USgal", "L", 3.785411784),
        (1, "kn", "km/h", 1.852),
        (1, "atm", "psi", 14.6959),
        (1, "km2", "sqmi", 0.386102),
        (1, "hp", "kW", 0.7457),
        (100, "/sqmi", "/km2", 38.6102),
    ],
)
def test_figures(value, source, target, expected):
    assert convert(value, UNITS[source], UNITS[target]) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("written", "source", "target", "expected"),
    [
        ("8848", "m", "ft", "29,029"),  # whole metres into feet keep their precision
        ("26", "mi", "km", "42"),
        ("100", "km", "mi", "62"),
        ("10", "acre", "ha", "4.0"),  # two significant figures at the least
        ("590750", "km2", "sqmi", "228,090"),  # as rough as the input is
        ("1.85", "m", "ft", "6.1"),
        ("20", "C", "F", "68"),
        ("0", "C", "F", "32"),
        ("1000000", "m2", "acre", "250"),
    ],
)
def test_rounding(written, source, target, expected):
    value = float(written)
    converted = convert(value, UNITS[source], UNITS[target])
    digits = precision(written, value, converted, UNITS[source], UNITS[target])
    assert format_number(converted, digits) == expected


def test_halves_are_rounded_up_and_minus_is_a_minus_sign():
    assert [format_number(value, 0) for value in (0.5, 1.5, 2.5, -2.5)] == ["1", "2", "3", "−3"]


def test_every_unit_converts_to_its_own_default_and_back():
    for code, unit in UNITS.items():
        for default in unit.default.split():
            if default in UNITS:
                there = convert(12.5, unit, UNITS[default])
                assert UNITS[default].kind == unit.kind, code
                assert math.isclose(convert(there, UNITS[default], unit), 12.5, rel_tol=1e-6), code


INCH, POUND, GRAVITY, HOUR = Fraction(254, 10_000), Fraction(45_359_237, 10**8), Fraction(980_665, 10**5), 3600
FOOT, YARD, MILE = 12 * INCH, 36 * INCH, 63_360 * INCH
LIGHT_YEAR, DAY = 299_792_458 * 31_557_600, 86_400
US_GALLON, IMPERIAL_GALLON, CALORIE = 231 * INCH**3, Fraction(454_609, 10**8), Fraction(4184, 1000)
# One unit in SI units by its definition: the international yard and pound of 1959, the SI brochure, NIST SP 811.
DEFINITIONS = {
    **{"in": INCH, "ft": FOOT, "yd": YARD, "mi": MILE, "nmi": 1852, "furlong": MILE / 8, "fathom": 2 * YARD},
    **{
        "ly": LIGHT_YEAR,
        "kly": 10**3 * LIGHT_YEAR,
        "Mly": 10**6 * LIGHT_YEAR,
        "Gly": 10**9 * LIGHT_YEAR,
        "AU": 149_597_870_700,
    },
    **{"ha": 10_000, "acre": 4840 * YARD**2},
    **{"L": Fraction(1, 1000), "ml": Fraction(1, 10**6), "cl": Fraction(1, 10**5), "hl": Fraction(1, 10)},
    **{"cc": Fraction(1, 10**6), "USgal": US_GALLON, "impgal": IMPERIAL_GALLON, "USoz": US_GALLON / 128},
    **{"impoz": IMPERIAL_GALLON / 160, "USbsh": Fraction(215_042, 100) * INCH**3, "oilbbl": 42 * US_GALLON},
    "acre.ft": 4840 * YARD**2 * FOOT,
    **{"ug": Fraction(1, 10**9), "mg": Fraction(1, 10**6), "g": Fraction(1, 1000), "kg": 1, "t": 1000},
    **{"gr": POUND / 7000, "oz": POUND / 16, "lb": POUND, "st": 14 * POUND, "LT": 2240 * POUND, "ST": 2000 * POUND},
    "ozt": POUND * 480 / 7000,
    **{"mph": MILE / HOUR, "kn": Fraction(1852, HOUR), "kph": Fraction(1000, HOUR)},
    **{"C": 1, "F": Fraction(5, 9), "K": 1},
    **{"Pa": 1, "hPa": 100, "kPa": 1000, "MPa": 10**6, "bar": 10**5, "mbar": 100, "atm": 101_325},
    **{"psi": POUND * GRAVITY / INCH**2, "inHg": Fraction(3_386_389, 1000), "mmHg": Fraction(133_322_387_415, 10**9)},
    **{"J": 1, "kJ": 1000, "MJ": 10**6, "cal": CALORIE, "kcal": 1000 * CALORIE, "kWh": 1000 * HOUR},
    **{"eV": Fraction(1_602_176_634, 10**28), "BTU": 2326 * POUND},
    **{"W": 1, "kW": 1000, "MW": 10**6, "GW": 10**9, "hp": 550 * FOOT * POUND * GRAVITY, "PS": 75 * GRAVITY},
    **{"N": 1, "kN": 1000, "MN": 10**6, "lbf": POUND * GRAVITY, "N.m": 1, "lbft": FOOT * POUND * GRAVITY},
    **{"/km2": Fraction(1, 10**6), "/sqmi": 1 / MILE**2, "/ha": Fraction(1, 10_000), "/acre": 1 / (4840 * YARD**2)},
    **{"C-change": 1, "F-change": Fraction(5, 9), "K-change": 1, "aJ": Fraction(1, 10**18)},
    **{"mpgimp": MILE / IMPERIAL_GALLON, "mpgus": MILE / US_GALLON, "km/L": 10**6, "L/100 km": 10**8},
    **{"koilbbl": 42_000 * US_GALLON, "Moilbbl": 42 * 10**6 * US_GALLON, "Goilbbl": 42 * 10**9 * US_GALLON},
    **{
        "oilbbl/d": 42 * US_GALLON / DAY,
        "koilbbl/d": 42_000 * US_GALLON / DAY,
        "Moilbbl/d": 42 * 10**6 * US_GALLON / DAY,
    },
    **{"m3/d": Fraction(1, DAY), "m3/h": Fraction(1, HOUR), "m3/min": Fraction(1, 60), "L/s": Fraction(1, 1000)},
    **{"cuft/d": FOOT**3 / DAY, "cuft/h": FOOT**3 / HOUR, "cuft/min": FOOT**3 / 60, "L/min": Fraction(1, 60_000)},
    **{"USgal/min": US_GALLON / 60, "impgal/min": IMPERIAL_GALLON / 60, "ft/min": FOOT / 60, "m/min": Fraction(1, 60)},
    **{"chain": 66 * FOOT, "rod": 33 * FOOT / 2, "league": 3 * MILE, "mil": INCH / 1000},
    **{"Å": Fraction(1, 10**10), "Mm": 10**6, "dunam": 1000, "dl": Fraction(1, 10**4), "kl": 1, "Ml": 1000},
    **{"USqt": US_GALLON / 4, "USpt": US_GALLON / 8, "impqt": IMPERIAL_GALLON / 4, "imppt": IMPERIAL_GALLON / 8},
    **{"impbsh": 8 * IMPERIAL_GALLON, "carat": Fraction(1, 5000), "cwt": 112 * POUND, "short cwt": 100 * POUND},
    **{
        "Mt": 10**9,
        "kilotonne": 10**6,
        "GPa": 10**9,
        "ksi": 1000 * POUND * GRAVITY / INCH**2,
        "g/L": 1,
        "lb/cuin": POUND / INCH**3,
    },
    **{"kgf/cm2": 10**4 * GRAVITY, "kgf": GRAVITY, "tf": 1000 * GRAVITY, "kgf.m": GRAVITY},
    **{"GJ": 10**9, "TJ": 10**12, "PJ": 10**15, "MWh": 10**6 * HOUR, "GWh": 10**9 * HOUR, "TWh": 10**12 * HOUR},
    **{"kg/m3": 1, "g/cm3": 1000, "lb/cuft": POUND / FOOT**3, "m3/s": 1, "cuft/s": FOOT**3},
}
PREFIXES = {"nm": -9, "um": -6, "mm": -3, "cm": -2, "dm": -1, "m": 0, "km": 3}
LENGTHS = {**{code: Fraction(10) ** power for code, power in PREFIXES.items()}, "in": INCH, "ft": FOOT, "yd": YARD}
LENGTHS["mi"] = MILE


def test_every_factor_of_the_table_is_its_definitions_to_the_last_bit():
    wanted = dict(DEFINITIONS)
    for code, length in LENGTHS.items():
        wanted |= {code: length, f"sq{code}": length**2, f"cu{code}": length**3, f"{code}/s": length}
    wanted |= {f"{code}/h": LENGTHS[code] / HOUR for code in PREFIXES}
    known = {code: id(unit) for code, unit in SINGLE_UNITS.items()}
    missing = set(known.values()) - {known[code] for code in wanted}
    assert {code for code in known if known[code] in missing} == {"pc", "kpc", "Mpc"}  # those that are no fractions
    assert {code: UNITS[code].scale for code in wanted} == {code: float(exact) for code, exact in wanted.items()}
    assert UNITS["pc"].scale == pytest.approx(149_597_870_700 * 648_000 / math.pi, rel=1e-15)
    assert [UNITS[code].offset for code in ("C", "F", "K")] == [-273.15, -459.67, 0.0]


def test_halves_of_exact_conversions_are_halves():
    cubic_feet = convert(1500, UNITS["cuyd"], UNITS["cuft"])
    assert cubic_feet == 1500 * 27
    assert format_number(cubic_feet, -3) == "41,000"
