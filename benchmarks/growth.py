"""How a step's cost grows with the batch, the tokens, the depth and the devices.

    python -m benchmarks.growth --model=deit_t --phase=synthesis --out=docs/growth

Varies one of them at a time, each point in a process of its own, and writes OUT.csv, the median
seconds of a step and the memory of its temporary values, and OUT.png, which draws both for each
image. Devices share the cores of the CPU there is: more of them than cores gain nothing.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks import charts
from benchmarks.problems import PHASES, make_problem, make_step
from benchmarks.processes import interleave
from maskaq_jax.devices import memory

# Where nothing else is said: images, pixels a side, blocks and devices.
_DEFAULT = {"batch": 8, "img_size": 224, "depth": 12, "devices": 1}
_VALUES = {
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "img_size": (112, 160, 224, 320),
    "depth": (3, 6, 12, 24),
    "devices": (1, 2, 4),
}
_LABELS = {
    "batch": "images a step",
    "img_size": "tokens an image",
    "depth": "blocks",
    "devices": "devices",
}
_PATCH_SIZE = 16
# Of dispatches, which are several steps in synthesis.
_REPEATS = 3


def main() -> None:
    """Measures all points, or, in a process of its own, one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t", help="of configs/, with patches of 16 pixels")
    parser.add_argument("--phase", default="synthesis", choices=PHASES)
    parser.add_argument("--out", type=Path, default=Path("docs/growth"))
    parser.add_argument("--point", type=json.loads, help="measure this one, and print it as JSON")
    options = parser.parse_args()
    memory.keep_freed_memory()  # as a run does
    if options.point:
        print(json.dumps(measure_point(options.model, options.phase, **options.point)))
        return
    points: list[dict[str, Any]] = []
    for point in list_points():
        points.append(run_point(options.model, options.phase, json.dumps(point)))
        print(points[-1], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_table(points, options.out.with_suffix(".csv"))
    draw(points, f"{options.model}, {options.phase}", options.out.with_suffix(".png"))


def list_points() -> list[dict[str, int]]:
    """What is measured: each value of one of them, the others as they are elsewhere."""
    points = [_DEFAULT | {name: value} for name, values in _VALUES.items() for value in values]
    return [point for place, point in enumerate(points) if point not in points[:place]]


def run_point(model: str, phase: str, point: str) -> dict[str, Any]:
    """Measures a point in a process of its own, which has as many devices as it says."""
    devices = json.loads(point)["devices"]
    completed = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.growth", f"--model={model}", f"--phase={phase}"),
            f"--point={point}",
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
    )
    return json.loads(completed.stdout.splitlines()[-1])


def measure_point(
    model: str, phase: str, batch: int, img_size: int, depth: int, devices: int
) -> dict[str, Any]:
    """The row of a point."""
    problem = make_problem(model, batch, bits=3, img_size=img_size, depth=depth)
    step, compiled = make_step(problem, phase)
    seconds = interleave({"step": step}, _REPEATS)["step"]
    return {
        "batch": batch,
        "img_size": img_size,
        "depth": depth,
        "devices": devices,
        "seconds": round(statistics.median(seconds), 4),
        # The analysis is that of one device's program.
        "temporary_bytes": compiled.program.memory_analysis().temp_size_in_bytes * devices,
        "compile_seconds": round(compiled.seconds, 2),
        "device": jax.devices()[0].device_kind,
    }


def write_table(points: list[dict[str, Any]], path: Path) -> None:
    """A row a point."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(points[0]))
        writer.writeheader()
        writer.writerows(points)


def draw(points: list[dict[str, Any]], title: str, path: Path) -> None:
    """Seconds and memory of an image against each of what varies."""
    figure, rows = charts.new_figure(2, len(_VALUES), (12, 5), sharey="row")
    measures = (
        ("seconds an image", lambda point: point["seconds"] / point["batch"]),
        ("GB an image", lambda point: point["temporary_bytes"] / point["batch"] / 1e9),
    )
    for axes, (label, measure) in zip(rows, measures, strict=True):
        axes[0].set_ylabel(label)
        for axis, name in zip(axes, _VALUES, strict=True):
            others = {key: value for key, value in _DEFAULT.items() if key != name}
            line = sorted(
                (abscissa(name, point[name]), measure(point))
                for point in points
                if all(point[key] == value for key, value in others.items())
            )
            axis.plot(*zip(*line, strict=True), marker="o")
            axis.set_xlabel(_LABELS[name])
            axis.set_xlim(left=0)
            axis.grid(alpha=0.3)
        # A limit stops the scale that the panels of a row share from growing, so it comes last.
        axes[0].set_ylim(bottom=0)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def abscissa(name: str, value: int) -> int:
    """Where a value is drawn: an image's side as its number of tokens."""
    return (value // _PATCH_SIZE) ** 2 + 1 if name == "img_size" else value


if __name__ == "__main__":
    main()
