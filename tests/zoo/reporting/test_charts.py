import re
from xml.etree import ElementTree

import numpy as np
import pytest

from sb3_matrl.zoo.reporting.charts import HOVER_POINTS, MAX_POINTS, Series, line_chart, share_chart, thinned
from tests.zoo.reporting.pages import NASTY, curves_of, numbers_of


def test_curve_is_drawn_where_its_values_are():
    x, y = np.array([0.0, 50, 100]), np.array([0.0, 1, 0.5])
    chart = line_chart("t", [Series("s", x, y, y - 0.25, y + 0.25)], covers=(0.0, 1.0))
    ((line,),) = curves_of(chart)
    circles = list(ElementTree.fromstring(chart.svg).iter("circle"))
    places = np.array([[float(circle.get("cx")), float(circle.get("cy"))] for circle in circles])
    np.testing.assert_allclose(numbers_of(line), places, atol=1e-3)
    np.testing.assert_allclose(np.diff(places[:, 0]) / (places[-1, 0] - places[0, 0]), [0.5, 0.5], atol=1e-3)
    np.testing.assert_allclose((places[:, 1] - places[0, 1]) / (places[1, 1] - places[0, 1]), y, atol=1e-3)
    assert [circle.find("title").text for circle in circles] == [
        "s, 0 steps: 0 [\N{MINUS SIGN}0.25, 0.25]",
        "s, 50 steps: 1 [0.75, 1.25]",
        "s, 100 steps: 0.5 [0.25, 0.75]",
    ]
    assert chart.summary == "s: from 0 to 0.5, between 0 and 1"
    assert line_chart("t", [Series("s", np.empty(0), np.empty(0))]) is None


def test_of_several_values_at_one_step_the_last_finite_one_is_drawn():
    x, y = np.array([0.0, 1, 1, 2, 2]), np.array([0.0, 5, 1, 2, np.nan])
    (curve,) = line_chart("t", [Series("s", x, y, y - 1, y + 1)]).curves
    assert curve.x.tolist() == curve.y.tolist() == [0, 1, 2] and curve.low.tolist() == [-1, 0, 1]
    assert line_chart("t", [Series("s", x[:1], np.array([np.nan]))]) is None


def test_long_curve_has_few_points_to_hover_over():
    x = np.arange(10_000.0)
    chart = line_chart("t", [Series("s", x, np.sin(x))])
    assert chart.svg.count("<circle") == HOVER_POINTS and chart.averaged == round(len(x) / MAX_POINTS)
    assert len(chart.svg) < 30_000


def test_equal_curves_are_both_seen():
    x, y = np.array([0.0, 1.0]), np.array([2.0, 2.0])
    chart = line_chart("t", [Series("a", x, y), Series("b", x, y), Series("c", x, y + 1)])
    widths = [float(re.search(r"stroke-width: ([\d.]+)", line.get("style"))[1]) for (line,) in curves_of(chart)]
    assert widths[0] > widths[1] == widths[2]


@pytest.mark.parametrize("label", [NASTY, "_hidden", "$x$ and $", "agent \N{HAIR SPACE}\u4e2d"])
def test_any_name_can_label_a_curve(label):
    x = np.array([0.0, 1.0])
    chart = line_chart(label, [Series(label, x, x)], label)
    root = ElementTree.fromstring(chart.svg)
    assert root.get("aria-label").startswith(f"{label}. {label}: from 0 to 1")
    assert root.find(".//circle/title").text.startswith(label)
    assert chart.legend[0].label == label


def test_charts_of_a_page_share_nothing_and_are_equal_for_equal_numbers():
    def draw():
        x = np.array([0.0, 1.0, 2.0])
        return line_chart("t", [Series("s", x, x, x - 1, x + 1), Series("r", x, -x, colour=1, dash=1)]).svg

    assert draw() == draw()
    assert not re.search(r"\bid=|href|url\(|http|#[0-9a-f]{6}", draw())
    assert "var(--c0)" in draw() and "var(--c1)" in draw() and "var(--soft)" in draw()


def test_thinning_keeps_the_mean():
    x = np.arange(30_000.0)
    thin = thinned(Series("s", x, np.sin(x)))
    assert len(thin.x) == MAX_POINTS
    np.testing.assert_allclose(thin.y, np.sin(x).reshape(MAX_POINTS, -1).mean(axis=1), atol=1e-12)


@pytest.mark.e2e
def test_shares_of_the_fixed_points_add_up():
    cells = ["stable"] * 300 + ["saddle", "odd"] * 150
    chart = share_chart("t", np.arange(1.0, 601.0), cells, ["stable", "saddle", "odd"])
    assert chart.summary == "stable 50%, saddle 25%, odd 25%"
    bars = [group for group in ElementTree.fromstring(chart.svg).iter("g") if group.find("title") is not None]
    area = dict.fromkeys(("stable", "saddle", "odd"), 0.0)
    for bar in bars:
        sides = np.ptp(numbers_of(bar.find("path")), axis=0)
        area[bar.find("title").text.split()[-2]] += sides[0] * sides[1]
    np.testing.assert_allclose([area[name] / sum(area.values()) for name in area], [0.5, 0.25, 0.25], atol=0.01)
    assert bars[0].find("title").text == "0 to 10 steps: stable 100%"
    assert share_chart("t", np.empty(0), [], ["stable"]) is None
    later = share_chart("t", np.array([6000.0, 8000.0]), ["stable", "stable"], ["stable"])
    assert "4,000 to 6,000 steps: stable 100%" in later.svg, "a run that continues another model begins after it"
