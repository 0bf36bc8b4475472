"""The Jinja templates of the report. Every text that they print is escaped and cut, whatever it holds."""

from __future__ import annotations

import functools
from typing import Any

import jinja2

COLOURS = 8  # classes s0, s1 ... of report.html
SHOWN_CHARS = 1500  # characters of any one text: a report's size is bounded whatever the rows hold


def render(template: str, **values: Any) -> str:
    """Returns a template of this folder, filled in; what it marks as safe, which is our own, it prints as HTML."""
    return _environment().get_template(template).render(values)


def figure(value: float | None, form: str = ".1%") -> str:
    """Returns a number as text, by default in percent; a dash for None.

    >>> figure(0.256), figure(1234, ","), figure(None)
    ('25.6%', '1,234', '–')
    """
    return "–" if value is None else format(value, form)


def interval(ends: tuple[float, float] | None, sign: str = "") -> str:
    """Returns the ends of an interval as text, in percent; empty for None.

    >>> interval((0.256, 0.31)), interval((-0.01, 0.02), "+"), interval(None)
    ('25.6 to 31.0%', '-1.0 to +2.0%', '')
    """
    return "" if ends is None else f"{100 * ends[0]:{sign}.1f} to {100 * ends[1]:{sign}.1f}%"


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("rag_ops.evaluation", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_cut,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"figure": figure, "interval": interval, "colour": lambda number: f"s{number % COLOURS}"}
    return made


def _cut(value: Any) -> Any:
    """A text that is not marked as safe, cut and without NUL, which HTML does not have; other values as they are."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return (value if len(value) <= SHOWN_CHARS else value[:SHOWN_CHARS] + "…").replace("\0", "\ufffd")
