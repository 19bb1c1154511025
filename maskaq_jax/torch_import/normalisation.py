"""The normalisation of pixels that weights were trained with, as the model's name or the file's
format tells where nothing beside them does.
"""

import re
from typing import NamedTuple


class Normalisation(NamedTuple):
    """Mean and deviation of each channel, of pixels from 0 to 1, and whose they are."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    whose: str


_HALVES = (0.5,) * 3, (0.5,) * 3
_OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of timm's names, the first that matches; and whether only a model with a classifier is so: DINO's
# and MAE's backbones have ImageNet's under the names of others.
_OF_NAMES = [
    (r"_siglip_", _HALVES, False),
    (r"_clip_", _OPENAI, False),
    (r"dinov2|^deit|^swin_|^upernet_swin_|^yolos_|^vit_small_patch8_", _IMAGENET, False),
    (r"^vit_(tiny|small|base|large)_patch\d+_224$", _HALVES, True),
]


def usual(name: str, num_classes: int, weights: str) -> Normalisation | None:
    """What weights of a name, or in a format, are most often trained with; None if unknown.

        >>> usual("vit_base_patch16_siglip_224", 0, "vit.safetensors").mean
        (0.5, 0.5, 0.5)

    Args:
      name: of the model, as `create_model` takes it.
      num_classes: of the model; 0 for none.
      weights: their file or address.
    """
    if weights.lower().endswith(".npz"):
        return Normalisation(*_HALVES, "vision_transformer's and big_vision's .npz files")
    for pattern, (mean, std), is_of_classifiers in _OF_NAMES:
        if re.search(pattern, name) and (num_classes or not is_of_classifiers):
            return Normalisation(mean, std, f"published weights of {name}")
    return None
