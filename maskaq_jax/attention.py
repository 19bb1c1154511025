"""What regions and losses read off attention logits.

Logits of a layer are [B, H, N, N] before softmax, A in `docs/method.md`; the first
`num_prefix_tokens` tokens are the class and distillation tokens, the others are patches.
"""

from collections.abc import Sequence

from jax import Array

# One array [L, ...], or one a layer.
Layers = Array | Sequence[Array]


def patch_logits(logits: Array, num_prefix_tokens: int) -> Array:
    """Drops the rows and columns of prefix tokens: [B, H, N, N] -> [B, H, n, n]."""
    return logits[..., num_prefix_tokens:, num_prefix_tokens:]


def patch_scores(logits: Array, num_prefix_tokens: int) -> Array:
    """How informative the model finds each patch of one layer, as the mean over heads.

    With a class token, the logit that token gives the patch; without one, the mean logit the patch
    receives from all queries (`docs/method.md` sections 2 and 5).

    Args:
      logits: [B, H, N, N].
      num_prefix_tokens: tokens before the patches; the class token is the first of them.

    Returns:
      [B, n], of the logits' dtype.
    """
    if num_prefix_tokens:
        return logits[:, :, 0, num_prefix_tokens:].mean(axis=1)
    return logits.mean(axis=(1, 2))
