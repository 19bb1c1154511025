"""Prefixes of names: what wrappers of a model put before all of them."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from maskaq_jax.storage import notes

State = dict[str, np.ndarray]

# The first layer's kernel, by every project's name of it: what is before it is before all of them.
_STEMS = (
    r"patch_embed\.proj\.weight",
    r"patch_embed\.projection\.weight",
    r"embeddings\.patch_embeddings\.projection\.weight",
    r"embeddings\.patch_embedding\.weight",
    r"visual\.conv1\.weight",
    r"conv_proj\.weight",
)
_STEM = re.compile(rf"(?P<prefix>(?:.+\.)?)(?:{'|'.join(_STEMS)})")
# Of transformers' own models, whose classifiers stand beside them.
_OF_TRANSFORMERS = re.compile(
    r"((vit|deit|swin|dinov2|dinov2_with_registers|vision_model|vit_mae|vit_msn)\.)+$"
)


def without_prefix(state: Mapping[str, np.ndarray], source: str) -> tuple[State, str]:
    """Takes off the one prefix that explains all names.

    Of a name that begins otherwise, as a classifier's beside a backbone, the levels that it shares
    go.

    Returns:
      The arrays, and the prefix as a user should be told of it; empty where there was none.

    Raises:
      ValueError: there are several models.
    """
    prefixes = sorted({match["prefix"] for name in state if (match := _STEM.fullmatch(name))})
    if len(prefixes) > 1:
        named = notes.some([repr(prefix.rstrip(".")) for prefix in prefixes], 8)
        raise ValueError(
            f"{source} holds several models, below {named}: config.model.weights_key takes one"
        )
    if not prefixes or not prefixes[0]:
        return dict(state), ""
    levels = prefixes[0].rstrip(".").split(".")
    stripped: State = {}
    for name, array in state.items():
        parts = name.split(".")
        shared = _count_shared(parts[:-1], levels)
        short = ".".join(parts[shared:])
        if short in stripped:
            raise ValueError(f"{source} names {short!r} twice, with and without {prefixes[0]!r}")
        stripped[short] = array
    return stripped, _OF_TRANSFORMERS.sub("", prefixes[0])


def _count_shared(parts: list[str], levels: Iterable[str]) -> int:
    count = 0
    for part, level in zip(parts, levels, strict=False):
        if part != level:
            break
        count += 1
    return count
