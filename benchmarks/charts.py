"""Charts of accuracies with their spread, and the figures they are drawn on."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Name of a line -> (abscissa, accuracies of all seeds), in order.
Lines = Mapping[str, Sequence[tuple[float | str, Sequence[float]]]]


def new_figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> Any:
    """A figure that no window and no list of figures holds, and its axes, [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def draw_accuracies(path: Path, panels: Mapping[str, Lines], label: str) -> None:
    """Draws mean and standard deviation of top-1 over seeds.

    Args:
      path: of the PNG.
      panels: title of each panel -> its lines.
      label: of the abscissa.
    """
    figure, axes = new_figure(1, len(panels), (5.5 * len(panels), 4))
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for name, points in lines.items():
            axis.errorbar(
                [abscissa for abscissa, _ in points],
                [statistics.mean(values) for _, values in points],
                [statistics.stdev(values) if len(values) > 1 else 0 for _, values in points],
                label=name,
                marker="o",
                capsize=3,
            )
        axis.set_title(title)
        axis.set_xlabel(label)
        axis.set_ylabel("top-1 %")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=100)
