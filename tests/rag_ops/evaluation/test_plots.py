"""Tests of rag_ops.evaluation.plots: what is drawn, read back from the SVG."""

import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from rag_ops.evaluation import plots

LABELS = {"title": "Lengths", "x_label": "words", "y_label": "questions"}
SVG = plots.bar_plot(["0", "1", "2+"], [("answers", [0, 30, 10]), ("<gold>", [5, 0, 0])], **LABELS)


def elements(svg: str, tag: str, kind: str) -> list[ElementTree.Element]:
    return [one for one in ElementTree.fromstring(svg).iter(tag) if kind in one.get("class", "").split()]


def test_bars_are_as_high_as_their_counts():
    bars = [bar for bar in elements(SVG, "rect", "bar") if len(bar)]
    heights = [float(bar.get("height", 0)) for bar in bars]
    assert heights[2] == pytest.approx(3 * heights[4], rel=0.01)
    assert heights[0] == heights[3] == 0
    assert [bar[0].text for bar in bars][1] == "<gold>, 0: 5"


def test_a_line_goes_through_its_points_and_up_with_them():
    svg = plots.line_plot([("a", [(1, 0.2), (10, 0.5), (100, 0.9)])], log_x=True, **LABELS)
    (line,) = elements(svg, "polyline", "line")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    steps = [b[0] - a[0] for a, b in itertools.pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)  # equal factors, equal steps
    assert points[0][1] > points[1][1] > points[2][1]
    assert len(elements(svg, "circle", "dot")) == 3
    assert not elements(plots.line_plot([("a", [(5, 0.2)])], joined=False, **LABELS), "polyline", "line")


def test_calibration_draws_a_bar_for_each_bin_with_answers():
    bins = [(0.0, 0.5, 4, 0.25), (0.5, 1.0, 0, None)]
    svg = plots.calibration_plot(bins, **LABELS)
    bars = [bar for bar in elements(svg, "rect", "bar") if len(bar)]
    assert [bar[0].text for bar in bars] == ["probability 0% to 50%: 25.0% right of 4 answers"]
    assert len(elements(svg, "line", "ideal")) == 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_a_share_stays_under_the_top(share):
    assert share <= plots.nice_top(share) <= 1
