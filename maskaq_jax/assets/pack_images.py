"""Packs the images of the embedded experiment from Fashion-MNIST's original files.

    python -m maskaq_jax.assets.pack_images --data=DIR --output=maskaq_jax/assets

Writes `fashion_test.npz` (all test images), `fashion_validation.npz` (training images the teacher
never saw) and `fashion_real.npz` (training images for the `real` source), each with `images` and
`labels`.
"""

from pathlib import Path

import numpy as np
from absl import app, flags

from maskaq_jax.assets import fashion_mnist

NUM_REAL = 1024

_DATA = flags.DEFINE_string("data", None, "Folder of Fashion-MNIST's files.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to.", required=True)


def main(argv: list[str]) -> None:
    del argv
    splits = fashion_mnist.read_splits(Path(_DATA.value))
    # The original order is random, so the first images are a fair sample.
    real = tuple(array[:NUM_REAL] for array in splits["training"])
    for name, (images, labels) in {
        "test": splits["test"],
        "validation": splits["validation"],
        "real": real,
    }.items():
        path = Path(_OUTPUT.value) / f"fashion_{name}.npz"
        np.savez_compressed(path, images=images, labels=labels)
        print(f"{path}: {len(images)} images, {path.stat().st_size} bytes")


if __name__ == "__main__":
    app.run(main)
