import math
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from maskaq_jax.report import charts

POINTS = {"first": [(0, 1.0), (1, 0.5)], "second": [(0, 2.0), (1, float("nan")), (2, 3.0)]}


def _draw_all():
    cells = np.array([[0.0, 1.0], [0.5, math.nan]])
    return {
        "lines": charts.lines("one", "Loss by epoch", POINTS, "epoch", "loss", marks=[0.5]),
        "ticks": charts.lines("two", "By block", POINTS, "block", ticks=["patches", "0", "head"]),
        "bars": charts.bars("three", "Time", {"synthesis, 80 s": 70.0, "rest": 30.0}, "%"),
        "histogram": charts.histogram("four", "Codes", np.array([0.1, 0.6, 0.3])),
        "map": charts.heat_map(
            *("five", "Losses", cells, [["1", "2"], ["3", ""]], ["qkv", "fc1"], ["0", "1"])
        ),
    }


@pytest.fixture(scope="module")
def drawn():
    return _draw_all()


def test_a_chart_is_one_picture_with_a_name_and_texts_that_are_texts(drawn):
    root = ElementTree.fromstring(drawn["lines"])
    assert root.tag == "svg"
    assert (root.get("role"), root.get("aria-label")) == ("img", "Loss by epoch")
    texts = {element.text for element in root.iter("text")}
    assert {"epoch", "loss", "first", "second"} <= texts


def test_colours_are_the_page_s(drawn):
    for chart in drawn.values():
        colours = set(re.findall(r"(?:fill|stroke): ?([^;\"]+)", chart))
        allowed = ("currentColor", "var(--", "none")
        assert all(colour.strip().startswith(allowed) for colour in colours), colours


def test_nothing_points_out_of_the_page_or_at_another_chart(drawn):
    together = "".join(drawn.values())
    assert "http" not in together
    ids = re.findall(r'\bid="([^"]+)"', together)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", together)) <= set(ids)


def test_the_same_chart_comes_out_the_same_whatever_a_user_s_style_is(drawn):
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert _draw_all() == drawn


def test_names_are_escaped():
    name = "</svg><script>alert(1)</script>"
    chart = charts.bars("x", name, {name: 1.0}, name)
    assert "<script" not in chart
    assert ElementTree.fromstring(chart).get("aria-label") == name


def test_values_far_apart_get_ticks_of_powers():
    chart = charts.lines("x", "x", {"": [(i, 10.0**-i) for i in range(6)]}, "step")
    texts = {element.text for element in ElementTree.fromstring(chart).iter("text")}
    assert {"1", "0.01", "0.0001"} <= texts


def test_a_value_that_is_none_leaves_a_gap_and_one_point_is_enough():
    assert "<path" in charts.lines("x", "x", {"": [(0, 1.0)]}, "step")
    assert charts.lines("x", "x", {"": [(0, math.nan)]}, "step")
    assert charts.lines("x", "x", {"": [(0, 0.0), (1, -1.0)]}, "step")
