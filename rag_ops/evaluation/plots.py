"""Plots as SVG text, to stand in a page of HTML: no script draws them, and the page's own colours are used.

Classes: `axis`, `grid`, `tick`, `label`, `value` for the frame, `s0`, `s1` ... for the colours of series.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 540, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 18, 34, 48
COLOURS = 8
MOST_DOTS = 25  # of a line: more would hide it
ROUND = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)
Point = tuple[float, float]
Series = tuple[str, Sequence[Point]]  # name, and (x, y) by rising x


def line_plot(
    title: str, series: Sequence[Series], x_label: str, y_label: str, *, log_x: bool = False, joined: bool = True
) -> str:
    """Lines with a marker at each point; y is a share, drawn in percent.

    Args:
        title: for those who hear the page.
        series: at least one with a point.
        x_label: under the axis.
        y_label: over the axis.
        log_x: whether x grows by factors.
        joined: whether the points of a series are one line.
    """
    xs = sorted({x for _, points in series for x, _ in points})
    top = nice_top(max(y for _, points in series for _, y in points))
    scale = (lambda x: math.log(x)) if log_x else float
    low, high = scale(xs[0]), scale(xs[-1])

    def at(x: float) -> float:
        place = (scale(x) - low) / (high - low) if high > low else 0.5
        return LEFT + 12 + place * (WIDTH - LEFT - RIGHT - 24)

    parts = [*_share_axis(top), *(_x_tick(at(x), f"{x:g}") for x in _spaced(xs, at))]
    for number, (name, points) in enumerate(series):
        colour = f"s{number % COLOURS}"
        if joined:
            path = " ".join(f"{at(x):.1f},{_y(y, top):.1f}" for x, y in points)
            parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        if len(points) <= MOST_DOTS:
            for x, y in points:
                hint = html.escape(f"{name}: {y:.2%} at {x:g}")
                parts.append(
                    f'<circle class="dot {colour}" cx="{at(x):.1f}" cy="{_y(y, top):.1f}" r="4">'
                    f"<title>{hint}</title></circle>"
                )
    parts.append(_legend([name for name, _ in series]))
    return _frame(title, parts, x_label, y_label)


def bar_plot(title: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[int]]], x_label: str) -> str:
    """Counts as bars, those of one label side by side.

    Args:
        title: for those who hear the page.
        labels: under the bars.
        series: names, and a count for each label.
        x_label: under the axis.
    """
    most = max((count for _, counts in series for count in counts), default=0)
    top = nice_count(most)
    step = (WIDTH - LEFT - RIGHT) / max(len(labels), 1)
    width = step * 0.8 / len(series)
    parts = [
        _grid(_y(part * top / 4, top), f"{part * top // 4:,}") for part in range(5) if top >= 4 or not part * top % 4
    ]
    for place, label in enumerate(labels):
        left = LEFT + step * place + step * 0.1
        parts.append(_x_tick(left + step * 0.4, label))
        for number, (name, counts) in enumerate(series):
            height = HEIGHT - BOTTOM - _y(counts[place], top)
            hint = html.escape(f"{name}, {label}: {counts[place]:,}")
            parts.append(
                f'<rect class="bar s{number}" x="{left + number * width:.1f}" y="{_y(counts[place], top):.1f}" '
                f'width="{width:.1f}" height="{height:.1f}" rx="1.5"><title>{hint}</title></rect>'
            )
    parts.append(_legend([name for name, _ in series]))
    return _frame(title, parts, x_label, "questions")


def calibration_plot(title: str, bins: Sequence[tuple[float, float, int, float | None]]) -> str:
    """The share of right answers by bins of their probability, next to the diagonal that a calibrated score follows.

    Args:
        title: for those who hear the page.
        bins: from, to, number of answers, share of right ones.
    """
    across = WIDTH - LEFT - RIGHT
    parts = _share_axis(1.0)
    parts += [_x_tick(LEFT + place / 5 * across, f"{place / 5:.0%}") for place in range(6)]
    for low, high, count, em in bins:
        if not count or em is None:
            continue
        left, width = LEFT + low * across, (high - low) * across
        hint = html.escape(f"probability {low:.0%} to {high:.0%}: {em:.1%} right of {count:,} answers")
        parts.append(
            f'<rect class="bar s0" x="{left + 2:.1f}" y="{_y(em, 1.0):.1f}" width="{width - 4:.1f}" '
            f'height="{max(HEIGHT - BOTTOM - _y(em, 1.0), 1):.1f}" rx="1.5"><title>{hint}</title></rect>'
            f'<text class="value" x="{left + width / 2:.1f}" y="{_y(em, 1.0) - 5:.1f}">{count:,}</text>'
        )
    parts.append(f'<line class="ideal" x1="{LEFT}" y1="{_y(0, 1.0):.1f}" x2="{WIDTH - RIGHT}" y2="{_y(1, 1.0):.1f}"/>')
    parts.append(_legend(["exact match; over each bar its answers"]))
    return _frame(title, parts, "answer's probability", "exact match")


def nice_top(share: float) -> float:
    """The top of an axis of shares: the next of 10%, 20%, 25%, 50%, 75% and 100%.

    >>> nice_top(0.31), nice_top(0.0)
    (0.5, 0.1)
    """
    return next((top for top in (0.1, 0.2, 0.25, 0.5, 0.75) if share <= top * 0.98), 1.0)


def nice_count(count: int) -> int:
    """The top of an axis of counts: the next number of one digit 1, 2, 4, 6 or 8 and zeros.

    >>> nice_count(0), nice_count(37), nice_count(4100)
    (1, 40, 6000)
    """
    power = 10 ** max(len(str(count)) - 1, 0)
    return next(digit * power for digit in (1, 2, 4, 6, 8, 10) if digit * power >= count)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _share_axis(top: float) -> list[str]:
    return [_grid(_y(top * part / 5, top), f"{top * part / 5:.0%}") for part in range(6)]


def _grid(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{text}</text>'
    )


def _x_tick(x: float, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}">{html.escape(text)}</text>'


def _spaced(xs: Sequence[float], at: Callable[[float], float]) -> list[float]:
    """Those of the points that get a number under the axis: the ends, then round ones, none over another."""
    few = len(xs) <= MOST_DOTS
    kept: list[float] = []
    for x in [xs[0], xs[-1], *(x for x in xs if x in ROUND), *(x for x in xs if few)]:
        if all(abs(at(x) - at(other)) >= 26 for other in kept):
            kept.append(x)
    return sorted(kept)


def _legend(names: Sequence[str]) -> str:
    parts, x = [], float(LEFT)
    for number, name in enumerate(names):
        shown = name if len(name) <= 40 else "…" + name[-39:]
        parts.append(
            f'<rect class="bar s{number % COLOURS}" x="{x:.1f}" y="8" width="11" height="11" rx="2"/>'
            f'<text class="label" x="{x + 16:.1f}" y="18">{html.escape(shown)}</text>'
        )
        x += 34 + 6.6 * len(shown)
    return "".join(parts)


def _frame(title: str, parts: Sequence[str], x_label: str, y_label: str) -> str:
    label = html.escape(title, quote=True)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        + "".join(parts)
        + f'<line class="axis" x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" y2="{HEIGHT - BOTTOM}"/>'
        + f'<text class="label mid" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}">{html.escape(x_label)}</text>'
        + f'<text class="label mid" transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">'
        + f"{html.escape(y_label)}</text></svg>"
    )
