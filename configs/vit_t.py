"""Quantizes ViT-T at 224 px, with weights of the Hugging Face hub.

    python -m maskaq_jax.main --config=configs/vit_t.py:w=4,a=8,val=DIR

Arguments, time and accuracy: `configs/common.py`.
"""

import functools

from configs import common

get_config = functools.partial(
    common.imagenet_config,
    model="vit_tiny_patch16_224",
    weights="hf://timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
