"""Quantizes DeiT-B at 224 px, with weights of the Hugging Face hub.

    python -m maskaq_jax.main --config=configs/deit_b.py:w=4,a=8,val=DIR

Arguments, time and accuracy: `configs/common.py`.
"""

import functools

from configs import common

get_config = functools.partial(
    common.imagenet_config,
    model="deit_base_patch16_224",
    weights="hf://timm/deit_base_patch16_224.fb_in1k",
)
