"""State dicts of detectors and segmenters -> the names of their models here, and back.

Known are hustvl's YOLOS and transformers', UperNet of mmsegmentation and of transformers, DINOv2's
linear heads, and the backbone and pyramid of mmdetection's Mask R-CNN and Cascade Mask R-CNN. Names
of backbones are left to `names`, but for those of mmdetection and mmsegmentation.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from maskaq_jax.models.protocol import Task
from maskaq_jax.storage import notes
from maskaq_jax.storage.notes import Tell

State = dict[str, np.ndarray]

# What tells by its name what a model is for; the first that matches.
_TASKS: tuple[tuple[str, Task], ...] = (
    (r"^(decode_head|auxiliary_head)\.", "segmentation"),
    (r"(^|\.)(det_token|detection_tokens)$|^(class_embed|class_labels_classifier)\.", "detection"),
    (r"^neck\.(lateral|fpn)_convs\.", "features"),
)
# Of these tasks, in words.
NOUNS: dict[Task, str] = {
    "classification": "classifier",
    "detection": "detector of YOLOS's kind",
    "segmentation": "segmenter",
    "features": "backbone with a feature pyramid",
}
# Beside what is quantized: heads that training alone uses, or that stand on the features.
_OTHER_HEADS = {
    "segmentation": r"^auxiliary_head\.",
    "features": r"^(rpn_head|roi_head|mask_head|bbox_head)\.",
}
_OF_MMLAB = re.compile(r"stages\.\d+\.blocks\.\d+\.attn\.w_msa\.")
_MERGING = re.compile(r"stages\.\d+\.downsample\.(norm\.(weight|bias)|reduction\.weight)")
# In order; a name takes every change that matches it.
_MMLAB_NAMES = [
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.(\d+)\.(?=blocks\.|downsample\.)", r"layers.\1."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
]
_HEAD_NAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^hidden_states_norms\.stage(\d+)\.", lambda match: f"norm.{int(match[1]) - 1}."),
    (r"^norm(\d+)\.", r"norm.\1."),
    (r"^embeddings\.detection_tokens$", "det_token"),
    (r"^encoder\.(interpolation\.)?mid_position_embeddings$", "mid_pos_embed"),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
    (r"^decode_head\.classifier\.", "decode_head.conv_seg."),
    (r"^(decode_head\.psp_modules\.\d+)\.1\.", r"\1."),
    (r"^((?:decode_head|neck)\..*)\.conv\.(weight|bias)$", r"\1.\2"),
]
# Of transformers' Swin: a norm behind all stages, where maps have their own.
_UNREAD = re.compile(r"(swin\.)?layernorm\.(?=weight|bias)")
_HEADS = re.compile(r"(decode_head|neck)\.")
# Of PyTorch's batch norms, which none of these projects changes.
_BATCH_NORM_EPSILON = 1e-5
_BATCH_NORM = re.compile(r"(?P<layer>.*)\.(bn|batch_norm)\.running_mean")


def task_of(names: Iterable[str]) -> Task:
    """What a state dict is for, as the names of its heads tell; 'classification' if by nothing."""
    names = list(names)
    for pattern, task in _TASKS:
        if any(re.search(pattern, name) for name in names):
            return task
    return "classification"


def to_ours(state: Mapping[str, np.ndarray], task: Task, source: str, tell: Tell) -> State:
    """Brings heads to our names, and what mmdetection and mmsegmentation have otherwise to timm's.

    Args:
      state: name -> array, in PyTorch's layouts, without what `prefixes` takes off.
      task: what it is for.
      source: of the arrays, for messages.
      tell: is told what is left out and what is folded.

    Returns:
      Arrays under our names of heads; those of backbones are left to `names` and `prefixes`. Batch
      norms are part of the convolutions, and 1 x 1 convolutions are matrices.

    Raises:
      ValueError: a batch norm has no convolution.
    """
    kept = _without_other_heads(state, task, source, tell)
    if any(_OF_MMLAB.match(name) for name in kept):
        kept = {
            _renamed(name, _MMLAB_NAMES): _from_unfolded(array) if _MERGING.match(name) else array
            for name, array in kept.items()
        }
    if any(name.startswith("hidden_states_norms.") for name in kept):
        kept = {name: array for name, array in kept.items() if not _UNREAD.match(name)}
    kept = {_renamed(name, _HEAD_NAMES): array for name, array in kept.items()}
    kept = _fold_batch_norms(kept, source, tell)
    kept = {
        name: array[:, :, 0, 0] if _HEADS.match(name) and array.shape[2:] == (1, 1) else array
        for name, array in kept.items()
    }
    is_linear = not any(name.startswith("decode_head.fpn") for name in kept)
    if task == "segmentation" and is_linear:
        kept = {name.replace("decode_head.conv_seg.", "decode_head."): kept[name] for name in kept}
    return kept


def to_mmdetection(state: Mapping[str, np.ndarray]) -> State:
    """The inverse, of a backbone and its pyramid: our names -> mmdetection's.

    Args:
      state: arrays under timm's names of the backbone, and ours of norms and pyramid.
    """
    renamed = {}
    for name, array in state.items():
        if name.startswith("neck."):
            path, _, leaf = name.rpartition(".")
            array = array[:, :, None, None] if leaf == "weight" and array.ndim == 2 else array
            renamed[f"{path}.conv.{leaf}"] = array
            continue
        if ".downsample." in name:
            array = _to_unfolded(array)
        name = re.sub(r"^layers\.(\d+)\.downsample\.", _earlier_stage, name)
        name = re.sub(r"^layers\.", "stages.", name)
        name = name.replace("patch_embed.proj.", "patch_embed.projection.")
        name = name.replace(".attn.", ".attn.w_msa.")
        name = name.replace(".mlp.fc1.", ".ffn.layers.0.0.").replace(".mlp.fc2.", ".ffn.layers.1.")
        name = re.sub(r"^norm\.(\d+)\.", r"norm\1.", name)
        renamed[f"backbone.{name}"] = array
    return renamed


def _without_other_heads(
    state: Mapping[str, np.ndarray], task: Task, source: str, tell: Tell
) -> State:
    pattern = _OTHER_HEADS.get(task)
    found = [name for name in state if pattern and re.match(pattern, name)]
    if found:
        heads = " and ".join(dict.fromkeys(name.split(".")[0] for name in found))
        why = {
            "segmentation": "which training alone uses",
            "features": "which reads the features that the model gives",
        }[task]
        tell(f"{source}: left out is {heads}, {why}")
    return {name: state[name] for name in state if name not in found}


def _fold_batch_norms(state: Mapping[str, np.ndarray], source: str, tell: Tell) -> State:
    """Makes batch norms part of the convolutions before them, or of the classifier behind the one
    that has none before it.
    """
    folded = dict(state)
    norms = [match for name in state if (match := _BATCH_NORM.fullmatch(name))]
    for match in norms:
        norm, layer = match[0].rpartition(".")[0], match["layer"]
        factor, shift = _take_batch_norm(folded, norm, source)
        if f"{layer}.weight" in folded:
            is_before = False
        elif f"{layer}.conv_seg.weight" in folded:
            layer, is_before = f"{layer}.conv_seg", True
        else:
            raise ValueError(
                f"{source} does not fit the model: the batch norm {norm} has no convolution"
            )
        kernel = np.asarray(folded[f"{layer}.weight"], np.float64)
        flat = kernel.reshape(len(kernel), -1) if kernel.ndim else np.zeros((0, 0))
        bias = np.asarray(folded.get(f"{layer}.bias", np.zeros(len(flat))), np.float64)
        if flat.shape[1 if is_before else 0] != len(factor) or bias.shape != (len(flat),):
            raise ValueError(
                f"{source} does not fit the model: {layer} is {kernel.shape}, and the batch norm "
                f"{norm} beside it has {len(factor)} channels"
            )
        if is_before:
            bias, flat = bias + flat @ shift, flat * factor[None]
        else:
            bias, flat = bias * factor + shift, flat * factor[:, None]
        folded[f"{layer}.weight"] = flat.reshape(kernel.shape).astype(np.float32)
        folded[f"{layer}.bias"] = bias.astype(np.float32)
    if norms:
        tell(f"{source}: {len(norms)} batch norms are made part of the convolutions beside them")
    return folded


def _take_batch_norm(state: State, norm: str, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Takes a batch norm out of a state: the factor and the shift of each channel, [C] float64."""
    names = [f"{norm}.{leaf}" for leaf in ("running_mean", "running_var", "weight", "bias")]
    if missing := [name for name in names if name not in state]:
        raise ValueError(f"{source} does not fit the model: missing: {notes.some(missing)}")
    mean, variance, weight, bias = (np.asarray(state.pop(name), np.float64) for name in names)
    state.pop(f"{norm}.num_batches_tracked", None)
    if len({array.shape for array in (mean, variance, weight, bias)}) > 1 or mean.ndim != 1:
        raise ValueError(
            f"{source} does not fit the model: the batch norm {norm} has arrays of shapes "
            f"{mean.shape}, {variance.shape}, {weight.shape} and {bias.shape}"
        )
    with np.errstate(invalid="ignore", divide="ignore"):  # what is not finite is told with others
        factor = weight / np.sqrt(variance + _BATCH_NORM_EPSILON)
        return factor, bias - mean * factor


def _renamed(name: str, names: Iterable[tuple[str, Any]]) -> str:
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return name


def _earlier_stage(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) - 1}.downsample."


def _from_unfolded(array: np.ndarray) -> np.ndarray:
    """The last axis, four neighbours a channel, row by row -> channels of each neighbour, those of
    a column one after the other, as the original Swin's merging has them.
    """
    if not array.ndim or array.shape[-1] % 4:
        return array
    by_neighbour = array.reshape(*array.shape[:-1], -1, 2, 2)  # channel, row, column
    return np.moveaxis(by_neighbour, (-1, -2), (-3, -2)).reshape(array.shape)


def _to_unfolded(array: np.ndarray) -> np.ndarray:
    """The inverse of `_from_unfolded`."""
    by_channel = array.reshape(*array.shape[:-1], 2, 2, -1)  # column, row, channel
    return np.moveaxis(by_channel, (-3, -2), (-1, -2)).reshape(array.shape)
