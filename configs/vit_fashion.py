"""Quantizes the embedded ViT without data: the experiment to start with.

    python -m maskaq_jax.main --config=configs/vit_fashion.py

Arguments, as in `--config=configs/vit_fashion.py:w=4,a=8,method=noise`, are those of
`configs/common.py`. On 2 CPU cores it takes one and a half to four minutes, and reaches 86.6% top-1
at W3A3 (5 seeds, +- 0.3); the teacher has 91.2%. `docs/settings.md` says what `preset=best`, the
default here, changes of the paper's settings, and why.
"""

from ml_collections import ConfigDict

from configs import common

FIELDS = {
    "model.name": "vit",
    "model.arguments": {
        "img_size": 28,
        "patch_size": 4,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 4,
        "dtype": "float32",
    },
    "model.weights": "embedded:vit_fashion",
}


def get_config(argument: str | None = None) -> ConfigDict:
    """The embedded experiment for a config argument."""
    return common.fashion_config(argument, FIELDS)
