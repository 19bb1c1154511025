"""The embedded detector and segmenter on synthetic images, noise and real ones, at several bits.

    python -m benchmarks.scenes --bits=3x3,4x4,4x8 --seeds=3

A run of `maskaq_jax.main` for each cell of the grid, `--jobs` of them side by side with a share of
the cores each, in a directory of its own under `--workdir`. Writes `docs/results/scenes.csv`, a row
a run, and between the marks of `docs/results/scenes.md` tables of means and standard deviations
with paired differences: of average precision for the detector, of mean IoU for the segmenter.

Runs in the table are done, unless the settings have changed since: `docs/results/scenes.json` has a
digest of each run's. So a grid that was stopped continues, on another machine too. A run that fails
is named at the end, and does not stop the others.
"""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import runs, tables
from maskaq_jax import config
from maskaq_jax.runs import results as results_lib

# Configs, and the figure of each that methods are compared by.
MODELS = {"scenes_yolos": "ap", "scenes_upernet": "miou"}
COLUMNS = (
    *("model", "weight_bits", "activation_bits", "method", "seed", "num_samples", "epochs"),
    *("metric", "fp", "calibrated", "quantized", "seconds"),
)


class Cell(runs.Cell):
    """A run of the grid; `method` is a name of `config.METHODS`."""

    @property
    def run(self) -> runs.Run:
        """The run that produces its row."""
        return self.run_with(f"method={self.method}")


def main() -> None:
    """Runs what is missing of the grid, then writes the tables of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="of configs/")
    parser.add_argument("--methods", default="noise,maskaq,real", help="of the grid")
    parser.add_argument(
        "--bits", type=runs.parse_bits, default="3x3,4x4,4x8", help="weights x activations"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--workdir", type=Path, default=Path("runs/scenes"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    models, methods = options.models.split(","), options.methods.split(",")
    for names, known in ((models, MODELS), (methods, config.METHODS)):
        if unknown := set(names) - set(known):
            parser.error(f"no {unknown.pop()!r}; there are {', '.join(known)}")
    # A seed at a time: a stopped grid has all methods alike.
    cells = [
        Cell(model, weight_bits, activation_bits, method, seed)
        for seed, (weight_bits, activation_bits), model, method in itertools.product(
            range(options.seeds), options.bits, models, methods
        )
    ]
    record = runs.Record(options.out / "scenes.csv", COLUMNS, run_of)
    write = functools.partial(write_results, page=options.out / "scenes.md")
    by_run = {cell.run: cell for cell in cells}
    runs.fill(record, by_run, make_row, write, options.workdir, options.jobs)


def make_row(cell: Cell, results: dict[str, Any]) -> dict[str, Any]:
    """The row of a run."""
    metric = MODELS[cell.model]
    figures = results_lib.figures_by_model(results, metric)
    return {
        **dataclasses.asdict(cell),
        "num_samples": results["num_samples"],
        "epochs": results["epochs"],
        "metric": metric,
        **{name: round(value, 2) for name, value in figures.items() if value is not None},
        "seconds": runs.total_seconds(results),
    }


def run_of(row: dict[str, Any]) -> runs.Run | None:
    """The run a row is of; None for one of no method any more."""
    known = row["model"] in MODELS and row["method"] in config.METHODS
    return (
        Cell(**{field.name: row[field.name] for field in dataclasses.fields(Cell)}).run
        if known
        else None
    )


def write_results(rows: Iterable[dict[str, Any]], page: Path) -> None:
    """Writes a table for each model and bits, the hardest bits first."""
    by_cell: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        key = row["model"], row["activation_bits"], row["weight_bits"]
        by_cell.setdefault(key, []).append(row)
    tables.write(page, [_describe(by_cell[key]) for key in sorted(by_cell)])


def _describe(rows: Sequence[dict[str, Any]]) -> str:
    """The table of a model's runs at the same bits."""
    first = rows[0]
    metric = results_lib.TITLES[first["metric"]].short
    by_method: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in config.METHODS}
    for row in rows:
        by_method[row["method"]][row["seed"]] = row
    title = (
        f"`configs/{first['model']}.py` at W{first['weight_bits']}A{first['activation_bits']}, "
        f"{metric} (full precision {first['fp']:.2f})"
    )
    return tables.compare(title, by_method, tables.Shown("calibrated", "quantized", metric))


if __name__ == "__main__":
    main()
