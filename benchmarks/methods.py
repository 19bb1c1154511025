"""Every method on the same bench: the same models, bits, budgets and seeds.

    python -m benchmarks.methods --models=vit_fashion,swin_fashion --bits=3x3,4x4,5x5,4x8 --seeds=3

A run of `maskaq_jax.main` for each cell of the grid, one after another, each in a directory of its
own under `--workdir`: what is done is skipped, and what was stopped continues. Writes
`docs/results/methods.csv`, a row a run; `docs/results/methods.md`, tables of means and standard
deviations with paired differences; and `docs/results/methods.png`, a chart. At W3A3, `--ablations`
adds MaskAQ without each of its parts.
"""

import argparse
import csv
import dataclasses
import itertools
import math
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks import charts, runs
from configs import common

# Name of a method on the bench: what a config makes of it.
METHODS = {
    "noise": "method=noise",
    "psaq": "method=psaq",
    "mimiq": "method=mimiq",
    "maskaq": "method=maskaq",
    "maskaq (paper)": "method=maskaq,preset=paper",
    "real": "method=real",
}
ABLATIONS = {f"without {part}": f"method=maskaq,without={part}" for part in common.ABLATIONS}
# The best settings make images once.
_REFRESHED = "with a refresh"
ABLATIONS[_REFRESHED] = "method=maskaq"
COLUMNS = (
    *("model", "weight_bits", "activation_bits", "method", "preset", "seed", "num_samples"),
    *("synthesis_steps", "epochs", "fp_top1", "calibrated_top1", "top1", "seconds"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of the grid; `method` is a name of `METHODS` or `ABLATIONS`."""

    model: str
    weight_bits: int
    activation_bits: int
    method: str
    seed: int

    @property
    def argument(self) -> str:
        """Of the config."""
        method = (METHODS | ABLATIONS)[self.method]
        return f"w={self.weight_bits},a={self.activation_bits},{method},seed={self.seed}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Of the command line."""
        return ("--config.samples.refresh_every=30",) if self.method == _REFRESHED else ()


def main() -> None:
    """Runs what is missing of the grid, then writes the results of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="vit_fashion,swin_fashion", help="of configs/")
    parser.add_argument("--bits", default="3x3,4x4,5x5,4x8", help="weights x activations")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell")
    parser.add_argument("--seeds_w3a3", type=int, default=5, help="the same at 3x3")
    parser.add_argument("--ablations", action="store_true", help="MaskAQ without its parts, at 3x3")
    parser.add_argument("--workdir", type=Path, default=Path("runs/methods"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    bits = [tuple(map(int, pair.split("x"))) for pair in options.bits.split(",")]
    cells = list_cells(options.models.split(","), bits, options.seeds, options.seeds_w3a3)
    if options.ablations:
        cells += list_ablations(options.models.split(","), options.seeds_w3a3)
    rows = []
    for number, cell in enumerate(cells, start=1):
        print(f"{number} of {len(cells)}: {cell.model} {cell.argument}", flush=True)
        rows.append(run(cell, options.workdir))
        # After every run, so that a stopped grid leaves what it has.
        write_results(rows, options.out)


def list_cells(
    models: Iterable[str],
    bits: Sequence[tuple[int, ...]],
    num_seeds: int,
    num_seeds_w3a3: int,
) -> list[Cell]:
    """The grid, a seed at a time: a stopped one has all methods alike."""
    return [
        Cell(model, weight_bits, activation_bits, method, seed)
        for seed in range(max(num_seeds, num_seeds_w3a3))
        for (weight_bits, activation_bits), model, method in itertools.product(
            bits, models, METHODS
        )
        if seed < (num_seeds_w3a3 if (weight_bits, activation_bits) == (3, 3) else num_seeds)
    ]


def list_ablations(models: Iterable[str], num_seeds: int) -> list[Cell]:
    """MaskAQ without each of its parts at W3A3."""
    return [
        Cell(model, 3, 3, method, seed)
        for seed, model, method in itertools.product(range(num_seeds), models, ABLATIONS)
    ]


def run(cell: Cell, workdir: Path) -> dict[str, Any]:
    """The row of a run, made now or before.

    Raises:
      CalledProcessError: it failed.
    """
    values = runs.finish(
        workdir / directory_name(cell), f"{cell.model}.py:{cell.argument}", *cell.flags
    )
    return {
        "model": cell.model,
        "weight_bits": cell.weight_bits,
        "activation_bits": cell.activation_bits,
        "method": cell.method.removesuffix(" (paper)"),
        "preset": "paper" if cell.method.endswith("(paper)") else "best",
        "seed": cell.seed,
        "num_samples": values["num_samples"],
        "synthesis_steps": values["synthesis_steps"],
        "epochs": values["epochs"],
        "fp_top1": values["fp_top1"],
        "calibrated_top1": values["calibrated_top1"],
        "top1": values["quantized_top1"],
        "seconds": round(sum(values["seconds"].values()), 1),
    }


def directory_name(cell: Cell) -> str:
    """A directory's name."""
    method = cell.method.replace(" ", "_").strip("()")
    return f"{cell.model}_w{cell.weight_bits}a{cell.activation_bits}_{method}_{cell.seed}"


def write_results(rows: list[dict[str, Any]], out: Path) -> None:
    """Writes the table of runs and the page of what they say."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "methods.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    page = [
        "# Methods compared",
        f"Written by `python -m benchmarks.methods {shlex.join(sys.argv[1:])}`: top-1 in percent "
        "on test images, mean ± standard deviation over seeds. *Recovery* is the share of the way "
        "from noise to real; *against `maskaq`* the mean difference of the same seeds and its 95% "
        "interval. Seconds are those of a run.",
    ]
    cells = sorted({cell_of(row) for row in rows})
    page += [describe_cell(cell, [row for row in rows if cell_of(row) == cell]) for cell in cells]
    (out / "methods.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    charts.draw_accuracies(out / "methods.png", collect_lines(rows), "bits")


def collect_lines(rows: list[dict[str, Any]]) -> Mapping[str, charts.Lines]:
    """For each model, accuracies of each method at all bits it was run at; not of the ablations."""
    panels: dict[str, dict[str, list[tuple[str, list[float]]]]] = {}
    for model, weight_bits, activation_bits in sorted({cell_of(row) for row in rows}):
        cell = [row for row in rows if cell_of(row) == (model, weight_bits, activation_bits)]
        for method in METHODS:
            top1 = [row["top1"] for row in cell if label_of(row) == method]
            if top1:
                line = panels.setdefault(model, {}).setdefault(method, [])
                line.append((f"W{weight_bits}A{activation_bits}", top1))
    return panels


def label_of(row: dict[str, Any]) -> str:
    """The name of a row's method in `METHODS` or `ABLATIONS`."""
    return row["method"] + (" (paper)" if row["preset"] == "paper" else "")


def cell_of(row: dict[str, Any]) -> tuple[str, int, int]:
    """What a table holds together."""
    return row["model"], row["weight_bits"], row["activation_bits"]


def describe_cell(cell: tuple[str, int, int], rows: list[dict[str, Any]]) -> str:
    """A table of the methods of a model at some bits."""
    model, weight_bits, activation_bits = cell
    lines = [
        f"## `configs/{model}.py` at W{weight_bits}A{activation_bits}\n",
        "| method | seeds | calibrated | top-1 | recovery | against `maskaq` | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    by_method: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault((row["method"], row["preset"]), {})[row["seed"]] = row
    accuracies = {
        method: {seed: row["top1"] for seed, row in by_seed.items()}
        for method, by_seed in by_method.items()
    }
    noise, real, best = (
        accuracies.get((method, "best"), {}) for method in ("noise", "real", "maskaq")
    )
    for (method, preset), by_seed in by_method.items():
        top1 = accuracies[method, preset]
        seeds = top1.keys() & noise.keys() & real.keys()
        recovery = [(top1[s] - noise[s]) / (real[s] - noise[s]) for s in seeds]
        name = method if preset == "best" else f"{method}, `preset={preset}`"
        seconds = statistics.mean(row["seconds"] for row in by_seed.values())
        lines.append(
            f"| {name} | {len(by_seed)} "
            f"| {show(row['calibrated_top1'] for row in by_seed.values())} "
            f"| {show(top1.values())} | {show(recovery, 3)} "
            f"| {show_difference(top1, best)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def show(values: Iterable[float], digits: int = 2) -> str:
    """Mean and standard deviation."""
    known = list(values)
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"


def show_difference(values: dict[int, float], others: dict[int, float]) -> str:
    """Mean difference of the same seeds, with its 95% interval by Student's t."""
    gaps = [values[seed] - others[seed] for seed in values.keys() & others.keys()]
    if len(gaps) < 2 or not any(gaps):
        return ""
    mean, low_high = paired_interval(gaps)
    return f"{mean:+.2f} ({low_high[0]:+.2f} to {low_high[1]:+.2f})"


def paired_interval(gaps: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean of paired differences and its 95% interval.

    Args:
      gaps: at least 2.
    """
    mean = statistics.mean(gaps)
    quantile = float(stats.t.ppf(0.975, len(gaps) - 1))
    half = quantile * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return mean, (mean - half, mean + half)


if __name__ == "__main__":
    main()
