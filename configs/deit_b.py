"""Quantizes DeiT-B (ImageNet, 224 px) with the paper's settings; made for accelerators.

    python -m maskaq_jax.main --config=configs/deit_b.py:w=4,a=4,val=DIR

Arguments: `w` and `a`, bits of weights and activations; `method`; `seed`; and `val`, evaluation
images: a folder for each class, or `tfds:imagenet2012`. Weights come from the Hugging Face hub (the
`hub` extra); `--config.model.weights=FILE` takes a file instead. `docs/scaling.md` estimates the
time; accuracy is not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    """The paper's experiment on DeiT-B."""
    return common.imagenet_config(
        argument,
        model="deit_base_patch16_224",
        weights="hf://timm/deit_base_patch16_224.fb_in1k",
    )
