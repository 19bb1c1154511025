"""Every method on the same bench: the same models, bits, budgets and seeds.

    python -m benchmarks.methods --models=vit_fashion,swin_fashion --bits=3x3,4x4,5x5,4x8 --seeds=3

A run of `maskaq_jax.main` for each cell of the grid, `--jobs` of them side by side with a share of
the cores each, in a directory of its own under `--workdir`. Writes `docs/results/methods.csv`, a
row a run; `docs/results/methods.png`, a chart; and, between the marks of `docs/results/README.md`,
tables of means and standard deviations with paired differences. At W3A3, `--ablations` adds MaskAQ
without each of its parts, and what the forerunners' losses make of its other settings.

Runs in the table are done, unless the settings have changed since: `docs/results/methods.json` has
a digest of each run's. So a grid that was stopped continues, on another machine too. A run that
fails is named at the end, and does not stop the others.
"""

import argparse
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import charts, runs, tables
from maskaq_jax import config

# Name of a method on the bench: its argument to a config, and the preset its row names.
#
# All but the last are trained with the best settings. The forerunners make images as published;
# with what `best` adds to any images, they are among the ablations.
METHODS = {
    "noise": ("method=noise", "best"),
    "psaq": ("method=psaq,images=paper", "paper images"),
    "mimiq": ("method=mimiq,images=paper", "paper images"),
    "maskaq": ("method=maskaq", "best"),
    "real": ("method=real", "best"),
    "maskaq (paper)": ("method=maskaq,preset=paper", "paper"),
}
ABLATIONS = {
    "psaq (best images)": ("method=psaq", "best"),
    "mimiq (best images)": ("method=mimiq", "best"),
    "maskaq (paper images)": ("method=maskaq,images=paper", "paper images"),
    "without background": ("method=maskaq,background=none", "best"),
    **{f"without {part}": (f"method=maskaq,without={part}", "best") for part in config.ABLATIONS},
}
_ALL = METHODS | ABLATIONS
COLUMNS = (
    *("model", "weight_bits", "activation_bits", "method", "preset", "seed", "num_samples"),
    *("synthesis_steps", "epochs", "fp_top1", "calibrated_top1", "top1", "seconds"),
)


class Cell(runs.Cell):
    """A run of the grid; `method` is a name of `METHODS` or `ABLATIONS`."""

    @property
    def run(self) -> runs.Run:
        """The run that produces its row."""
        argument, _ = _ALL[self.method]
        return self.run_with(argument)


def main() -> None:
    """Runs what is missing of the grid, then writes the results of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="vit_fashion,swin_fashion", help="of configs/")
    parser.add_argument("--methods", default=",".join(METHODS), help="of the grid")
    parser.add_argument(
        "--bits", type=runs.parse_bits, default="3x3,4x4,5x5,4x8", help="weights x activations"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell")
    parser.add_argument("--seeds_w3a3", type=int, default=5, help="the same at 3x3")
    parser.add_argument("--ablations", action="store_true", help="MaskAQ without its parts, at 3x3")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--workdir", type=Path, default=Path("runs/methods"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    names = runs.split_names(parser, "method", options.methods, METHODS)
    cells = list_cells(
        options.models.split(","), options.bits, options.seeds, options.seeds_w3a3, names
    )
    if options.ablations:
        cells += list_ablations(options.models.split(","), options.seeds_w3a3)
    record = runs.Record(options.out / "methods.csv", COLUMNS, run_of)
    by_run = {cell.run: cell for cell in cells}
    write = functools.partial(write_results, out=options.out)
    runs.fill(record, by_run, make_row, write, options.workdir, options.jobs)


def list_cells(
    models: Iterable[str],
    bits: Sequence[tuple[int, ...]],
    num_seeds: int,
    num_seeds_w3a3: int,
    names: Sequence[str] = tuple(METHODS),
) -> list[Cell]:
    """The grid, a seed at a time: a stopped one has all methods alike."""
    return [
        Cell(model, weight_bits, activation_bits, method, seed)
        for seed in range(max(num_seeds, num_seeds_w3a3))
        for (weight_bits, activation_bits), model, method in itertools.product(bits, models, names)
        if seed < (num_seeds_w3a3 if (weight_bits, activation_bits) == (3, 3) else num_seeds)
    ]


def list_ablations(models: Iterable[str], num_seeds: int) -> list[Cell]:
    """Those of `ABLATIONS` at W3A3."""
    return [
        Cell(model, 3, 3, method, seed)
        for seed, model, method in itertools.product(range(num_seeds), models, ABLATIONS)
    ]


def make_row(cell: Cell, results: dict[str, Any]) -> dict[str, Any]:
    """The row of a run."""
    method = config.METHODS.get(cell.method)
    is_made = method is None or method.synthesizes
    return {
        "model": cell.model,
        "weight_bits": cell.weight_bits,
        "activation_bits": cell.activation_bits,
        **columns_of(cell.method),
        "seed": cell.seed,
        "num_samples": results["num_samples"],
        "synthesis_steps": results["synthesis_steps"] if is_made else 0,
        "epochs": results["epochs"],
        "fp_top1": results["fp_top1"],
        "calibrated_top1": results["calibrated_top1"],
        "top1": results["quantized_top1"],
        "seconds": runs.total_seconds(results),
    }


def write_results(rows: list[dict[str, Any]], out: Path) -> None:
    """Writes the chart, and the tables into the page of what they say."""
    if panels := collect_lines(rows):  # of ablations alone there are none
        charts.draw_accuracies(out / "methods.png", panels, "bits")
    tables.write(out / "README.md", [describe_cell(cell, rows) for cell in sort_cells(rows)])


def describe_cell(cell: tuple[str, int, int], rows: Iterable[dict[str, Any]]) -> str:
    """A table of the methods of a model at some bits."""
    model, weight_bits, activation_bits = cell
    by_method: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in _ALL}
    for row in rows:
        if cell_of(row) == cell and (method := label_of(row)):
            by_method[method][row["seed"]] = row
    return tables.compare(f"`configs/{model}.py` at W{weight_bits}A{activation_bits}", by_method)


def collect_lines(rows: list[dict[str, Any]]) -> Mapping[str, charts.Lines]:
    """For each model, accuracies of each method at all bits it was run at; not of the ablations."""
    panels: dict[str, dict[str, list[tuple[str, list[float]]]]] = {}
    for model, weight_bits, activation_bits in sort_cells(rows):
        cell = [row for row in rows if cell_of(row) == (model, weight_bits, activation_bits)]
        for method in METHODS:
            top1 = [row["top1"] for row in cell if label_of(row) == method]
            if top1:
                line = panels.setdefault(model, {}).setdefault(method, [])
                line.append((f"W{weight_bits}A{activation_bits}", top1))
    return panels


def columns_of(name: str) -> dict[str, str]:
    """What a row says of a method of `METHODS` or `ABLATIONS`: its name without the preset's."""
    return {"method": name.partition(" (")[0], "preset": _ALL[name][1]}


def label_of(row: dict[str, Any]) -> str | None:
    """The name of a row's method in `METHODS` or `ABLATIONS`; None where it has none any more."""
    return next((name for name in _ALL if columns_of(name).items() <= row.items()), None)


def run_of(row: dict[str, Any]) -> runs.Run | None:
    """The run a row is of."""
    method = label_of(row)
    return None if method is None else Cell(*cell_of(row), method, row["seed"]).run


def sort_cells(rows: Iterable[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Model and bits of every table: models by name, the hardest bits first.

    Activations come before weights in that: their bits are what accuracy hangs on here.
    """
    return sorted({cell_of(row) for row in rows}, key=lambda cell: (cell[0], cell[2], cell[1]))


def cell_of(row: dict[str, Any]) -> tuple[str, int, int]:
    """What a table holds together."""
    return row["model"], row["weight_bits"], row["activation_bits"]


if __name__ == "__main__":
    main()
