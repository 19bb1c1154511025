"""Quantizes the embedded Swin without data.

    python -m maskaq_jax.main --config=configs/swin_fashion.py

Arguments are those of `configs/common.py`. On 2 CPU cores it takes 2 to 3 minutes, and reaches
85.5% top-1 at W3A3 (5 seeds, +- 0.7); the teacher has 90.5%.
"""

from ml_collections import ConfigDict

from configs import common

FIELDS = {
    "model.name": "swin",
    "model.arguments": {
        "img_size": 28,
        "patch_size": 2,
        "embed_dim": 32,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": 7,
        "dtype": "float32",
    },
    "model.weights": "embedded:swin_fashion",
    "samples.num_samples": 256,
    "samples.batch_size": 128,
}


def get_config(argument: str | None = None) -> ConfigDict:
    """The embedded experiment on a Swin of two stages, 14 x 14 and 7 x 7 tokens."""
    return common.fashion_config(argument, FIELDS)
