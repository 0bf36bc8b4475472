"""Reads gold answers, in any of the forms that question sets keep them in, as texts."""

from __future__ import annotations

import ast
import io
import json
import math
import tokenize
from typing import Any

from rag_ops.questions.text_lines import clean

# The members of an object that hold answers, in capitals or not: SQuAD's `text`, TriviaQA's `aliases` and `value`,
# KILT's `answer`, DROP's `spans`, QED's `string`.
ANSWER_KEYS = ("text", "aliases", "value", "answer", "answers", "spans", "string")
EVIDENCE = "provenance"  # KILT: an object with this and no answer says where an answer stands, and is none
NO_ANSWERS = ("No Answer Present.", "<unk>")  # MS MARCO's way to say that a question has none, and TriviaQA's
MAX_LITERAL_CHARS = 1 << 20  # longest Python literal: its syntax tree takes some hundred times as much memory
SHOWN_KEYS = 100  # characters, of an object that is no gold answer


class UnreadableError(ValueError):
    """The value in place of the gold answers holds none; the message says what it is."""


def gold_answers(value: Any, *, cell: bool = False) -> tuple[str, ...] | None:
    """The gold answers of a row, in the file's order; None if it has none to give, empty if there is no answer.

    Args:
        value: a text, a number, a list of them, or an object with one of `ANSWER_KEYS`. A text may itself be such a
            list or object, written as JSON, as Python writes it, or as NumPy and pandas do.
        cell: whether `value` is a cell of CSV or TSV, whose numbers are texts too: there "[1988]" is a list as well.

    Raises:
        UnreadableError: an object has no answers.

    >>> gold_answers({"text": ["1066", "in 1066"], "answer_start": [3, 0]})
    ('1066', 'in 1066')
    >>> gold_answers('["novelist", "writer"]')
    ('novelist', 'writer')
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        literal = _literal(value, numbers=cell)
        value = value if literal is None else literal
    if value is None or _is_nan(value):
        return None
    try:
        return tuple(_texts(value))
    except RecursionError as error:
        raise UnreadableError("lists in lists in lists") from error


def is_list(cell: str) -> bool:
    """Whether a cell is a list, written as JSON or as Python writes it."""
    return isinstance(_literal(cell, numbers=True), list)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        members = {str(name).lower(): member for name, member in value.items()}
        found = [members[key] for key in ANSWER_KEYS if key in members]
        if not found and EVIDENCE not in members:
            raise UnreadableError(f"an object of {clean(', '.join(map(as_text, value)))[:SHOWN_KEYS] or 'nothing'}")
        return next(filter(None, map(_texts, found)), [])
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _texts(item)]
    if value is None or _is_nan(value) or (isinstance(value, str) and value in NO_ANSWERS):
        return []
    return [clean(as_text(value))]


def as_text(value: Any) -> str:
    """A value as text: bytes are decoded, other values are as Python writes them; "" if it cannot write one."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return str(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return ""


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)  # pandas' way to say that there is nothing


def _literal(text: str, *, numbers: bool) -> Any:
    """The list or object that a text is, or None if it is just a text."""
    text = text.strip()
    if (text[:1], text[-1:]) not in (("[", "]"), ("{", "}")):
        return None
    for parse in (json.loads, _python_literal):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        kinds = (str, dict, list, int, float) if numbers else (str, dict, list)
        if isinstance(value, dict) or (isinstance(value, list) and all(isinstance(item, kinds) for item in value)):
            return value
    return None


def _python_literal(text: str) -> Any:
    """Parses a Python literal; NumPy prints a list without commas, and Python would make one text of its texts."""
    if len(text) > MAX_LITERAL_CHARS:
        raise ValueError
    value = _python_value(ast.parse(text, mode="eval").body)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        texts = [token.string for token in tokens if token.type == tokenize.STRING]
        if len(value) < len(texts):
            return [ast.literal_eval(text) for text in texts]
    return value


def _python_value(node: ast.AST) -> Any:
    """The value of a syntax tree of literals, in which pandas may have written `array([...], dtype=object)`.

    Raises:
        ValueError: there is anything else in it.
    """
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_python_value(item) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {str(_python_value(k)): _python_value(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.Call(func=ast.Name(id="array"), args=[ast.List() as items]):
            return _python_value(items)
    raise ValueError
