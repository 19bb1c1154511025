"""Accuracy against the number of synthetic images, and against the number of refreshes.

    python -m benchmarks.budgets --models=vit_fashion,swin_fashion --seeds=5

Runs MaskAQ without a background at W3A3, `--jobs` runs side by side: what is recorded is skipped,
as in `benchmarks.methods`. All take the same number of training steps, and calibrate on 256 images
or all there are. Writes `docs/results/budgets.csv`, a row a run, `docs/results/budgets.json`,
digests of their settings, and `docs/results/budgets.png`.
"""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import charts, runs

# Images; the epochs they are trained for keep the number of steps.
_IMAGES = {32: 600, 64: 300, 160: 120, 320: 60, 640: 30}
_MIDDLE = 320
# How often images are made again; the epochs between, of 60.
_REFRESHES = {0: 0, 1: 30, 2: 20, 4: 12}
_BATCH_SIZE = 160
COLUMNS = ("model", "seed", "num_samples", "refreshes", "epochs", "top1", "seconds")


@dataclasses.dataclass(frozen=True)
class Point:
    """A run: so many images, made again so often."""

    model: str
    seed: int
    num_samples: int
    refreshes: int

    @property
    def run(self) -> runs.Run:
        """The run that produces its row."""
        return runs.Run(
            f"{self.model}_{self.num_samples}_{self.refreshes}_{self.seed}",
            self.model,
            f"background=none,seed={self.seed}",
            (
                f"--config.samples.num_samples={self.num_samples}",
                f"--config.samples.batch_size={min(self.num_samples, _BATCH_SIZE)}",
                f"--config.samples.refresh_every={_REFRESHES[self.refreshes]}",
                f"--config.finetuning.epochs={_IMAGES[self.num_samples]}",
            ),
        )


def main() -> None:
    """Runs what is missing, then writes the results of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="vit_fashion,swin_fashion", help="of configs/")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each point")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--workdir", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    record = runs.Record(options.out / "budgets.csv", COLUMNS, run_of)
    by_run = {point.run: point for point in list_points(options.models.split(","), options.seeds)}
    write = functools.partial(draw, path=options.out / "budgets.png")
    runs.fill(record, by_run, make_row, write, options.workdir, options.jobs)


def list_points(models: Iterable[str], num_seeds: int) -> list[Point]:
    """Many images once, and their middle number again and again; a seed at a time."""
    budgets = [(images, 0) for images in _IMAGES]
    budgets += [(_MIDDLE, refreshes) for refreshes in _REFRESHES if refreshes]
    return [
        Point(model, seed, *budget)
        for seed, model, budget in itertools.product(range(num_seeds), models, budgets)
    ]


def run_of(row: dict[str, Any]) -> runs.Run | None:
    """The run a row is of; None where there is no such point any more."""
    if row["num_samples"] not in _IMAGES or row["refreshes"] not in _REFRESHES:
        return None
    return Point(row["model"], row["seed"], row["num_samples"], row["refreshes"]).run


def make_row(point: Point, results: dict[str, Any]) -> dict[str, Any]:
    """The row of a run."""
    return dataclasses.asdict(point) | {
        "epochs": results["epochs"],
        "top1": results["quantized_top1"],
        "seconds": runs.total_seconds(results),
    }


def redraw(out: Path) -> None:
    """Draws the chart of what is recorded in a folder, if anything is."""
    record = runs.Record(out / "budgets.csv", COLUMNS, run_of)
    if record.rows:
        draw(list(record.rows.values()), out / "budgets.png")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws the chart."""
    models = sorted({row["model"] for row in rows})
    panels: dict[str, charts.Lines] = {}
    for model in models:
        own = [row for row in rows if row["model"] == model]
        panels[f"{model}, images"] = {
            "made once": collect([row for row in own if row["refreshes"] == 0], "num_samples")
        }
        middle = [row for row in own if row["num_samples"] == _MIDDLE]
        panels[f"{model}, refreshes"] = {f"{_MIDDLE} images": collect(middle, "refreshes")}
    charts.draw_accuracies(path, panels, "number of images or refreshes")


def collect(rows: list[dict[str, Any]], column: str) -> list[tuple[float, list[float]]]:
    """Accuracies of all seeds for each value of a column, in order."""
    return [
        (value, [row["top1"] for row in rows if row[column] == value])
        for value in sorted({row[column] for row in rows})
    ]


if __name__ == "__main__":
    main()
