"""The embedded experiment with more images, refreshes and epochs, for a better accuracy.

    python -m maskaq_jax.main --config=configs/vit_fashion_long.py

Takes the arguments of `configs/vit_fashion.py`, and three times as long.
"""

from ml_collections import ConfigDict

from configs import vit_fashion


def get_config(argument: str | None = None) -> ConfigDict:
    """The embedded experiment with a larger budget."""
    config = vit_fashion.get_config(argument)
    config.samples.num_samples = 640
    config.finetuning.epochs = 90
    return config
