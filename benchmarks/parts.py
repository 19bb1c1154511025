"""What each part of a run is worth on a real model: all parts, and one of them other.

    python -m benchmarks.parts --weights=FILE --images=DIR --model=vit_small_patch14_dinov2 \
        --num_classes=10 --img_size=112 --bits=4x4 --page=docs/results/real.md

Runs as of `benchmarks.real`, at three small budgets: parts of the fit, of how images are made, and
of the training behind a fit. Each is compared with the run that has all parts, image by image:
top-1 and the divergence of classes from full precision's, with 95% intervals of the paired
differences. Intervals are over images; how far runs differ by seed shows with several `--seeds`.

Writes a table between the marks of `--page`. What is done is read, so a bench that was stopped
continues.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import real, runs, tables
from maskaq_jax import config
from maskaq_jax.evaluation.agreement import divergences_of
from maskaq_jax.export import agreement
from maskaq_jax.models import full_precision
from maskaq_jax.runs import directory, inputs

Fields = Mapping[str, int | float | str]


class Group(NamedTuple):
    """Parts that are compared with the same run.

    Attributes:
      title: what the parts are of.
      base: fields of the run with all parts.
      parts: for each, the fields that differ.
    """

    title: str
    base: Fields
    parts: Mapping[str, Fields]


_AS_DRAWN = {"synthesis.num_steps": 0}
_FITTED = {"samples.num_samples": 384, "finetuning.epochs": 0}
_TRAINED = {"samples.num_samples": 384, "finetuning.epochs": 8}
GROUPS = {
    "fit": Group(
        "The fit (to 384 images as they are drawn, no training)",
        _FITTED | _AS_DRAWN,
        {
            "norms not equalized": {"calibration.equalize_norms": False},
            "hidden features not equalized": {"calibration.equalize_hidden": False},
            "attention not equalized": {"calibration.equalize_attention": False},
            "biases not corrected": {"calibration.correct_bias": False},
            "kernels rounded to the nearest": {"calibration.second_order": False},
            "kernels not fitted to P's outputs": {"calibration.ridge": 0.0},
            "96 images": {"samples.calibration_size": 96, "calibration.num_views": 96},
            "the paper's ranges, none of the above": {"calibration.ranges": "lsq"},
        },
    ),
    "images": Group(
        "The images (a fit to 384 of them, no training)",
        _FITTED,
        {
            "as they are drawn": _AS_DRAWN,
            "dead leaves alone": {"synthesis.first_images": "leaves"},
            "dead leaves alone, as they are drawn": _AS_DRAWN
            | {"synthesis.first_images": "leaves"},
            "white noise": {"synthesis.first_images": "noise"},
            "white noise, as it is drawn": _AS_DRAWN | {"synthesis.first_images": "noise"},
            "with coupling": {"synthesis.weights.coupling": 0.1},
            "with entropy": {"synthesis.weights.entropy": 1.0},
            "with similarity": {"synthesis.weights.similarity": 0.1},
        },
    ),
    "training": Group(
        "The training (8 epochs on 384 images as they are drawn)",
        _TRAINED | _AS_DRAWN,
        {
            "no training": {"finetuning.epochs": 0},
            "without the blocks' tokens": {"finetuning.block_weight": 0.0},
            "with attention": {"finetuning.attention_weight": 0.1},
            "with attention, masked as in the paper": {
                "finetuning.attention_weight": 0.1,
                "finetuning.important_weight": 2.0,
            },
            "without the mean of the last steps": {"finetuning.averaged_share": 0.0},
            "without crops": {"finetuning.view.min_area": 1.0},
            "behind the paper's ranges": {"calibration.ranges": "lsq"},
        },
    ),
}


class Outcome(NamedTuple):
    """What a run's Q does on each image.

    Attributes:
      hits: [N] bool, whether its class is the label.
      divergences: [N] float32, Kullback-Leibler, of its class probabilities from P's, in nats.
      seconds: the run took.
    """

    hits: np.ndarray
    divergences: np.ndarray
    seconds: float


def main() -> None:
    """Runs what is missing, and writes the table whenever there is one more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    real.add_subject(parser)
    parser.add_argument("--groups", default=",".join(GROUPS), help="of parts")
    parser.add_argument("--bits", type=runs.parse_bits, default="4x4", help="weights x activations")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each part")
    parser.add_argument("--workdir", type=Path, default=Path("runs/parts"))
    parser.add_argument("--page", type=Path, default=Path("runs/parts/parts.md"))
    options = parser.parse_args()
    names = runs.split_names(parser, "group", options.groups, GROUPS)
    subject = real.read_subject(parser, options)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    cells = {
        cell.run: cell
        for seed, bits, name in itertools.product(range(options.seeds), options.bits, names)
        for changed in ({}, *GROUPS[name].parts.values())
        for cell in [cell_of(subject, bits, options.split, seed, {**GROUPS[name].base, **changed})]
    }

    def write(outcomes: Mapping[real.Cell, Outcome]) -> None:
        written = [
            compare(subject, bits, options.split, GROUPS[name], outcomes)
            for bits, name in itertools.product(options.bits, names)
        ]
        tables.write(options.page, [table for table in written if table])

    with runs.told_to_stop() as is_terminated:
        _fill(cells, options.workdir, is_terminated, write)


def _fill(
    cells: Mapping[runs.Run, real.Cell],
    workdir: Path,
    is_terminated: Callable[[], bool],
    write: Callable[[Mapping[real.Cell, Outcome]], None],
) -> None:
    """Makes the runs that there are not yet, behind those that there are; writes after each."""
    outcomes: dict[real.Cell, Outcome] = {}
    ordered = sorted(
        cells, key=lambda run: not (run.directory(workdir) / directory.RESULTS).is_file()
    )
    for run, results in runs.finish_all(ordered, workdir, 1, is_terminated):
        own = classify(run.directory(workdir), runs.total_seconds(results))
        outcomes[cells[run]] = own
        print(f"{run.name}: {100 * own.hits.mean():.2f}", flush=True)
        write(outcomes)


def classify(workdir: Path, seconds: float) -> Outcome:
    """What the Q of a finished run does on its evaluation images, kept beside the run."""
    kept = workdir.with_name(f"{workdir.name}.npz")
    if not kept.is_file():
        settings = directory.read_settings(workdir)
        model, variables = inputs.load(workdir)
        source = config.evaluation_source(settings)
        assert source is not None
        outputs = [
            agreement.outputs_of(model, variables),
            agreement.outputs_of(full_precision(model), {"params": inputs.reopen(workdir).params}),
        ]
        hits, divergences = [], []
        for batch in agreement.read_batches(source.open(model, print), settings, model):
            logits, wanted = (own(batch.images)[batch.valid] for own in outputs)
            hits.append(logits.argmax(axis=-1) == batch.labels[batch.valid])
            divergences.append(np.asarray(divergences_of(wanted, logits)))
        np.savez(kept, hits=np.concatenate(hits), divergences=np.concatenate(divergences))
    with np.load(kept) as found:
        return Outcome(found["hits"], found["divergences"], seconds)


def cell_of(
    subject: real.Subject, bits: tuple[int, int], split: str, seed: int, fields: Fields
) -> real.Cell:
    """The run of these fields."""
    flags = tuple(f"--config.{name}={value}" for name, value in fields.items())
    return real.Cell(subject, *bits, "maskaq", split, seed, flags)


def compare(
    subject: real.Subject,
    bits: tuple[int, int],
    split: str,
    group: Group,
    outcomes: Mapping[real.Cell, Outcome],
) -> str:
    """The table of a group, of the seeds that both runs of a line have; empty without any."""
    seeds = sorted({cell.seed for cell in outcomes})

    def find(changed: Fields) -> dict[int, Outcome]:
        cells = {
            seed: cell_of(subject, bits, split, seed, {**group.base, **changed}) for seed in seeds
        }
        return {seed: outcomes[cell] for seed, cell in cells.items() if cell in outcomes}

    whole = find({})
    lines = [
        f"### {group.title}, W{bits[0]}A{bits[1]}\n",
        "| | seeds | top-1 | against all parts | divergence | against all parts | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, changed in {"all parts": {}, **group.parts}.items():
        own = find(changed)
        pairs = [(own[seed], whole[seed]) for seed in seeds if seed in own and seed in whole]
        if not pairs:
            continue
        hits = [(100.0 * a.hits, 100.0 * b.hits) for a, b in pairs]
        divergences = [(a.divergences, b.divergences) for a, b in pairs]
        lines.append(
            f"| {title} | {len(pairs)} | {np.mean([a for a, _ in hits]):.1f} "
            f"| {_show_difference(hits, 1) if changed else ''} "
            f"| {np.mean([a for a, _ in divergences]):.3f} "
            f"| {_show_difference(divergences, 3) if changed else ''} "
            f"| {statistics.median(a.seconds for a, _ in pairs):.0f} |"
        )
    return "\n".join(lines) if len(lines) > 3 else ""


def _show_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]], digits: int) -> str:
    """Mean over images and seeds, and its 95% interval over images."""
    gaps = np.mean([np.subtract(own, whole, dtype=float) for own, whole in pairs], axis=0)
    mean, (low, high) = tables.paired_interval(gaps.tolist())
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


if __name__ == "__main__":
    main()
