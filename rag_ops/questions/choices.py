"""A closed set of answers: read from a flag or from a row of a question file, and checked."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rag_ops.questions.gold_answers import UnreadableError, gold_answers
from rag_ops.questions.text_lines import clean

BAD_CHOICES = "the choices are no closed set of answers"  # what a row's error begins with; details follow in brackets
FEWEST = 2


def parse_choices(text: str) -> tuple[str, ...]:
    """The choices of one line of CSV: commas between them, and quotation marks around one that holds a comma.

    Raises:
        UnreadableError: it is no such line, or no closed set.

    >>> parse_choices('SUPPORTS, REFUTES, "not enough, or none"')
    ('SUPPORTS', 'REFUTES', 'not enough, or none')
    """
    try:
        lines = list(csv.reader(io.StringIO(text), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UnreadableError(f"no line of CSV: {error}") from error
    if len(lines) > 1:
        raise UnreadableError("more than one line")
    return checked([clean(cell) for line in lines for cell in line])


def choices_of(value: Any, *, cell: bool = False) -> tuple[str, ...] | None:
    """The choices of a row of a question file, in the file's order; None if the row has none.

    Args:
        value: a list, an object with a list as `text` (as multiple-choice sets have it), or either as text, in JSON or
            as Python writes it.
        cell: whether `value` is a cell of CSV or TSV, whose numbers are texts too.

    Raises:
        UnreadableError: it holds no closed set.

    >>> choices_of('["yes", "no"]'), choices_of({"label": ["A", "B"], "text": ["ice", "fire"]})
    (('yes', 'no'), ('ice', 'fire'))
    """
    found = gold_answers(value, cell=cell)
    return None if found is None else checked(found)


def checked(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices, if they are a closed set.

    Raises:
        UnreadableError: there are fewer than two, one is empty, or two differ in case and spaces alone.
    """
    if len(choices) < FEWEST:
        raise UnreadableError(f"{len(choices) or 'none'} given, at least {FEWEST} are needed")
    if not all(choices):
        raise UnreadableError("one is empty")
    plain = Counter(" ".join(choice.casefold().split()) for choice in choices)
    if twice := [choice for choice, count in plain.items() if count > 1]:
        raise UnreadableError(f"one comes twice: {twice[0]}")
    return tuple(choices)
