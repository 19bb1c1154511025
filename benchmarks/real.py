"""Methods and bits on a real model and images of one's own.

    python -m benchmarks.real --weights=FILE --images=DIR --model=vit_small_patch14_dinov2 \
        --num_classes=10 --img_size=112 --bits=8x8,4x8,4x4,3x3 --seeds=3

A run of `maskaq_jax.main` for each cell of the grid, in a directory of its own under `--workdir`.
`DIR` holds `test`, `choose` and `real`, each with a folder for each class: figures are of `test`,
settings are chosen on `choose` (`--split=choose`), and the method 'real' takes its images, without
their labels, from `real`. Writes `real.csv` under `--out`, a row a run, with a digest of its
settings in `real.json`; and prints the table of means and standard deviations. Runs in the table
are done, so a grid that was stopped continues.
"""

import argparse
import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import runs
from maskaq_jax import config
from maskaq_jax.storage import whole_files

# Name of a method on the bench: its argument to a config.
METHODS = {
    "noise": "method=noise",
    "mimiq": "method=mimiq",
    "maskaq": "method=maskaq",
    "real": "method=real",
    "maskaq (paper)": "method=maskaq,preset=paper",
}
# `preset=paper` at a budget of minutes, and not at the paper's half a day.
_PAPER_BUDGET = (
    "--config.samples.num_samples=96",
    "--config.synthesis.num_steps=100",
    "--config.finetuning.epochs=30",
)
# Letters of fields in the name of a directory.
_LONGEST = 100
COLUMNS = (
    *("weights", "weight_bits", "activation_bits", "method", "split", "seed", "fields"),
    *("fp_top1", "calibrated_top1", "top1", "seconds"),
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is quantized.

    Attributes:
      model: a name of `create_model`.
      weights: file of its weights.
      num_classes: of its classifier.
      img_size: side of its images.
      images: folder of `test`, `choose` and `real`.
      crop_ratio: share of a resized image that is looked at.
    """

    model: str
    weights: Path
    num_classes: int
    img_size: int
    images: Path
    crop_ratio: float


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run of the grid; `fields` are flags of the command line beside the method's."""

    subject: Subject
    weight_bits: int
    activation_bits: int
    method: str
    split: str
    seed: int
    fields: tuple[str, ...] = ()

    @property
    def run(self) -> runs.Run:
        """The run that produces its row."""
        subject = self.subject
        argument = f"w={self.weight_bits},a={self.activation_bits},{METHODS[self.method]}"
        if self.method == "real":
            argument += f",real={subject.images / 'real'}"
        flags = (
            f"--config.model.name={subject.model}",
            f"--config.model.weights={subject.weights}",
            f"--config.model.num_classes={subject.num_classes}",
            f"--config.model.arguments.img_size={subject.img_size}",
            f"--config.evaluation.preprocessing.crop_ratio={subject.crop_ratio}",
            *(_PAPER_BUDGET if "paper" in self.method else ()),
            *self.fields,
        )
        return runs.Run(
            "_".join(
                (
                    f"w{self.weight_bits}a{self.activation_bits}",
                    *self.method.replace("(", "").replace(")", "").split(),
                    self.split,
                    *self._named_fields,
                    str(self.seed),
                )
            ),
            "deit_t",
            f"{argument},seed={self.seed},val={subject.images / self.split}",
            flags,
        )

    @property
    def _named_fields(self) -> list[str]:
        """The fields as part of a directory's name; a digest of them where that would be long."""
        named = [field.removeprefix("--config.").replace("=", "_") for field in self.fields]
        text = "_".join(named)
        return named if len(text) <= _LONGEST else [hashlib.sha256(text.encode()).hexdigest()[:12]]


def main() -> None:
    """Runs what is missing of the grid, then prints the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_subject(parser)
    parser.add_argument("--methods", default="noise,maskaq,real", help="of the grid")
    parser.add_argument(
        "--bits", type=runs.parse_bits, default="8x8,4x8,4x4,3x3", help="weights x activations"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell")
    parser.add_argument(
        "--field", action="append", default=[], help="another setting, as calibration.ridge=0.1"
    )
    parser.add_argument("--json", type=Path, help="file for the rows of the grid, a list")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--workdir", type=Path, default=Path("runs/real"))
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    options = parser.parse_args()
    names = runs.split_names(parser, "method", options.methods, METHODS)
    subject = read_subject(parser, options)
    for field in options.field:
        try:
            config.check_field(f"config.{field.partition('=')[0]}")
        except config.ConfigError as error:
            parser.error(f"--field={field}: {error}")
    fields = tuple(f"--config.{field}" for field in options.field)
    cells = [
        Cell(subject, weight_bits, activation_bits, method, options.split, seed, fields)
        for seed, (weight_bits, activation_bits), method in itertools.product(
            range(options.seeds), options.bits, names
        )
    ]
    record = runs.Record(
        options.out / "real.csv", COLUMNS, functools.partial(run_of, subject=subject)
    )
    by_run = {cell.run: cell for cell in cells}
    runs.fill(record, by_run, make_row, print_table, options.workdir, options.jobs)
    if options.json:
        rows = [record.rows[cell.run.name] for cell in cells]
        whole_files.write_text(options.json, json.dumps(rows, indent=2) + "\n")


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Arguments that say what is quantized, and which images figures are of."""
    parser.add_argument("--model", required=True, help="a name of create_model")
    parser.add_argument("--weights", type=Path, required=True, help="file of its weights")
    parser.add_argument("--num_classes", type=int, required=True, help="of its classifier")
    parser.add_argument("--img_size", type=int, default=224, help="side of its images")
    parser.add_argument("--crop_ratio", type=float, default=1.0, help="of evaluation images")
    parser.add_argument("--images", type=Path, required=True, help="folder of test, choose, real")
    parser.add_argument("--split", default="test", help="images that accuracy is of")


def read_subject(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Subject:
    """What the arguments of `add_subject` say; the program ends where there are no weights."""
    if not options.weights.is_file():
        parser.error(f"--weights: no file {options.weights}")
    return Subject(
        options.model,
        options.weights.absolute(),
        options.num_classes,
        options.img_size,
        options.images.absolute(),
        options.crop_ratio,
    )


def make_row(cell: Cell, results: dict[str, Any]) -> dict[str, Any]:
    """The row of a run."""
    return {
        "weights": cell.subject.weights.name,
        "weight_bits": cell.weight_bits,
        "activation_bits": cell.activation_bits,
        "method": cell.method,
        "split": cell.split,
        "seed": cell.seed,
        "fields": " ".join(cell.fields),
        "fp_top1": results["fp_top1"],
        "calibrated_top1": results["calibrated_top1"],
        "top1": results["quantized_top1"],
        "seconds": runs.total_seconds(results),
    }


def run_of(row: dict[str, Any], subject: Subject) -> runs.Run | None:
    """The run a row is of; None for one of other weights."""
    if row["weights"] != subject.weights.name or row["method"] not in METHODS:
        return None
    fields = tuple(str(row["fields"]).split())
    return Cell(
        subject,
        int(row["weight_bits"]),
        int(row["activation_bits"]),
        row["method"],
        row["split"],
        int(row["seed"]),
        fields,
    ).run


def print_table(rows: Iterable[dict[str, Any]]) -> None:
    """Means and standard deviations of each cell over its seeds."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        bits = f"W{row['weight_bits']}A{row['activation_bits']}"
        cells[bits, row["method"], row["split"], row["fields"]].append(row)
    print("| bits | method | images | other settings | calibrated | top-1 | seconds | seeds |")
    print("|---|---|---|---|---|---|---|---|")
    for (bits, method, split, fields), own in sorted(cells.items()):
        calibrated, top1 = (runs.describe([row[name] for row in own]) for name in COLUMNS[8:10])
        seconds = statistics.median(row["seconds"] for row in own)
        print(
            f"| {bits} | `{method}` | {split} | {fields or '-'} | {calibrated} | {top1} | "
            f"{seconds:.0f} | {len(own)} |"
        )


if __name__ == "__main__":
    main()
