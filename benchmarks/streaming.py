"""Peak memory of whole runs that differ in the number of samples alone.

    python -m benchmarks.streaming

A tiny model sees images of 224 px, each of 0.6 MB: memory that grew with their number would show.
Prints a Markdown table.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import measure
from benchmarks.random_weights import write_random_weights
from maskaq_jax.models import create_model

SIZES = (250, 1000, 4000)
ARGUMENTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 56,
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
}

CONFIG = """
from configs import deit_t


def get_config():
    config = deit_t.get_config("preset=paper")
    config.model.name, config.model.num_classes = "vit", 10
    config.model.arguments = {arguments}
    config.model.weights = "{weights}"
    config.samples.num_samples = {size}
    config.samples.batch_size = 50
    config.samples.calibration_size = 50
    config.synthesis.num_steps = 1
    config.finetuning.epochs = 1
    config.finetuning.batch_size = 50
    config.evaluation.batch_size = 50
    return config
"""


def main() -> None:
    """Measures the runs and prints them."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model = create_model("vit", 10, **ARGUMENTS)
        weights = directory / "weights.safetensors"
        write_random_weights(weights, model)
        print("| images | their size | peak memory | time |\n|---|---|---|---|")
        for size in SIZES:
            config = directory / f"config_{size}.py"
            config.write_text(CONFIG.format(arguments=ARGUMENTS, weights=weights, size=size))
            seconds, gigabytes = measure(
                "-m",
                "maskaq_jax.main",
                f"--config={config}",
                f"--workdir={directory / str(size)}",
                "--compilation_cache=",
            )
            stored = size * 4 * math.prod(model.input_shape) / 1e9
            print(
                f"| {size} | {stored:.2f} GB | {gigabytes:.2f} GB | {seconds:.0f} s |", flush=True
            )


if __name__ == "__main__":
    main()
