"""Quantizes DINOv2-S, a backbone without classifier, at 224 px; made for accelerators.

    python -m maskaq_jax.main --config=configs/dinov2_s.py:w=4,a=4,val=DIR

Arguments: `w` and `a`, bits of weights and activations; `method`; `seed`; and `val`, a folder of
any images, on which the features of both models are compared. Weights come from the Hugging Face
hub (the `hub` extra); `--config.model.weights=FILE` takes a file instead. The paper has no such
model; apart from the terms that need a classifier, the settings are the paper's. `docs/scaling.md`
estimates the time; agreement is not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    """The paper's settings on DINOv2-S, distilled by its features."""
    config = common.imagenet_config(
        argument,
        model="vit_small_patch14_dinov2",
        weights="hf://timm/vit_small_patch14_dinov2.lvd142m",
    )
    config.model.num_classes = 0
    config.evaluation.preprocessing.crop_ratio = 1.0
    config.synthesis.weights.classes = 0.0
    config.finetuning.output_distance = "cosine"
    return config
