"""Every phase of the embedded experiment, one refresh included, on a few images.

    python -m maskaq_jax.main --config=configs/smoke.py

Shows that an installation works and what a run leaves behind, in about a minute on 2 cores. Its
accuracy means nothing: the images are too few and too little optimised.
"""

from ml_collections import ConfigDict

from configs import common, vit_fashion

FIELDS = vit_fashion.FIELDS | {
    "samples.num_samples": 32,
    "samples.batch_size": 32,
    "samples.refresh_every": 1,
    "samples.calibration_size": 32,
    "synthesis.num_steps": 10,
    "finetuning.epochs": 2,
    "finetuning.batch_size": 16,
}


def get_config(argument: str | None = None) -> ConfigDict:
    """The embedded experiment with less of everything; takes the same arguments."""
    return common.fashion_config(argument, FIELDS)
