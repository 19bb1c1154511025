"""What an export takes: seconds, and memory beside the model's own size.

    python -m benchmarks.exports --models=deit_base_patch16_224

Weights are random, and quantizers the same everywhere. Each file is written by a process of its
own; its peak is that of all the process held while it wrote, the model and the packages too. Prints
a Markdown table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import processes

BITS = ("8x8", "4x8", "3x3")
_COLUMNS = "| model | size | bits | format | file | seconds | of CPU | peak | over the size |"


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="deit_base_patch16_224", help="with commas between")
    parser.add_argument("--bits", default=",".join(BITS), help="weights x activations")
    parser.add_argument("--formats", default="onnx,safetensors", help="of maskaq_jax.export")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_write(options.models, options.bits, options.formats)))
        return
    print(f"{_COLUMNS}\n{'|---' * (_COLUMNS.count('|') - 1)}|", flush=True)
    for model in options.models.split(","):
        for bits in options.bits.split(","):
            for file_format in options.formats.split(","):
                print(_line(model, bits, file_format), flush=True)


def _line(model: str, bits: str, file_format: str) -> str:
    """A row of the table, measured by another process."""
    arguments = ("--one", f"--models={model}", f"--bits={bits}", f"--formats={file_format}")
    answered = subprocess.run(
        [sys.executable, "-m", "benchmarks.exports", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(answered.stdout.splitlines()[-1])
    return (
        f"| {model} | {found['size'] / 1e6:.0f} MB | {bits} | {file_format} "
        f"| {found['file'] / 1e6:.1f} MB | {found['seconds']:.1f} | {found['cpu']:.1f} "
        f"| {found['peak'] / 1e6:.0f} MB | {found['peak'] / found['size']:.2f} |"
    )


def _write(name: str, bits: str, file_format: Any) -> dict[str, float]:
    """Bytes of the float32 model and the file, seconds, and the peak of this process."""
    import jax
    import numpy as np

    from maskaq_jax.config import Config
    from maskaq_jax.export import files
    from maskaq_jax.models import Quantization, create_model, shapes

    weight_bits, activation_bits = map(int, bits.split("x"))
    model = create_model(name, quantization=Quantization(weight_bits, activation_bits))
    rng = np.random.default_rng(0)
    # By their names in a quantizer; all else is a parameter.
    fields = {"step": 0.05, "zero_point": 3.0, "signed": True, "size": 1.0}

    def draw(path: Any, leaf: Any) -> np.ndarray:
        field = fields.get(getattr(path[-1], "name", ""))
        if field is not None:
            return np.full(leaf.shape, field, leaf.dtype)
        return rng.standard_normal(leaf.shape, leaf.dtype) * np.float32(0.02)

    variables = jax.tree_util.tree_map_with_path(draw, shapes.variable_shapes(model))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        started, taken = time.perf_counter(), time.process_time()
        files.write(path, model, variables, Config(), file_format)
        return {
            "size": sum(leaf.nbytes for leaf in jax.tree.leaves(variables["params"])),
            "file": path.stat().st_size,
            "seconds": time.perf_counter() - started,
            "cpu": time.process_time() - taken,
            "peak": processes.peak_of_process(),
        }


if __name__ == "__main__":
    main()
