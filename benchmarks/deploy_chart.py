"""A chart of `benchmarks.deploy`'s records: CPU time and size of each model's files.

python -m benchmarks.deploy_chart --json=deploy.json --out=docs/deploy.png
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.deploy import FRAMEWORKS

# How the runtimes are called, in the order of the legend.
_NAMES = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "torch": "PyTorch", "jax": "JAX"}


def main() -> None:
    """Reads records, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="records of benchmarks.deploy")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    parser.add_argument("--batch", type=int, default=1, help="images a pass")
    options = parser.parse_args()
    draw(options.out, json.loads(options.json.read_text()), options.batch)


def draw(path: Path, records: Sequence[dict[str, Any]], batch: int = 1) -> None:
    """Draws a column for each model: above the time of a pass, below the size of its files.

    Args:
      path: of the PNG.
      records: of `benchmarks.deploy`.
      batch: whose passes are drawn.
    """
    own = [record for record in records if record["batch"] == batch]
    models = list(dict.fromkeys(record["model"] for record in own))
    figure, (above, below) = charts.new_figure(2, len(models), (4 * len(models), 6), sharex="col")
    for model, times, sizes in zip(models, above, below, strict=True):
        of_model = [record for record in own if record["model"] == model]
        for runtime, name in _NAMES.items():
            chosen = [record for record in of_model if record["runtime"] == runtime]
            milliseconds = [1e3 * record["seconds"] for record in chosen]
            if runtime in FRAMEWORKS and chosen:
                style = {"linestyle": "--" if runtime == "torch" else ":", "color": "grey"}
                times.axhline(milliseconds[0], label=f"{name}, float32", **style)
            elif chosen:
                times.plot([_bits(record) for record in chosen], milliseconds, "o-", label=name)
        by_bits = {_bits(one): one["size"] for one in of_model if one["runtime"] not in FRAMEWORKS}
        sizes.bar(list(by_bits), [size / 1e6 for size in by_bits.values()], width=0.6)
        times.set_title(model)
        for axis in (times, sizes):
            axis.set_ylim(bottom=0)
            axis.grid(axis="y", alpha=0.3)
    above[0].set_ylabel(f"ms of one thread, batch of {batch}")
    below[0].set_ylabel("MB")
    above[0].legend()
    figure.savefig(path, dpi=100)


def _bits(record: dict[str, Any]) -> str:
    """As W4A8."""
    if record["weight_bits"] == 32:
        return "float32"
    return f"W{record['weight_bits']}A{record['activation_bits']}"


if __name__ == "__main__":
    main()
