"""Memory and time of ImageNet backbones on this machine: whole runs at 224 px, and the importer.

    python -m benchmarks.backbones

Weights are random and images few: what is measured is whether a backbone fits, not what it reaches.
Each case has processes of its own, whose peak memory the system tells. Prints a Markdown table.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.processes import measure
from benchmarks.random_weights import write_random_weights
from maskaq_jax.models import create_model

# Config, model and classes of each whole run; it has every phase and a refresh.
RUNS = {
    "deit_t": ("deit_tiny_patch16_224", 1000),
    "swin_t": ("swin_tiny_patch4_window7_224", 1000),
    "dinov2_s": ("vit_small_patch14_dinov2", 0),
}
SMALL = (
    "--config.samples.num_samples=4",
    "--config.samples.batch_size=4",
    "--config.samples.refresh_every=1",
    "--config.samples.calibration_size=4",
    "--config.synthesis.num_steps=4",
    "--config.finetuning.epochs=2",
    "--config.finetuning.batch_size=4",
    "--config.evaluation.batch_size=4",
    "--compilation_cache=",
)
NUM_IMAGES = 16
IMPORTED = "deit_base_patch16_224"


def main() -> None:
    """Measures all cases and prints them."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        print("| case | peak memory | time |\n|---|---|---|")
        for config, (model, num_classes) in RUNS.items():
            weights = directory / f"{model}.safetensors"
            write_random_weights(weights, create_model(model, num_classes))
            images = write_images(directory, num_classes)
            seconds, gigabytes = measure(
                "-m",
                "maskaq_jax.main",
                f"--config=configs/{config}.py:preset=paper,val={images}",
                f"--config.model.weights={weights}",
                f"--workdir={directory / config}",
                *SMALL,
            )
            print(f"| run of {model} | {gigabytes:.2f} GB | {seconds:.0f} s |", flush=True)

        weights = directory / f"{IMPORTED}.safetensors"
        write_random_weights(weights, create_model(IMPORTED))
        code = (
            "import sys; from maskaq_jax import torch_import; "
            "from maskaq_jax.models import create_model; "
            "torch_import.load_torch_weights(sys.argv[1], create_model(sys.argv[2]))"
        )
        _, before = measure("-c", code.rpartition("; ")[0])
        seconds, gigabytes = measure("-c", code, str(weights), IMPORTED)
        file = weights.stat().st_size / 1e9
        print(
            f"| {IMPORTED} built and imported | {gigabytes - before:.2f} GB over the imports' "
            f"{before:.2f}, {(gigabytes - before) / file:.1f} times the file | {seconds:.1f} s |"
        )


def write_images(directory: Path, num_classes: int) -> Path:
    """A folder of random JPEGs with a folder for each class, most of them empty."""
    root = directory / f"images_{num_classes}"
    rng = np.random.default_rng(0)
    for label in range(max(1, num_classes)):
        folder = root / f"n{label:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        if label < NUM_IMAGES:
            pixels = rng.integers(0, 256, (300, 400, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "image.JPEG")
    return root


if __name__ == "__main__":
    main()
