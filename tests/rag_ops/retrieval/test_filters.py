"""Filters: what passes, and what is refused in one line."""

import pyarrow as pa
import pytest

from rag_ops.errors import InputError
from rag_ops.retrieval.filters import parse
from schemas import passages

ROWS = [
    {"title": "Ada", "kind": "prose", "position": 0, "section": ""},
    {"title": 'Ada\'s "engine"', "kind": "table", "position": 1, "section": "History > Youth"},
    {"title": "and", "kind": "prose", "position": 7, "section": "in"},
    {"title": "Ünder", "kind": "infobox", "position": -2, "section": "History"},
]
TABLE = pa.Table.from_pylist(ROWS)


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ("title = 'Ada'", lambda row: row["title"] == "Ada"),
        ("title = 'Ada''s \"engine\"'", lambda row: row["title"] == 'Ada\'s "engine"'),
        ('title = "Ada\'s ""engine"""', lambda row: row["title"] == 'Ada\'s "engine"'),
        ("kind != 'prose'", lambda row: row["kind"] != "prose"),
        ("position < 1", lambda row: row["position"] < 1),
        ("position>=-2 AND position <= 0.5", lambda row: -2 <= row["position"] <= 0.5),
        ("position > 1e0", lambda row: row["position"] > 1),
        ("title > 'Z'", lambda row: row["title"] > "Z"),
        ("kind in ('table', \"infobox\")", lambda row: row["kind"] in ("table", "infobox")),
        ("position in (7)", lambda row: row["position"] == 7),
        ("title = 'and' and section = 'in' and kind in('prose')", lambda row: row["title"] == "and"),
        ("title = ''", lambda row: False),
        ("position < 99999999999999999999", lambda row: True),  # more than 64 bits
        ("position < -99999999999999999999", lambda row: False),
    ],
)
def test_what_passes(expression, passes):
    condition = parse(f"  {expression} ")
    condition.check(TABLE.schema)
    assert condition.matches(TABLE).tolist() == [passes(row) for row in ROWS]


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "the end of '; expected a column there"),
        ("kind", "the end of kind'; expected = != <= >= < > in there"),
        ("kind = prose", "read: 'prose'; expected a number, or a text in quotes there"),
        ("kind = 'prose", "expected a number, or a text in quotes"),
        ("kind = 'prose' or kind = 'table'", "read: \"or kind = 'table'\"; expected and, or the end there"),
        ("kind like 'p%'", "expected = !="),
        ("kind in 'prose'", "expected \\( there"),
        ("kind in ('prose' 'table')", "expected , or \\) there"),
        ("kind in ()", "expected a number, or a text"),
        ("position < 3 and", "the end of"),
        ("position < 3; drop", "'; drop'"),
        ("__import__('os')", "expected = !="),
        ("position < 3x", "'3x'"),
        ("1 = 1", "expected a column"),
        ("position < 1e400", "a number that is too large: '1e400'"),
        ("position < " + "9" * 5000, "a number that is too large"),
        ("kind = 'a'" + " and kind = 'a'" * 10_000, "--filter is too long"),
    ],
)
def test_what_is_no_filter_is_refused_where_it_ceases_to_be_one(expression, says):
    with pytest.raises(InputError, match=says) as refused:
        parse(expression)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        (
            "author = 'x'",
            "do not have: 'author'; expected id or title or text or article_id or position or section or",
        ),
        ("kind = 3", "compares kind with a value of another type: 3; expected a text in quotes"),
        ("position = '3'", "compares position with a value of another type: '3'; expected a number"),
        ("position in (1, 'x')", "compares position"),
        ("content_hash = 'x'", "expected another column"),
    ],
)
def test_columns_that_are_not_there_or_of_another_type_are_refused(expression, says):
    with pytest.raises(InputError, match=says):
        parse(expression).check(passages.SCHEMA)
