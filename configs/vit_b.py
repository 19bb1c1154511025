"""Quantizes ViT-B at 224 px, with weights of the Hugging Face hub.

    python -m maskaq_jax.main --config=configs/vit_b.py:w=4,a=8,val=DIR

Arguments, time and accuracy: `configs/common.py`.
"""

import functools

from configs import common

get_config = functools.partial(
    common.imagenet_config,
    model="vit_base_patch16_224",
    weights="hf://timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
