"""Filters of passages by their columns: parsed and compared, never run as code.

    title = 'Ada Lovelace' and kind != "table"
    position < 3 and section in ('', 'History')

A value is a number, or a text in single or double quotes, which are doubled within it. Texts are compared by their code
points. There is no "or" and no bracket but that of "in": a filter is a list of conditions that all hold.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_ops.errors import InputError

OPERATORS = ("=", "!=", "<=", ">=", "<", ">", "in")
EXAMPLE = "COLUMN OP VALUE [and ...], as: kind = 'prose' and position < 3"
MAX_CHARS = 100_000
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])
      | (?P<operator>!=|<=|>=|=|<|>)
      | (?P<mark>[(),])
      | (?P<word>[^\W\d]\w*)
    )""",
    re.VERBOSE,
)
_COMPARE = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
Value = str | int | float


@dataclasses.dataclass(frozen=True)
class Condition:
    """One condition: a column, an operator, and the values; several for "in"."""

    column: str
    operator: str
    values: tuple[Value, ...]


@dataclasses.dataclass(frozen=True)
class Filter:
    """A filter of passages: conditions that all hold."""

    conditions: tuple[Condition, ...]

    @property
    def columns(self) -> list[str]:
        """The columns that it looks at, each once."""
        return list(dict.fromkeys(condition.column for condition in self.conditions))

    def check(self, schema: pa.Schema) -> None:
        """Checks that the columns are there and can be compared with the values.

        Raises:
            InputError: one is not, or is of another type.
        """
        for condition in self.conditions:
            if condition.column not in schema.names:
                raise InputError(
                    "--filter names a column that the passages do not have",
                    value=condition.column,
                    expected=" or ".join(name for name in schema.names if _kind(schema.field(name).type)),
                )
            kind = _kind(schema.field(condition.column).type)
            for value in condition.values:
                if kind != ("text" if isinstance(value, str) else "number"):
                    raise InputError(
                        f"--filter compares {condition.column} with a value of another type",
                        value=value,
                        expected={"text": "a text in quotes", "number": "a number"}.get(kind, "another column"),
                    )

    def matches(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table that has the columns pass, bool (rows,)."""
        passes = np.ones(len(table), bool)
        for condition in self.conditions:
            column = table[condition.column]
            if condition.operator == "in":
                found = np.zeros(len(table), bool)
                for value in condition.values:
                    found |= _array(pc.equal(column, pa.scalar(value)))
            else:
                found = _array(_COMPARE[condition.operator](column, pa.scalar(condition.values[0])))
            passes &= found
        return passes


def _array(found: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(found, False).to_numpy()


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else ""


def parse(expression: str) -> Filter:
    """Parses an expression.

    Raises:
        InputError: it is none.

    >>> parse("title = 'It''s' and position in (1, 2)").conditions[0]
    Condition(column='title', operator='=', values=("It's",))
    """
    tokens = _Tokens(expression)
    conditions = [_condition(tokens)]
    while tokens.left():
        tokens.take("word", "and, or the end", lambda word: word.lower() == "and")
        conditions.append(_condition(tokens))
    return Filter(tuple(conditions))


def _condition(tokens: _Tokens) -> Condition:
    column = tokens.take("word", "a column")
    if tokens.is_next("word"):
        tokens.take("word", " ".join(OPERATORS), lambda word: word.lower() == "in")
        tokens.take("mark", "(", "(".__eq__)
        values = [_value(tokens)]
        while tokens.take("mark", ", or )", lambda mark: mark in ",)") == ",":
            values.append(_value(tokens))
        return Condition(column, "in", tuple(values))
    return Condition(column, tokens.take("operator", " ".join(OPERATORS)), (_value(tokens),))


def _value(tokens: _Tokens) -> Value:
    if tokens.is_next("number"):
        number = tokens.take("number", "a number")
        if not math.isfinite(float(number)):
            raise InputError("--filter has a number that is too large", value=number[:60], expected="at most 1.8e308")
        return int(number) if re.fullmatch(r"[+-]?\d{1,18}", number) else float(number)  # what 64 bits hold
    quoted = tokens.take("text", "a number, or a text in quotes")
    return quoted[1:-1].replace(quoted[0] * 2, quoted[0])


class _Tokens:
    """The tokens of an expression, one after another."""

    def __init__(self, expression: str):
        if len(expression) > MAX_CHARS:
            raise InputError("--filter is too long", value=f"{len(expression):,} characters", expected=f"{MAX_CHARS:,}")
        self._expression, self._tokens, self._next = expression, list(_tokens(expression)), 0

    def left(self) -> bool:
        return self._next < len(self._tokens)

    def is_next(self, kind: str) -> bool:
        return self.left() and self._tokens[self._next][0] == kind

    def take(self, kind: str, expected: str, fits: object = None) -> str:
        """The next token, which must be of a kind, and fit."""
        if self.is_next(kind):
            text = self._tokens[self._next][1]
            if fits is None or fits(text):  # type: ignore[operator]
                self._next += 1
                return text
        place = self._tokens[self._next][2] if self.left() else len(self._expression)
        rest = self._expression[place:].strip()
        raise InputError(
            "--filter cannot be read",
            value=rest[:60] or f"the end of {self._expression[:60].strip()}",
            expected=f"{expected} there; {EXAMPLE}",
        )


def _tokens(expression: str) -> Iterable[tuple[str, str, int]]:
    """Yields kind, text and place of each token; whatever is none has the kind "other"."""
    place = 0
    while place < len(expression.rstrip()):
        found = _TOKEN.match(expression, place)
        if found is None or found.lastgroup is None:
            yield "other", expression[place:], place
            return
        yield found.lastgroup, found[found.lastgroup], place
        place = found.end()
