"""What files for runtimes call a model's outputs, channels of maps first, and these outputs again.

classification   `logits` [B, classes], or features
detection        `logits` [B, tokens, classes + 1] and `pred_boxes` [B, tokens, 4]
segmentation     `logits` [B, classes, height, width]
features         `map_0`, `map_1` and so on, [B, C, rows, columns], the largest first
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from maskaq_jax.models.protocol import Task

Value = TypeVar("Value")

LOGITS = "logits"
_MAP = "map_"


def named(outputs: Any, task: Task, channels_first: Callable[[Any], Value]) -> dict[str, Value]:
    """Outputs by their names in a file.

    Args:
      outputs: as a model of the task returns them, of arrays or of what stands for them.
      task: of the model.
      channels_first: [B, rows, columns, C] -> [B, C, rows, columns].
    """
    if task == "detection":
        return dict(outputs)
    if task == "features":
        return {f"{_MAP}{i}": channels_first(level) for i, level in enumerate(outputs)}
    return {LOGITS: channels_first(outputs) if task == "segmentation" else outputs}


def of_model(found: Mapping[str, np.ndarray]) -> Any:
    """A file's outputs by name -> outputs as its model returns them."""
    if LOGITS not in found:
        return tuple(_channels_last(found[f"{_MAP}{i}"]) for i in range(len(found)))
    if len(found) > 1:
        return dict(found)
    logits = found[LOGITS]
    return _channels_last(logits) if logits.ndim == 4 else logits


def _channels_last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)
