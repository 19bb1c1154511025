"""Quantizes ViT-T (ImageNet, 224 px) with the paper's settings; made for accelerators.

    python -m maskaq_jax.main --config=configs/vit_t.py:w=4,a=4,val=DIR

Arguments: `w` and `a`, bits of weights and activations; `method`; `seed`; and `val`, evaluation
images: a folder for each class, or `tfds:imagenet2012`. Weights come from the Hugging Face hub (the
`hub` extra); `--config.model.weights=FILE` takes a file instead. `docs/scaling.md` estimates the
time; accuracy is not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    """The paper's experiment on ViT-T."""
    return common.imagenet_config(
        argument,
        model="vit_tiny_patch16_224",
        weights="hf://timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
