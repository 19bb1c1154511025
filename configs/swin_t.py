"""Quantizes Swin-T at 224 px, with weights of the Hugging Face hub.

    python -m maskaq_jax.main --config=configs/swin_t.py:w=4,a=8,val=DIR

Arguments, time and accuracy: `configs/common.py`.
"""

import functools

from configs import common

get_config = functools.partial(
    common.imagenet_config,
    model="swin_tiny_patch4_window7_224",
    weights="hf://timm/swin_tiny_patch4_window7_224.ms_in1k",
)
