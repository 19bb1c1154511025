"""Whole runs by the clock: with nothing compiled yet, and with the programs of the run before.

    python -m benchmarks.whole --configs=vit_fashion --repeats=3 --json=FILE
    python -m benchmarks.whole --configs=vit_fashion --repeats=3 --beside=CHECKOUT --torch

A run is README's command in a process of its own, its import, its evaluation and its files
included. Interleaved with it are those of another checkout of the project (`--beside`), and one
organised as the authors' code is, in eager PyTorch at the same budget (`--torch`, the extra of that
name; images, steps and epochs are those of `preset=paper` in the config, and ours with that preset
has a row of its own). Prints a Markdown table: medians with their range, peak memory by the
operating system's account, the figure of the task, and ratios, each of two runs of the same repeat.
Seconds are cut into the start (imports and flags), the phases of `results.json`, and what is left;
tracing and compiling, parts of these and of several threads, are named apart. Linux alone.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import processes, runs
from maskaq_jax.runs import directory

HERE = Path(__file__).resolve().parents[1]
_STARTS = ("cold", "warm")
_PAPER = "preset=paper"
_RECORDED = HERE / "benchmarks" / "recorded.py"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is run.

    Attributes:
      label: in the table.
      checkout: whose code it is.
      config: of its configs/, with an argument.
      start: 'cold' or 'warm'; PyTorch has no other than cold.
      is_torch: whether it is PyTorch's.
    """

    label: str
    checkout: Path
    config: str
    start: str
    is_torch: bool = False


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default="vit_fashion", help="of configs/, with arguments")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each")
    parser.add_argument("--beside", type=Path, help="another checkout to compare with")
    parser.add_argument("--torch", action="store_true", help="compare with eager PyTorch")
    parser.add_argument("--json", type=Path, help="file for the figures of all runs")
    options = parser.parse_args()
    if options.beside and not (options.beside / "maskaq_jax" / "main.py").is_file():
        parser.error(f"--beside: {options.beside} is no checkout of maskaq_jax")
    kinds = list_kinds(options.configs.split(","), options.beside, options.torch)
    found: dict[Kind, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(options.repeats):
        for kind, row in measure_all(kinds).items():
            found[kind].append(row)
            print(f"{kind.label}, {kind.config}, {kind.start}: {row['wall']:.1f} s", flush=True)
    if options.json:
        rows = [
            dataclasses.asdict(kind) | {"checkout": kind.checkout.name, "runs": measured}
            for kind, measured in found.items()
        ]
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(table(found))


def list_kinds(configs: Sequence[str], beside: Path | None, with_torch: bool) -> list[Kind]:
    """All that is run in a repeat, in its order: warm starts find the programs of cold ones."""
    kinds = []
    for config in configs:
        checkouts = {"this": HERE} | ({"beside": beside.resolve()} if beside else {})
        for start in _STARTS:
            kinds += [Kind(name, path, config, start) for name, path in checkouts.items()]
        if with_torch:
            name, _, argument = config.partition(":")
            paper = f"{name}:{','.join(filter(None, (argument, _PAPER)))}"
            kinds += [Kind("this", HERE, paper, start) for start in _STARTS]
            kinds.append(Kind("PyTorch", HERE, paper, "cold", is_torch=True))
    # A second cold start of the same would find the programs of the first.
    return list(dict.fromkeys(kinds))


def measure_all(kinds: Sequence[Kind]) -> dict[Kind, dict[str, Any]]:
    """One repeat: `wall` seconds, `peak` gigabytes, and seconds of parts, of each."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        return {kind: measure(kind, place, number) for number, kind in enumerate(kinds)}


def measure(kind: Kind, place: Path, number: int) -> dict[str, Any]:
    """A run in a process of its own.

    Args:
      kind: of it.
      place: directory of the repeat, with the caches.
      number: of the run in the repeat.

    Raises:
      RuntimeError: it failed; the end of what it printed is told.
    """
    workdir, recorded = place / f"run_{number}", place / f"{number}.json"
    name, _, argument = kind.config.partition(":")
    if kind.is_torch:
        flags = ["benchmarks.torch_run", f"--config={kind.config}"]
    else:
        cache = place / f"cache_{kind.label}_{name}_{argument}"
        flags = [
            *("maskaq_jax.main", f"--config=configs/{name}.py:{argument}".rstrip(":")),
            *(f"--workdir={workdir}", f"--compilation_cache={cache}"),
        ]
    log = place / f"{number}.log"
    try:
        with log.open("wb") as output:
            wall, peak = processes.measure(
                str(_RECORDED), str(recorded), *flags, directory=kind.checkout, output=output
            )
    except subprocess.CalledProcessError as error:
        told = log.read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"{kind.label} {kind.config} failed:\n{told}") from error
    parts = json.loads(recorded.read_text(encoding="utf-8"))
    if kind.is_torch:
        results = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        figure = results["top1"]
    else:
        results = json.loads((workdir / directory.RESULTS).read_text(encoding="utf-8"))
        figure = runs.final_figure(results)
    phases = results["seconds"]
    parts["rest"] = wall - parts["start"] - sum(phases.values())
    return {
        "wall": wall,
        "peak": peak,
        "figure": figure,
        "parts": parts | phases,
    }


def table(found: Mapping[Kind, Sequence[dict[str, Any]]]) -> str:
    """Markdown: a line for each kind."""
    lines = [
        "| config | of | start | seconds | times this | peak GB | figure | seconds of parts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, measured in found.items():
        walls = [run["wall"] for run in measured]
        ours = [run["wall"] for run in found[_counterpart(kind)]]
        ratios = [wall / own for wall, own in zip(walls, ours, strict=True)]
        ratio = "" if ratios == [1] * len(ratios) else f"{statistics.median(ratios):.2f}"
        figures = [run["figure"] for run in measured if run["figure"] is not None]
        figure = f"{statistics.median(figures):.2f}" if figures else ""
        parts = ", ".join(
            f"{name} {statistics.median(run['parts'][name] for run in measured):.1f}"
            for name in measured[0]["parts"]
        )
        lines.append(
            f"| {kind.config} | {kind.label} | {kind.start} | {statistics.median(walls):.1f} "
            f"({min(walls):.1f} to {max(walls):.1f}) | {ratio} "
            f"| {statistics.median(run['peak'] for run in measured):.2f} "
            f"| {figure} | {parts} |"
        )
    return "\n".join(lines)


def _counterpart(kind: Kind) -> Kind:
    """The run of this checkout that another is compared with."""
    return dataclasses.replace(kind, label="this", checkout=HERE, is_torch=False)


if __name__ == "__main__":
    main()
