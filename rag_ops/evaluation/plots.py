"""Plots as SVG text, to stand in a page of HTML: no script draws them, and the page's own colours are used.

Here numbers become shares of an axis, 0 to 1; the template `plot.svg` draws them. Its classes: `axis`, `grid`, `tick`,
`label`, `value` for the frame, `s0`, `s1` ... for the colours of series. The labels of each plot are its `title`, for
screen readers, and `x_label` and `y_label`, which stand by its axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rag_ops.evaluation.templates import render

MANY_POINTS = 25  # from so many on only round ones get a number under the axis
LEAST_GAP = 0.06  # share of the axis between two numbers under it
LEAST_HEIGHT = 0.005  # share of the axis that a bar of no right answers takes, to be seen
ROUND = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)
Series = tuple[str, Sequence[tuple[float, float]]]  # name, and (x, y) by rising x


def line_plot(series: Sequence[Series], *, log_x: bool = False, joined: bool = True, **labels: str) -> str:
    """Lines with a marker at each point; y is a share, drawn in percent.

    Args:
        series: at least one with a point.
        log_x: whether x grows by factors.
        joined: whether the points of a series are one line.
        labels: see above.
    """
    xs = sorted({x for _, points in series for x, _ in points})
    top = nice_top(max(y for _, points in series for _, y in points))
    scale = math.log if log_x else float
    low, high = scale(xs[0]), scale(xs[-1])

    def at(x: float) -> float:
        return (scale(x) - low) / (high - low) if high > low else 0.5

    return render(
        "plot.svg",
        **labels,
        grid=_share_grid(top),
        ticks=[(at(x), f"{x:g}") for x in _spaced(xs, at)],
        names=[name for name, _ in series],
        lines=[[(at(x), y / top, f"{name}: {y:.2%} at {x:g}") for x, y in points] for name, points in series],
        joined=joined,
    )


def bar_plot(names: Sequence[str], series: Sequence[tuple[str, Sequence[int]]], **labels: str) -> str:
    """Counts as bars, those of one name side by side.

    Args:
        names: names under the bars.
        series: names, and a count for each name under the bars.
        labels: see above.
    """
    top = nice_count(max((count for _, counts in series for count in counts), default=0))
    step = 1 / max(len(names), 1)
    width = step * 0.8 / len(series)
    return render(
        "plot.svg",
        **labels,
        grid=[(part / 4, f"{part * top // 4:,}") for part in range(5) if top >= 4 or not part * top % 4],
        ticks=[(step * (place + 0.5), name) for place, name in enumerate(names)],
        names=[name for name, _ in series],
        bars=[
            (n, step * (place + 0.1) + n * width, width, counts[place] / top, f"{one}, {name}: {counts[place]:,}", "")
            for place, name in enumerate(names)
            for n, (one, counts) in enumerate(series)
        ],
    )


def calibration_plot(bins: Sequence[tuple[float, float, int, float | None]], **labels: str) -> str:
    """The share of right answers by bins of their probability, next to the diagonal that a calibrated score follows.

    Args:
        bins: from, to, number of answers, share of right ones.
        labels: see above.
    """
    bars = []
    for low, high, count, em in bins:
        if count and em is not None:
            hint, width = (
                f"probability {low:.0%} to {high:.0%}: {em:.1%} right of {count:,} answers",
                0.9 * (high - low),
            )
            bars.append((0, (low + high - width) / 2, width, max(em, LEAST_HEIGHT), hint, f"{count:,}"))
    return render(
        "plot.svg",
        **labels,
        grid=_share_grid(1.0),
        ticks=[(place / 5, f"{place / 5:.0%}") for place in range(6)],
        names=["exact match; over each bar its answers"],
        bars=bars,
        diagonal=True,
    )


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


def _share_grid(top: float) -> list[tuple[float, str]]:
    return [(part / 5, f"{top * part / 5:.0%}") for part in range(6)]


def _spaced(xs: Sequence[float], at: Callable[[float], float]) -> list[float]:
    """The points that get a number under the axis: the ends, then round ones, with room between them."""
    few = len(xs) <= MANY_POINTS
    kept: list[float] = []
    for x in [xs[0], xs[-1], *(x for x in xs if x in ROUND), *(x for x in xs if few)]:
        if all(abs(at(x) - at(other)) >= LEAST_GAP for other in kept):
            kept.append(x)
    return sorted(kept)
