"""Charts as SVG that stands in a page: its texts are texts, and its colours those of the page.

What is drawn in one of the colours below gets the page's colour of that name instead, so that one
drawing serves a light and a dark page.
"""

import contextlib
import io
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from maskaq_jax.report.markup import Html

Points = Sequence[tuple[float, float]]

# Stand for colours of the page while a chart is drawn.
_INK, _GRID, _WORST = "#010203", "#010204", "#010205"
_SERIES = tuple(f"#0101{number:02d}" for number in range(10, 16))
_PAGE_COLOURS = {
    _INK: "currentColor",
    _GRID: "var(--line)",
    _WORST: "var(--worst)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES)},
}
# Lines that can be told apart without their colours.
_MARKERS, _DASHES = "os^Dv*P", ("-", "--", ":", "-.", (0, (6, 1)))
_MOST_MARKED = 40
_STYLE = {
    "axes.edgecolor": _INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    # The same page for the same run.
    "svg.hashsalt": "maskaq_jax",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


def lines(
    name: str,
    label: str,
    series: Mapping[str, Points],
    x_label: str,
    y_label: str = "",
    *,
    size: tuple[float, float] = (360, 210),
    marks: Sequence[float] = (),
    ticks: Sequence[str] = (),
) -> Html:
    """Lines of points, logarithmic where all values are positive and far apart.

    Args:
      name: of the chart, unlike any other's of the page.
      label: what it shows, for those who can't see it.
      series: name of a line -> its points (x, y).
      x_label: below.
      y_label: at the left.
      size: width and height, pixels of a wide page.
      marks: abscissae of upright lines.
      ticks: what to write at 0, 1 and so on, in place of numbers.
    """
    with _drawing(size) as (figure, axis):
        for number, (line, points) in enumerate(series.items()):
            axis.plot(
                [x for x, _ in points],
                [y for _, y in points],
                label=line,
                color=_SERIES[number % len(_SERIES)],
                linestyle=_DASHES[number % len(_DASHES)],
                marker=_MARKERS[number % len(_MARKERS)] if len(points) <= _MOST_MARKED else None,
                markersize=4,
            )
        for mark in marks:
            axis.axvline(mark, color=_INK, linewidth=0.8, linestyle=":")
        values = [y for points in series.values() for _, y in points if math.isfinite(y)]
        if values and min(values) > 0 and max(values) > 30 * min(values):
            _make_logarithmic(axis, values)
        _label(axis, x_label, y_label, ticks)
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=min(3, len(series)))
        return _inline(figure, name, label)


def bars(name: str, label: str, values: Mapping[str, float], x_label: str) -> Html:
    """A bar to the right for each value, the first on top.

    Args:
      name: of the chart, unlike any other's of the page.
      label: what it shows, for those who can't see it.
      values: by what is written beside each.
      x_label: below.
    """
    with _drawing((360, 44 + 26 * len(values))) as (figure, axis):
        axis.barh(list(values), list(values.values()), color=_SERIES[0], height=0.6)
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")
        axis.set_xlabel(x_label)
        return _inline(figure, name, label)


def histogram(name: str, label: str, shares: np.ndarray) -> Html:
    """Steps without axes, as small as a word; those who see it read its ends beside it.

    Args:
      name: of the chart, unlike any other's of the page.
      label: what it shows, for those who can't see it.
      shares: [n] of each bin.
    """
    with _drawing((120, 48), has_axes=False) as (figure, axis):
        axis.stairs(shares, fill=True, color=_SERIES[0], linewidth=0)
        axis.hlines(0, 0, len(shares), color=_INK, linewidth=1)
        axis.set_xlim(0, len(shares))
        axis.set_ylim(0, 1.02 * max(shares))
        return _inline(figure, name, label)


def heat_map(
    name: str,
    label: str,
    shares: np.ndarray,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
) -> Html:
    """Cells that are the darker, the more there is to them; none where there is nothing.

    It keeps its width, and is to be scrolled where there is less room.

    Args:
      name: of the chart, unlike any other's of the page.
      label: what it shows, for those who can't see it.
      shares: [rows, columns] 0 to 1; not a number where there is no cell.
      texts: in each cell.
      rows: what is written beside each row.
      columns: above each column.
    """
    size = 100 + 26 * len(columns), 70 + 19 * len(rows)
    with _drawing(size) as (figure, axis):
        from matplotlib.patches import Rectangle

        axis.set_xlim(-0.5, len(columns) - 0.5)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(visible=False)
        for row, column in np.argwhere(np.isfinite(shares)).tolist():
            corner = column - 0.47, row - 0.46
            share = float(shares[row, column])
            axis.add_patch(
                Rectangle(corner, 0.94, 0.92, facecolor=_WORST, alpha=0.08 + 0.8 * share)
            )
            axis.text(
                *(column, row, texts[row][column]),
                **{"ha": "center", "va": "center", "fontsize": 8},
            )
        axis.set_yticks(range(len(rows)), rows, fontsize=9)
        axis.xaxis.tick_top()
        axis.set_xticks(range(len(columns)), columns, fontsize=9, rotation=90)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        return _inline(figure, name, label, is_fixed=True)


def colour_map(values: np.ndarray) -> np.ndarray:
    """[..., 4] uint8 colours of values from 0 to 1, alike to those who see no colours."""
    from matplotlib import colormaps

    return np.asarray(colormaps["viridis"](values, bytes=True))


def _make_logarithmic(axis: Any, values: Sequence[float]) -> None:
    """Few ticks, written as numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    is_narrow = max(values) < 1000 * min(values)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if is_narrow else (1.0,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _label(axis: Any, x_label: str, y_label: str, ticks: Sequence[str]) -> None:
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    if ticks:
        upright = sum(len(tick) + 1 for tick in ticks) > 50
        axis.set_xticks(range(len(ticks)), ticks, rotation=90 if upright else 0, fontsize=8.5)
    else:
        from matplotlib.ticker import MaxNLocator

        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))


@contextlib.contextmanager
def _drawing(size: tuple[float, float], has_axes: bool = True) -> Iterator[tuple[Any, Any]]:
    """A figure and its axis in the style of charts, whatever a user's own is.

    Without axes, what is drawn fills the figure, which saves the time of laying it out.
    """
    # It tells of the cache of fonts that it makes where it is used first.
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from matplotlib import style
        from matplotlib.figure import Figure

        with style.context(["default", _STYLE]), warnings.catch_warnings():
            # Of names that there is no room for, a run tells nothing.
            warnings.simplefilter("ignore")
            layout: Any = "constrained" if has_axes else None
            figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout=layout)
            if has_axes:
                yield figure, figure.subplots()
            else:
                axis = figure.add_axes((0, 0, 1, 1))
                axis.set_axis_off()
                yield figure, axis
    finally:
        logger.setLevel(level)


def _inline(figure: Any, name: str, label: str, is_fixed: bool = False) -> Html:
    """A figure as SVG for a page: no sizes, metadata or ids of its own, and the page's colours."""
    written = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(written, format="svg", metadata=nothing)
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _localise(element, name)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"], root.attrib["version"]
    root.attrib |= {
        "class": "chart",
        "style": f"max-width: {1.4 * width:.0f}px" + is_fixed * f"; min-width: {width:.0f}px",
        "role": "img",
        "aria-label": label,
    }
    return Html(re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode")))


def _localise(element: ElementTree.Element, name: str) -> None:
    """Takes off namespaces, gives ids the chart's name, and colours the page's."""
    element.tag = element.tag.removeprefix(_SVG)
    if element.tag == "g":
        element.attrib.pop("id", None)
    if own := element.attrib.get("id"):
        element.attrib["id"] = f"{name}-{own}"
    if link := element.attrib.pop(_LINK, None):
        element.attrib["href"] = f"#{name}-{link.removeprefix('#')}"
    for key, value in element.attrib.items():
        value = value.replace("url(#", f"url(#{name}-")
        # The page's font, which is narrower than the one that it is laid out by.
        value = re.sub(r"(font: [\d ]*[\d.]+px) [^;]*", r"\1 var(--font)", value)
        for colour, of_page in _PAGE_COLOURS.items():
            value = value.replace(colour, of_page)
        element.attrib[key] = value
