"""The embedded Swin with more images for about as many training steps.

    python -m maskaq_jax.main --config=configs/swin_fashion_long.py

Takes the arguments of `configs/vit_fashion.py`.
"""

from ml_collections import ConfigDict

from configs import swin_fashion


def get_config(argument: str | None = None) -> ConfigDict:
    """The embedded Swin's experiment with a larger budget."""
    config = swin_fashion.get_config(argument)
    config.samples.num_samples = 640
    config.samples.refresh_every = min(config.samples.refresh_every, 15)  # MimiQ has none: 0
    config.finetuning.epochs = 30
    return config
