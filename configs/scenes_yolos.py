"""Quantizes the embedded detector without data.

    python -m maskaq_jax.main --config=configs/scenes_yolos.py

Arguments are those of `configs/common.py`. It takes a minute or two, and reaches an AP of 44.2 at
W4A4 (3 seeds); the teacher has 54.9. `docs/results/scenes.md` has other methods and bits.
"""

from ml_collections import ConfigDict

from configs import common

FIELDS = {
    "model.name": "yolos",
    "model.num_classes": 10,
    "model.arguments": {
        "img_size": 96,
        "patch_size": 12,
        "embed_dim": 128,
        "depth": 6,
        "num_heads": 4,
        "num_detection_tokens": 16,
        "mid_position_embeddings": False,
        "dtype": "float32",
    },
    "model.weights": "embedded:yolos_scenes",
}


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment on scenes with a YOLOS."""
    return common.scenes_config(argument, FIELDS)
