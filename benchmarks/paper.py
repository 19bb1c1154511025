"""The paper's Table 1, and ours beside it.

    python -m benchmarks.paper --imagenet=DIR --preset=best --seeds=3

`DIR` is ImageNet's validation set, a folder for each class. Weights are those of the configs, of
the Hugging Face hub; `--weights=DIR` has a file `vit_t.safetensors` and so on for each of them
instead. A run of `maskaq_jax.main` for each cell, in a directory of its own under `--workdir`;
`paper.csv` under `--out` has a row a run, with a digest of its settings in `paper.json`, so that a
table that was stopped continues. `paper.md` beside it is the table.
"""

import argparse
import collections
import dataclasses
import functools
import itertools
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import runs
from maskaq_jax.storage import whole_files

# Config of each backbone: the paper's name, its full precision, and MaskAQ's top-1 by bits.
BACKBONES: Mapping[str, tuple[str, float, Mapping[tuple[int, int], float]]] = {
    "vit_t": ("ViT-T", 72.01, {(3, 3): 11.50, (4, 4): 44.90, (5, 5): 63.01, (4, 8): 68.36}),
    "vit_b": ("ViT-B", 84.53, {(3, 3): 43.39, (4, 4): 70.53, (5, 5): 78.60, (4, 8): 84.30}),
    "deit_t": ("DeiT-T", 72.21, {(3, 3): 22.65, (4, 4): 53.10, (5, 5): 64.27, (4, 8): 69.95}),
    "deit_s": ("DeiT-S", 79.85, {(3, 3): 30.41, (4, 4): 63.81, (5, 5): 73.18, (4, 8): 79.44}),
    "deit_b": ("DeiT-B", 81.85, {(3, 3): 43.28, (4, 4): 74.41, (5, 5): 78.89, (4, 8): 81.40}),
    "swin_t": ("Swin-T", 81.35, {(3, 3): 44.98, (4, 4): 70.40, (5, 5): 76.82, (4, 8): 80.19}),
}
BITS = ((3, 3), (4, 4), (5, 5), (4, 8))
COLUMNS = (
    *("model", "weight_bits", "activation_bits", "preset", "seed", "fields"),
    *("fp_top1", "calibrated_top1", "top1", "num_evaluated", "seconds", "device"),
)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images and weights are.

    Attributes:
      imagenet: folder of validation images.
      weights: folder of weight files; None for those of the configs.
      fields: flags of the command line for every run.
    """

    imagenet: Path
    weights: Path | None
    fields: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of the table."""

    model: str
    weight_bits: int
    activation_bits: int
    preset: str
    seed: int

    def run(self, source: Source) -> runs.Run:
        """The run that produces its row."""
        weights: tuple[str, ...] = ()
        if source.weights:
            weights = (f"--config.model.weights={source.weights / self.model}.safetensors",)
        return runs.Run(
            f"{self.model}_w{self.weight_bits}a{self.activation_bits}_{self.preset}_{self.seed}",
            self.model,
            f"w={self.weight_bits},a={self.activation_bits},preset={self.preset},seed={self.seed},"
            f"val={source.imagenet}",
            (*weights, *source.fields),
        )


def main() -> None:
    """Runs what is missing of the table, then writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imagenet", type=Path, required=True, help="folder of a folder a class")
    parser.add_argument("--models", default=",".join(BACKBONES), help="of the table")
    parser.add_argument(
        "--bits", type=runs.parse_bits, default="3x3,4x4,5x5,4x8", help="weights x activations"
    )
    parser.add_argument("--preset", choices=("best", "paper"), default="best")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each cell")
    parser.add_argument("--weights", type=Path, help="folder of NAME.safetensors; else the hub's")
    parser.add_argument("--field", action="append", default=[], help="another setting of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--workdir", type=Path, default=Path("runs/paper"))
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    options = parser.parse_args()
    names = runs.split_names(parser, "model", options.models, BACKBONES)
    if not options.imagenet.is_dir():
        parser.error(f"--imagenet: no folder {options.imagenet}")
    source = Source(
        options.imagenet.absolute(),
        options.weights and options.weights.absolute(),
        tuple(f"--config.{field}" for field in options.field),
    )
    cells = [
        Cell(name, weight_bits, activation_bits, options.preset, seed)
        for seed, name, (weight_bits, activation_bits) in itertools.product(
            range(options.seeds), names, options.bits
        )
    ]
    record = runs.Record(
        options.out / "paper.csv", COLUMNS, functools.partial(run_of, source=source)
    )

    def write(rows: list[dict[str, Any]]) -> None:
        table = make_table(rows)
        whole_files.write_text(options.out / "paper.md", table)
        print(table, flush=True)

    points = {cell.run(source): cell for cell in cells}
    make = functools.partial(make_row, source=source)
    runs.fill(record, points, make, write, options.workdir, options.jobs)


def make_row(cell: Cell, results: dict[str, Any], source: Source) -> dict[str, Any]:
    """The row of a run."""
    return {
        **dataclasses.asdict(cell),
        "fields": " ".join(source.fields),
        "fp_top1": results["fp_top1"],
        "calibrated_top1": results["calibrated_top1"],
        "top1": results["quantized_top1"],
        "num_evaluated": results["num_evaluated"],
        "seconds": runs.total_seconds(results),
        "device": results["device"],
    }


def run_of(row: dict[str, Any], source: Source) -> runs.Run | None:
    """The run a row is of; None where it had other settings."""
    if row["model"] not in BACKBONES or str(row["fields"]) != " ".join(source.fields):
        return None
    names = (field.name for field in dataclasses.fields(Cell))
    return Cell(**{name: row[name] for name in names}).run(source)


def make_table(rows: Iterable[dict[str, Any]]) -> str:
    """Ours beside the paper's, a line a backbone and bits: mean and spread over seeds."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        cells[row["model"], row["weight_bits"], row["activation_bits"], row["preset"]].append(row)
    lines = [
        "| model | bits | preset | full precision (paper) | calibrated | top-1 | MaskAQ (paper) | "
        "images | seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = {name: place for place, name in enumerate(BACKBONES)}
    for (model, weight_bits, activation_bits, preset), own in sorted(
        cells.items(), key=lambda item: (order[item[0][0]], *item[0][1:])
    ):
        name, fp, published = BACKBONES[model]
        bits = (weight_bits, activation_bits)
        theirs = f"{published[bits]:.2f}" if bits in published else "-"
        calibrated, top1 = (runs.describe([row[key] for row in own]) for key in COLUMNS[7:9])
        lines.append(
            f"| {name} | W{weight_bits}A{activation_bits} | {preset} | {own[0]['fp_top1']:.2f} "
            f"({fp:.2f}) | {calibrated} | {top1} | {theirs} | {own[0]['num_evaluated']} | "
            f"{statistics.median(row['seconds'] for row in own):.0f} | {len(own)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
