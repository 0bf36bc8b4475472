"""Evaluates what {{#expr:}} holds, with the operators and the precedence of MediaWiki's ParserFunctions extension.

https://www.mediawiki.org/wiki/Help:Extension:ParserFunctions#expr says what there is. All values are floats.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal

MAX_CHARS = 2000  # of an expression
SHOWN_DIGITS = 14  # of a result, as PHP writes a float
_EXACT = Context(prec=700)  # digits of any float, rounded at any place
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|([a-z]+)|(<=|>=|<>|!=|[-+*/^()=<>÷×−]))", re.IGNORECASE)
_SPELLED = {"−": "-", "×": "*", "÷": "/", "!=": "<>"}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_UNARY: dict[str, Callable[[float], float]] = {
    "not": lambda x: float(not x),
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "trunc": math.trunc,
    "exp": math.exp,
    "ln": math.log,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
}
_SIGNS: dict[str, Callable[[float], float]] = {"-": operator.neg, "+": operator.pos}
_BINARY: dict[str, tuple[int, Callable[[float, float], float]]] = {
    "e": (10, lambda x, y: x * math.pow(10, y)),
    "^": (8, lambda x, y: _power(x, y)),
    "*": (7, operator.mul),
    "/": (7, lambda x, y: _divided(x, y)),
    "div": (7, lambda x, y: _divided(x, y)),
    "mod": (7, lambda x, y: math.fmod(int(x), int(y))),
    "fmod": (7, math.fmod),
    "+": (6, operator.add),
    "-": (6, operator.sub),
    "round": (5, lambda x, y: _rounded(x, int(y))),
    "=": (4, operator.eq),
    "<>": (4, operator.ne),
    "<": (4, operator.lt),
    ">": (4, operator.gt),
    "<=": (4, operator.le),
    ">=": (4, operator.ge),
    "and": (3, lambda x, y: float(bool(x) and bool(y))),
    "or": (2, lambda x, y: float(bool(x) or bool(y))),
}
_SIGN, _FUNCTION = 10, 9  # precedence of signs and of functions
_Operator = tuple[int, Callable[..., float], int]  # precedence, what it does, number of operands; 0 for a bracket


class ExpressionError(ValueError):
    """An expression that has no value: malformed, or a division by zero."""


def evaluate(expression: str) -> str:
    """The value of an expression as MediaWiki writes it; empty if there is no expression.

    Raises:
        ExpressionError: it has no value.

    >>> evaluate("1 + 2 * 3 ^ 2"), evaluate("7 / 2 round 0"), evaluate("-7 mod 3"), evaluate("1/3"), evaluate("1e15*10")
    ('19', '4', '-1', '0.33333333333333', '1.0E+16')
    """
    if len(expression) > MAX_CHARS:
        raise ExpressionError("too long")
    operands: list[float] = []
    operators: list[_Operator] = []
    value_is_due = True
    position = 0
    text = expression.rstrip()
    try:
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ExpressionError(f"unrecognised character {text[position]!r}")
            position = match.end()
            number, word = match[1], (match[2] or match[3] or "").lower()
            word = _SPELLED.get(word, word)
            if value_is_due:
                value_is_due = _take_value(number, word, operands, operators)
            elif word == ")":
                while operators and operators[-1][2]:
                    _apply(operators.pop(), operands)
                if not operators:
                    raise ExpressionError("unexpected closing bracket")
                operators.pop()
            elif word in _BINARY:
                precedence, function = _BINARY[word]
                while operators and operators[-1][2] and operators[-1][0] >= precedence:
                    _apply(operators.pop(), operands)
                operators.append((precedence, function, 2))
                value_is_due = True
            else:
                raise ExpressionError(f"unexpected {number or word}")
        while operators:
            _apply(operators.pop(), operands)
    except (ArithmeticError, ValueError) as error:
        raise ExpressionError(str(error)) from error
    if not operands:
        return ""
    return shown(float(operands[0]))


def _take_value(number: str | None, word: str, operands: list[float], operators: list[_Operator]) -> bool:
    """Takes a token where a value may begin; returns whether the value is still to come."""
    if number:
        operands.append(float(number))
        return False
    if word in _CONSTANTS:
        operands.append(_CONSTANTS[word])
        return False
    if word == "(":
        operators.append((0, operator.pos, 0))
    elif word in _SIGNS:
        operators.append((_SIGN, _SIGNS[word], 1))
    elif word in _UNARY:
        operators.append((_FUNCTION, _UNARY[word], 1))
    else:
        raise ExpressionError(f"unexpected {word}")
    return True


def _apply(one: _Operator, operands: list[float]) -> None:
    _, function, count = one
    if not count:
        raise ExpressionError("unclosed bracket")
    if len(operands) < count:
        raise ExpressionError("missing operand")
    arguments = operands[-count:]
    del operands[-count:]
    operands.append(float(function(*arguments)))


def _divided(left: float, right: float) -> float:
    if right == 0:
        raise ExpressionError("division by zero")
    return left / right


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf


def _rounded(number: float, digits: int) -> float:
    """Rounds half away from zero, to tens and hundreds if there are fewer than no digits."""
    if not math.isfinite(number) or digits > 300:
        return number
    if digits < -300:
        return 0.0
    return float(Decimal(repr(number)).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP, context=_EXACT))


def shown(number: float) -> str:
    """A number as PHP writes a float.

    >>> shown(2.0), shown(1e-7), shown(0.1 + 0.2), shown(float("inf"))
    ('2', '1.0E-7', '0.3', 'INF')
    """
    if not math.isfinite(number):
        return "NAN" if math.isnan(number) else "INF" if number > 0 else "-INF"
    text = format(number, f".{SHOWN_DIGITS}g")
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return text
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{exponent[0]}{exponent[1:].lstrip('0')}"
