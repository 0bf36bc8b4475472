"""The arguments of a template as its handler gets them: plain texts, by position and by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Handler = Callable[[Sequence[str], Mapping[str, str]], str]  # positional arguments in order, and the named ones


class Raised(str):
    """What a template shows as a superscript: an exponent only behind a number."""


def at(positional: Sequence[str], place: int, default: str = "") -> str:
    """The argument at a place, without spaces around it; `default` if it is not there or empty."""
    return (positional[place].strip() if place < len(positional) else "") or default


def filled(positional: Sequence[str]) -> list[str]:
    """The arguments that are not empty."""
    return [part.strip() for part in positional if part.strip()]


def is_yes(argument: str | None) -> bool:
    """Whether an argument says yes."""
    return (argument or "").lower() in ("y", "yes", "true", "1", "on")


def argument(number: str) -> Handler:
    """A handler that gives the argument of this number, by position or by name."""
    return lambda positional, named: at(positional, int(number) - 1) or named.get(number, "")
