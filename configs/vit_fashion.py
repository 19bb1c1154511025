"""Quantizes the embedded ViT without data: the experiment to start with.

    python -m maskaq_jax.main --config=configs/vit_fashion.py

Arguments, as in `--config=configs/vit_fashion.py:w=4,a=8,method=noise`:

    w, a           bits of weights and activations: 2 to 8, or 32 for none
    method         where the samples come from: maskaq, mimiq, psaq, noise or real; `source` is
                   another word for it
    without        a part of MaskAQ left out: entropy, coupling, drop (of regions at random), ratio
                   (0.3 throughout instead of falling), masking (of distillation), calibration
                   (on noise instead of samples), refresh or synthesis (a single step)
    preset         best or paper, the settings of images and training
    images         best or paper, where those of the images are to differ
    background     black, white, auto (one of the two, as P chooses; best) or none (paper)
    seed           of every random draw
    split          images to evaluate on: test, or validation to choose settings

On 2 CPU cores it takes one and a half to four minutes, and reaches 86.6% top-1 at W3A3 (5
seeds, +- 0.3); the teacher has 91.2%. `docs/settings.md` says what `best` changes of the paper's
settings, and why.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    """The embedded experiment for a config argument."""
    config = common.fashion_config(argument)
    config.model.name = "vit"
    config.model.arguments = ConfigDict(
        {
            "img_size": 28,
            "patch_size": 4,
            "embed_dim": 64,
            "depth": 4,
            "num_heads": 4,
            "dtype": "float32",
        }
    )
    config.model.weights = "embedded:vit_fashion"
    return config
