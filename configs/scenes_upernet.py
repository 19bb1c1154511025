"""Quantizes the embedded segmenter without data.

    python -m maskaq_jax.main --config=configs/scenes_upernet.py

Arguments are those of `configs/common.py`. It takes a minute or two, and reaches a mean
IoU of 68.1 at W4A4 (3 seeds); the teacher has 70.4. `docs/results/scenes.md` has other methods
and bits.
"""

from ml_collections import ConfigDict

from configs import common

FIELDS = {
    "model.name": "upernet_swin",
    "model.num_classes": 11,
    "model.arguments": {
        "img_size": 96,
        "patch_size": 4,
        "embed_dim": 32,
        "depths": (2, 2, 4),
        "num_heads": (2, 4, 8),
        "window_size": 6,
        "hidden_size": 32,
        "dtype": "float32",
    },
    "model.weights": "embedded:upernet_scenes",
}


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment on scenes with a UperNet."""
    return common.scenes_config(argument, FIELDS)
