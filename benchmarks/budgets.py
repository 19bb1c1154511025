"""Accuracy against the number of synthetic images, and against the number of refreshes.

    python -m benchmarks.budgets --models=vit_fashion,swin_fashion --seeds=3

Runs MaskAQ at W3A3, one after another: what is done is skipped, and what was stopped continues. All
runs take the same number of training steps. Writes `docs/results/budgets.csv`, a row a run, and
`docs/results/budgets.png`.
"""

import argparse
import csv
import itertools
from pathlib import Path
from typing import Any

from benchmarks import charts, runs

# Images; the epochs they are trained for keep the number of steps.
_IMAGES = {40: 480, 80: 240, 160: 120, 320: 60, 640: 30}
# How often images are made again; the epochs between, of 60.
_REFRESHES = {0: 0, 1: 30, 2: 20, 4: 12}
_BATCH_SIZE = 160
COLUMNS = ("model", "seed", "num_samples", "refreshes", "epochs", "top1", "seconds")


def main() -> None:
    """Runs what is missing, then writes the results of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="vit_fashion,swin_fashion", help="of configs/")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each point")
    parser.add_argument("--workdir", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    rows = []
    points = list_points()
    for seed, model, point in itertools.product(
        range(options.seeds), options.models.split(","), points
    ):
        rows.append(run(model, seed, *point, options.workdir))
        # After every run, so that stopped ones leave what they have.
        write_results(rows, options.out)


def list_points() -> list[tuple[int, int]]:
    """Images and refreshes of each run: many images once, the middle number again and again."""
    middle = list(_IMAGES)[3]
    return [(images, 0) for images in _IMAGES] + [(middle, count) for count in _REFRESHES if count]


def flags(num_samples: int, refreshes: int) -> tuple[str, ...]:
    """Of the run with so many images, refreshed so often."""
    return (
        f"--config.samples.num_samples={num_samples}",
        f"--config.samples.batch_size={min(num_samples, _BATCH_SIZE)}",
        f"--config.samples.refresh_every={_REFRESHES[refreshes]}",
        f"--config.finetuning.epochs={_IMAGES[num_samples]}",
    )


def run(model: str, seed: int, num_samples: int, refreshes: int, workdir: Path) -> dict[str, Any]:
    """The row of a run, made now or before."""
    results = runs.finish(
        workdir / f"{model}_{num_samples}_{refreshes}_{seed}",
        f"{model}.py:seed={seed}",
        *flags(num_samples, refreshes),
    )
    return {
        "model": model,
        "seed": seed,
        "num_samples": num_samples,
        "refreshes": refreshes,
        "epochs": results["epochs"],
        "top1": results["quantized_top1"],
        "seconds": round(sum(results["seconds"].values()), 1),
    }


def write_results(rows: list[dict[str, Any]], out: Path) -> None:
    """Writes the table of runs and the chart."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "budgets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    models = sorted({row["model"] for row in rows})
    panels: dict[str, charts.Lines] = {}
    for model in models:
        own = [row for row in rows if row["model"] == model]
        panels[f"{model}, images"] = {
            "made once": collect([row for row in own if row["refreshes"] == 0], "num_samples")
        }
        middle = [row for row in own if row["num_samples"] == list(_IMAGES)[3]]
        panels[f"{model}, refreshes"] = {"320 images": collect(middle, "refreshes")}
    charts.draw_accuracies(out / "budgets.png", panels, "number of images or refreshes")


def collect(rows: list[dict[str, Any]], column: str) -> list[tuple[float, list[float]]]:
    """Accuracies of all seeds for each value of a column, in order."""
    return [
        (value, [row["top1"] for row in rows if row[column] == value])
        for value in sorted({row[column] for row in rows})
    ]


if __name__ == "__main__":
    main()
