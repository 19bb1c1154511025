"""The embedded experiment with more images, more steps and more epochs, for the best accuracy.

    python -m maskaq_jax.main --config=configs/vit_fashion_long.py

Takes the arguments of `configs/vit_fashion.py` and up to an hour on 2 cores.
"""

from ml_collections import ConfigDict

from configs import vit_fashion


def get_config(argument: str | None = None) -> ConfigDict:
    """The embedded experiment with a larger budget."""
    config = vit_fashion.get_config(argument)
    config.samples.num_samples = 512
    config.samples.batch_size = 128
    config.synthesis.num_steps = 200
    config.finetuning.epochs = 90
    return config
