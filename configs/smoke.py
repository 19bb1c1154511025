"""Every phase of the embedded experiment, one refresh included, on a few images.

    python -m maskaq_jax.main --config=configs/smoke.py

Shows that an installation works and what a run leaves behind, in about a minute on 2 cores. Its
accuracy means nothing: the images are too few and too little optimised.
"""

from ml_collections import ConfigDict

from configs import vit_fashion


def get_config(argument: str | None = None) -> ConfigDict:
    """The embedded experiment with less of everything; takes the same arguments."""
    config = vit_fashion.get_config(argument)
    config.samples.num_samples = 32
    config.samples.batch_size = 32
    # 0, for no refresh, stays, and so does the single step of `without=synthesis` below.
    config.samples.refresh_every = min(config.samples.refresh_every, 1)
    config.samples.calibration_size = 32
    config.synthesis.num_steps = min(config.synthesis.num_steps, 10)
    config.finetuning.epochs = 2
    config.finetuning.batch_size = 16
    return config
