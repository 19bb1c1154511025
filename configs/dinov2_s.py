"""Quantizes DINOv2-S, a backbone without classifier, at 224 px; made for accelerators.

    python -m maskaq_jax.main --config=configs/dinov2_s.py:w=4,a=4,val=DIR

Arguments are those of `configs/common.py`; `val` is a folder of any images, on which the features
of both models are compared. Weights come from the Hugging Face hub (the `hub` extra);
`--config.model.weights=FILE` takes a file instead. The paper has no such model; apart from the
terms that need a classifier, the settings are those of the others. Agreement is not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    """The experiment on DINOv2-S, whose features are compared."""
    return common.imagenet_config(
        argument,
        model="vit_small_patch14_dinov2",
        weights="hf://timm/vit_small_patch14_dinov2.lvd142m",
        fields={
            "model.num_classes": 0,
            "evaluation.preprocessing.crop_ratio": 1.0,
            # Images are left as they are drawn: there are no classes to make them alike, or to
            # choose a colour by.
            "synthesis.weights.classes": 0.0,
            "synthesis.num_steps": 0,
            # What steps there are ask for, for whoever takes some.
            "synthesis.weights.coupling": 0.1,
            "synthesis.weights.entropy": 1.0,
            "synthesis.weights.similarity": 0.1,
            "synthesis.background": "none",
            "finetuning.output_distance": "cosine",
        },
    )
