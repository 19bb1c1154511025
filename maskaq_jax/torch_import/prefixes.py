"""Prefixes of names: what wrappers of a model put before all of them."""

import itertools
import re
from collections.abc import Iterable, Mapping

import numpy as np

from maskaq_jax.storage import notes
from maskaq_jax.storage.notes import Tell

State = dict[str, np.ndarray]

# The first layer's kernel, by every project's name of it: what is before it is before all of them.
_STEMS = (
    r"patch_embed\.proj\.weight",
    r"patch_embed\.projection\.weight",
    r"embeddings\.patch_embeddings\.projection\.weight",
    r"embeddings\.patch_embedding\.weight",
    r"visual\.conv1\.weight",
    r"conv_proj\.weight",
    r"features\.0\.0\.weight",
)
_STEM = re.compile(rf"(?P<prefix>(?:.+\.)?)(?:{'|'.join(_STEMS)})")
# Of transformers' own models, whose classifiers stand beside them.
_OF_TRANSFORMERS = re.compile(
    r"((vit|deit|swin|dinov2|dinov2_with_registers|vision_model|vit_mae|vit_msn)\.)+$"
)
# What PyTorch puts around parts of a model to compile, shard or recompute them.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Of an averaged model, and what counts operations.
_COUNTERS = re.compile(r"(^n_averaged|(^|\.)total_(ops|params))$")


def without_wrappers(state: Mapping[str, np.ndarray], source: str, tell: Tell) -> State:
    """Takes counters out, and wrappers of parts of a model; one of all of it is a prefix.

    Raises:
      ValueError: a name is there with and without a wrapper.
    """
    counters = [name for name in state if _COUNTERS.search(name)]
    if counters:
        tell(
            f"{source}: left out, as they count and no output depends on it: {notes.some(counters)}"
        )
    kept = {name: state[name] for name in state if name not in counters}
    levels = zip(*(name.split(".") for name in kept), strict=False)
    common = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    shared = sum(bool(_WRAPPERS.fullmatch(f"{level[0]}.")) for level in common)
    wrappers = {found for name in kept for found in _WRAPPERS.findall(name)[shared:]}
    if not wrappers:
        return kept
    tell(f"{source}: {' and '.join(sorted(wrappers))}, around parts of the model, is taken off")
    bare = {_WRAPPERS.sub("", name): array for name, array in kept.items()}
    if len(bare) < len(kept):
        raise ValueError(f"{source} has names twice, with and without {min(wrappers)!r}")
    return bare


def of_models(names: Iterable[str]) -> list[str]:
    """What stands before the names of each model, empty of one that has nothing before it."""
    return sorted({match["prefix"] for name in names if (match := _STEM.fullmatch(name))})


def without_prefix(state: Mapping[str, np.ndarray], source: str) -> tuple[State, str]:
    """Takes off the one prefix that explains all names.

    Of a name that begins otherwise, as a classifier's beside a backbone, the levels that it shares
    go.

    Returns:
      The arrays, and the prefix as a user should be told of it; empty where there was none.

    Raises:
      ValueError: there are several models.
    """
    prefixes = of_models(state)
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
