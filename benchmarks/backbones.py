"""Memory and time of ImageNet backbones on this machine: whole runs at 224 px, and the importer.

    python -m benchmarks.backbones

Weights are random and images few: what is measured is whether a backbone fits, not what it reaches.
Each case has processes of its own, whose peak memory the system tells. Prints a Markdown table.
"""

import tempfile
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from benchmarks.processes import measure
from maskaq_jax import torch_import
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
            weights = write_random_weights(directory, model, num_classes)
            images = write_images(directory, num_classes)
            seconds, gigabytes = measure(
                "-m",
                "maskaq_jax.main",
                f"--config=configs/{config}.py:val={images}",
                f"--config.model.weights={weights}",
                f"--workdir={directory / config}",
                *SMALL,
            )
            print(f"| run of {model} | {gigabytes:.2f} GB | {seconds:.0f} s |", flush=True)

        weights = write_random_weights(directory, IMPORTED, 1000)
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


def write_random_weights(directory: Path, name: str, num_classes: int) -> Path:
    """Weights of a model as its initialisers draw them, under timm's names."""
    path = directory / f"{name}.safetensors"
    model = create_model(name, num_classes)
    images = np.zeros((1, *model.input_shape), np.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    save_file(torch_import.to_torch_state(params), path)
    return path


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
