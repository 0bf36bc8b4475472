"""Which of the forms of a word goes with a number, by language.

The forms are in the order in which MediaWiki's {{plural:}} takes them, and the rules those of Unicode's CLDR
(https://cldr.unicode.org/index/cldr-spec/plural-rules) for whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_NONE = frozenset("ja zh ko th vi id ms lo my km jv su bo dz yo ig zh-yue wuu".split())
_ZERO_IS_ONE = frozenset("fr pt hi bn fa am zu hy ak ln mg pa wa ti oc".split())


def _slavic(number: int) -> int:
    if number % 10 == 1 and number % 100 != 11:
        return 0
    return 1 if 2 <= number % 10 <= 4 and not 12 <= number % 100 <= 14 else 2


def _polish(number: int) -> int:
    if number == 1:
        return 0
    return 1 if 2 <= number % 10 <= 4 and not 12 <= number % 100 <= 14 else 2


def _czech(number: int) -> int:
    return 0 if number == 1 else 1 if 2 <= number <= 4 else 2


def _lithuanian(number: int) -> int:
    if 11 <= number % 100 <= 19 or number % 10 == 0:
        return 2
    return 0 if number % 10 == 1 else 1


def _latvian(number: int) -> int:
    """Zero, one, other."""
    if number % 10 == 0 or 11 <= number % 100 <= 19:
        return 0
    return 1 if number % 10 == 1 else 2


def _slovene(number: int) -> int:
    return {1: 0, 2: 1, 3: 2, 4: 2}.get(number % 100, 3)


def _romanian(number: int) -> int:
    if number == 1:
        return 0
    return 1 if number == 0 or 1 <= number % 100 <= 19 else 2


def _arabic(number: int) -> int:
    if number < 3:
        return number
    return 3 if 3 <= number % 100 <= 10 else 4 if number % 100 >= 11 else 5


_RULES: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(("ru", "uk", "be", "sr", "hr", "bs", "sh", "rue"), _slavic),
    "pl": _polish,
    "cs": _czech,
    "sk": _czech,
    "lt": _lithuanian,
    "lv": _latvian,
    "ltg": _latvian,
    "sl": _slovene,
    "ro": _romanian,
    "ar": _arabic,
}


def form_of(number: str, code: str) -> int:
    """The place of the form that goes with a number; what is no whole number takes that of many.

    >>> form_of("1", "en"), form_of("21", "ru"), form_of("0", "fr"), form_of("5", "ja")
    (0, 0, 0, 0)
    """
    if code in _NONE:
        return 0
    if not re.fullmatch(r"-?\d{1,18}", number):
        return 2 if code in _RULES else 1
    value = abs(int(number))
    if code in _RULES:
        return _RULES[code](value)
    return 0 if value == 1 or (value == 0 and code in _ZERO_IS_ONE) else 1
