"""Classifiers that read something else than those of the models here, though their names or shapes
look like it: refused, as they would give other classes without a word, or brought to ours.
"""

import re
from collections.abc import Mapping

import numpy as np

from maskaq_jax.models import Model
from maskaq_jax.storage import notes
from maskaq_jax.storage.notes import Tell

State = dict[str, np.ndarray]

# What stands between the tokens and the classifier in models that have no such thing here.
_BEFORE_CLASSIFIER = re.compile(r"(^|\.)(pooler|pre_logits)\.")
_CLASSIFIER = re.compile(r"(^|\.)(head|head_dist|(cls_|distillation_)?classifier|heads\.head)\.")
# Of transformers' towers for images, beside which its classifiers stand.
_TOWER = re.compile(r"(^|\.)vision_model\.")
_OF_TOWER = re.compile(r"(^|\.)classifier\.weight$")
_POOLING_OF_TOWER = re.compile(r"(^|\.)vision_model\.head\.")
# DINOv2's own, beside its backbone.
_LINEAR_HEADS = ("head.weight", "linear_head.weight")
_MEND = "without a classifier (config.model.num_classes=0) the features before it can be quantized"


def bring_to_ours(state: Mapping[str, np.ndarray], model: Model, source: str, tell: Tell) -> State:
    """Leaves out layers that no classifier reads, under the names that their project gave them.

    Returns:
      The arrays without a pooler that nothing reads, and, where transformers' SigLIP classifies the
      mean of its patches, without the pooling that it classifies nothing by.

    Raises:
      ValueError: a classifier reads what the models here don't have.
    """
    is_read = bool(model.num_classes)
    if is_read and any(map(_TOWER.search, state)) and any(map(_OF_TOWER.search, state)):
        state = _of_mean(state, model, source, tell)
    found = [name for name in state if _BEFORE_CLASSIFIER.search(name)]
    if not found:
        return dict(state)
    if is_read and any(_CLASSIFIER.search(name) for name in state):
        raise ValueError(
            f"{source} does not fit the model: its classifier reads a layer behind the class "
            f"token's norm ({found[0]}), which the models here don't have; {_MEND}"
        )
    tell(f"{source}: left out, as nothing before it depends on it: {notes.some(found)}")
    return {name: state[name] for name in state if name not in found}


def check(state: Mapping[str, np.ndarray], model: Model, source: str) -> None:
    """Refuses what shows by timm's names alone: one head of two tokens, or on several vectors.

    Raises:
      ValueError: the classifier reads what the models here don't have.
    """
    if not model.num_classes:
        return
    if {"dist_token", "head.weight"} <= state.keys() and "head_dist.weight" not in state:
        raise ValueError(
            f"{source} does not fit the model: it has a distillation token and no classifier of it "
            "(head_dist), as transformers' DeiTForImageClassification, and models here read both "
            f"tokens: take the weights of DeiTForImageClassificationWithTeacher; {_MEND}"
        )
    stem = state.get("patch_embed.proj.weight")
    channels = 0 if stem is None else len(stem)
    for name in _LINEAR_HEADS:
        shape = np.shape(state.get(name, ()))
        if channels and len(shape) == 2 and shape[1] in (2 * channels, 5 * channels):
            raise ValueError(
                f"{source} does not fit the model: its classifier ({name}) reads {shape[1]} "
                f"features, the class token's {channels} and others beside them, as that of "
                f"DINOv2's linear classifiers, and models here read one vector; {_MEND}"
            )


def _of_mean(state: Mapping[str, np.ndarray], model: Model, source: str, tell: Tell) -> State:
    """Of CLIPForImageClassification and SiglipForImageClassification, which read patches' mean."""
    if any(name.endswith("embeddings.class_embedding") for name in state):
        raise ValueError(
            f"{source} does not fit the model: its classifier, that of transformers' "
            "CLIPForImageClassification, reads the mean of the patches without the norm behind the "
            f"blocks, which the models here don't have; {_MEND}"
        )
    if getattr(model, "global_pool", "") != "avg" or getattr(model, "has_fc_norm", True):
        raise ValueError(
            f"{source} does not fit the model: its classifier, that of transformers' "
            "SiglipForImageClassification, reads the mean of the normed patches: set "
            "config.model.arguments.global_pool='avg' and config.model.arguments.fc_norm=False"
        )
    unread = [name for name in state if _POOLING_OF_TOWER.search(name)]
    if unread:
        tell(f"{source}: left out, as its classifier doesn't read it: {notes.some(unread)}")
    return {name: state[name] for name in state if name not in unread}
