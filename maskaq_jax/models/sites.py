"""Where a model rounds: the sites of its parts, in the order in which a pass meets them."""

from collections.abc import Iterable
from typing import NamedTuple

import flax.linen as nn


class Site(NamedTuple):
    """An activation that is rounded.

    Attributes:
      path: names that lead from the part to the module that rounds it.
      name: of its quantizer there; 'input' is that of a dense layer, with a kernel behind it.
      norm: path of the norm whose output it is, and which can take a shift and a factor of each
        channel; empty where there is none.
      adds_to: the tokens that the dense layer's output is added to: 'input', those of the part, or
        'middle', those between its branches; empty where it is added to none.
      scale: path of the factors of the output's channels before it is added.
      has_factor: whether each channel has a factor of its own before it is rounded.
    """

    path: tuple[str, ...]
    name: str = "input"
    norm: tuple[str, ...] = ()
    adds_to: str = ""
    scale: tuple[str, ...] = ()
    has_factor: bool = False

    @property
    def is_dense(self) -> bool:
        """Whether a kernel is behind it."""
        return self.name == "input"

    @property
    def layer(self) -> tuple[str, ...]:
        """Names that lead from the part to what has bits of its own: a dense layer, or one of
        attention's operands.
        """
        return self.path if self.is_dense else (*self.path, self.name)


class Part(NamedTuple):
    """A stretch of a model that can be applied by itself, from tokens to tokens.

    Attributes:
      path: names that lead to its variables.
      module: which takes tokens and returns them, or an `Attended` of them.
      sites: what it rounds.
      is_read: whether what follows all parts reads the tokens behind this one, a map of several.
    """

    path: tuple[str, ...]
    module: nn.Module
    sites: tuple[Site, ...]
    is_read: bool = False


def layer_names(parts: Iterable[Part], heads: Iterable[Site]) -> tuple[str, ...]:
    """Dotted names of all that has bits of its own, in the order of a pass.

    Args:
      parts: of a model.
      heads: what lies behind them: classifiers, or a neck and its heads.
    """
    paths = [EMBEDDING, *((*part.path, *site.layer) for part in parts for site in part.sites)]
    return tuple(".".join(path) for path in (*paths, *(site.layer for site in heads)))


# The convolution over patches, whose input is not rounded.
EMBEDDING = ("patch_embed", "proj")
# Of a pre-norm block, attention first.
PRE_NORM_BLOCK = (
    Site(("attn", "qkv"), norm=("norm1",)),
    Site(("attn",), "query"),
    Site(("attn",), "key"),
    Site(("attn",), "probabilities"),
    Site(("attn",), "value"),
    Site(("attn", "proj"), adds_to="input", scale=("ls1", "gamma")),
    Site(("mlp", "fc1"), norm=("norm2",)),
    Site(("mlp", "fc2"), adds_to="middle", scale=("ls2", "gamma"), has_factor=True),
)
MERGING = (Site(("reduction",), norm=("norm",)),)
# Of attention pooling by a learned query, whose product with its kernel is the same for all images:
# neither is rounded.
ATTENTION_POOL = (
    Site(("attn_pool", "kv")),
    Site(("attn_pool",), "query"),
    Site(("attn_pool",), "key"),
    Site(("attn_pool",), "probabilities"),
    Site(("attn_pool",), "value"),
    Site(("attn_pool", "proj")),
    Site(("attn_pool", "mlp", "fc1"), norm=("attn_pool", "norm")),
    Site(("attn_pool", "mlp", "fc2"), has_factor=True),
)
