"""Checks of settings, each refused in one line that names the command line's flag."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

from rag_ops.errors import InputError


def check_count(flag: str, value: int | None) -> None:
    """Checks that a count is 1 or more, or not given.

    Raises:
        InputError: it is less, or no whole number.
    """
    if value is None:
        return
    check_whole(flag, value)
    if value < 1:
        raise InputError(f"{flag} is too small", value=value, expected="1 or more")


def check_whole(flag: str, value: Any) -> None:
    """Checks that a number is a whole one.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"{flag} is no whole number", value=value, expected="a whole number")


def check_choice(flag: str, value: Any, choices: Sequence[Any]) -> None:
    """Checks that `value` is one of `choices`.

    Raises:
        InputError: it is not.
    """
    if value not in choices:
        raise InputError(f"{flag} is unknown", value=value, expected=" or ".join(map(str, choices)))
