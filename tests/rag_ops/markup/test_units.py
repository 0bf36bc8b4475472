"""Conversions against figures worked out by hand, and the rounding of Module:Convert."""

import math

import pytest

from rag_ops.markup.units import UNITS, convert, format_number, precision


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
