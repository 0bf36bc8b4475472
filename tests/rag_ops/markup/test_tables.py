"""The tables in files: what they may hold, and that each is read whole."""

import pytest

from rag_ops.markup import tables
from rag_ops.markup.languages import language
from rag_ops.markup.siteinfo import normal_name
from rag_ops.markup.units import COMPOSITES, SINGLE_UNITS, UNITS


def test_comments_and_empty_lines_are_no_rows_and_outer_spaces_stay(tmp_path, monkeypatch):
    (tmp_path / "some.tsv").write_text("# a comment\ta\tb\tc\n\nx\t · \ty\nz\n#y\n", encoding="utf-8")
    monkeypatch.setattr(tables, "__file__", str(tmp_path / "tables.py"))
    assert list(tables.rows("some.tsv", 3)) == [["x", " · ", "y"], ["z", "", ""]]
    with pytest.raises(ValueError, match=r"some.tsv, line 3: 3 columns, expected 2"):
        list(tables.rows("some.tsv", 2))


def test_closing_sections_are_one_a_line_in_lower_case():
    rows = list(tables.rows("closing_sections.tsv", 2))
    assert len(rows) == len({tuple(row) for row in rows}) >= 40
    assert all(language.isalpha() and heading == heading.lower().strip() for language, heading in rows)
    english = language("en").closing_sections
    assert {"references", "see also", "external links", "navigation"} <= english
    assert "history" not in english


def test_units_have_each_code_once_and_defaults_that_are_units_of_their_kind():
    codes = [code.replace("_", " ") for row in tables.rows("units.tsv", 9) for code in row[0].split()]
    assert len(codes) == len(set(codes)) == len(SINGLE_UNITS) >= 300
    assert len(UNITS) > 3 * len(SINGLE_UNITS)
    for code, unit in UNITS.items():
        for default in unit.default.split():
            target = UNITS.get(COMPOSITES[default][0] if default in COMPOSITES else default.replace("_", " "))
            assert target is None or target.kind == unit.kind, code
            assert target is not None or code not in SINGLE_UNITS, (code, default)
        assert all((unit.symbol, unit.name, unit.plural, unit.scale > 0)), code


def test_namespaces_are_each_once_and_a_talk_page_follows_its_subject():
    rows = list(tables.rows("namespaces.tsv", 3))
    assert len({(code, name) for code, _, name in rows}) == len(rows) >= 200
    names = {name: int(number) for code, number, name in rows if code in ("*", "en")}
    assert all(name == normal_name(name) for name in names)
    for name, number in names.items():
        if name.endswith(" talk"):
            assert number == names[name.removesuffix(" talk")] + 1, name
        else:
            assert number < 0 or number % 2 == (name == "talk"), name
