"""{{convert}} as English Wikipedia shows it; expectations written by hand."""

import pytest

from rag_ops.markup.convert import expand_convert


@pytest.mark.parametrize(
    ("arguments", "named", "expected"),
    [
        ("8848|m|ft", {}, "8,848 metres (29,029 ft)"),
        ("8848|m", {"sp": "us"}, "8,848 meters (29,029 ft)"),
        ("1|mi|km", {}, "1 mile (1.6 km)"),
        ("100|km|mi", {"abbr": "on"}, "100 km (62 mi)"),
        ("100|km|mi", {"abbr": "off"}, "100 kilometres (62 miles)"),
        ("26|mi|km", {"adj": "on"}, "26-mile (42 km)"),
        ("3|to|5|km|mi", {}, "3 to 5 kilometres (1.9 to 3.1 mi)"),
        ("60|-|70|lb|kg", {"abbr": "on"}, "60–70 lb (27–32 kg)"),
        ("2|by|4|m|ft", {}, "2 by 4 metres (6.6 by 13 ft)"),
        ("6|ft|2|in|m", {}, "6 feet 2 inches (1.88 m)"),
        ("5|ft|10|in|cm", {"abbr": "on"}, "5 ft 10 in (178 cm)"),
        ("1.85|m|ftin", {}, "1.85 metres (6 ft 1 in)"),
        ("1.85|m", {}, "1.85 metres (6 ft 1 in)"),
        ("590750|km2|sqmi", {"abbr": "on"}, "590,750 km2 (228,090 sq mi)"),
        ("1,000|sqmi|km2|-2", {}, "1,000 square miles (2,600 km2)"),
        ("10|km|mi nmi", {}, "10 kilometres (6.2 mi; 5.4 nmi)"),
        ("-40|C|F", {}, "−40 °C (−40 °F)"),
        ("20|C", {}, "20 °C (68 °F)"),
        ("12|kg|lb", {"disp": "or"}, "12 kilograms or 26 pounds"),
        ("12|kg|lb", {"disp": "sqbr"}, "12 kilograms [26 lb]"),
        ("10|km|mi", {"order": "flip"}, "6.2 miles (10 km)"),
        ("10|km|mi", {"disp": "flip"}, "6.2 miles (10 km)"),
        ("10|km|mi", {"disp": "output only"}, "6.2 mi"),
        ("10|km|mi|2", {}, "10 kilometres (6.21 mi)"),
        ("1234|m|ft", {"sigfig": "2"}, "1,234 metres (4,000 ft)"),
        ("1+1/2|in|mm", {}, "1 1/2 inches (38 mm)"),
        ("27|/sqmi|/km2", {"abbr": "on"}, "27/sq mi (10/km2)"),
        ("3|C-change", {}, "3 °C (5.4 °F)"),
        ("9|F-change|C-change", {}, "9 °F (5.0 °C)"),
        ("1.5|Moilbbl", {}, "1.5 million barrels (240,000 m3)"),
        ("12|miles", {}, "12 miles (19 km)"),
        ("30|mpgus|L/100 km", {}, "30 miles per US gallon (7.8 L/100 km)"),
        ("5|L/100 km|mpgimp", {"abbr": "on"}, "5 L/100 km (56 mpg‑imp)"),
        ("2|e6km2|e6sqmi", {}, "2 million square kilometres (0.77 million sq mi)"),
        ("5|furlongs of nothing", {}, "5 furlongs of nothing"),
        ("ten|km", {}, "ten km"),
        ("5", {}, "5"),
        ("", {}, ""),
    ],
)
def test_what_the_reader_sees(arguments, named, expected):
    assert expand_convert(arguments.split("|"), named) == expected
