"""Which patches a loss counts: those of a mask, of windows, beside other tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import losses, regions
from tests.losses.examples import KEYS, LOGITS_P, LOGITS_Q, MASK, OUTPUTS_P, OUTPUTS_Q


def test_coupling_ignores_patches_outside_the_mask():
    outside = jnp.concatenate([jnp.zeros((8, 1)), 1 - MASK], axis=1)[None, :, None, None, :]
    moved = LOGITS_Q + 5 * outside
    np.testing.assert_allclose(
        losses.masked_attention_loss(LOGITS_P, moved, MASK),
        losses.masked_attention_loss(LOGITS_P, LOGITS_Q, MASK),
        rtol=1e-5,
    )


def test_coupling_of_an_empty_mask_is_zero():
    assert losses.masked_attention_loss(LOGITS_P, LOGITS_Q, jnp.zeros_like(MASK)) == 0


def test_coupling_of_windows_is_the_mean_gap_of_the_marked_tokens():
    rng = np.random.default_rng(0)
    shapes = [(6, 2, 4, 4), (2, 3, 5, 5)]  # two images: three windows of four tokens, one of five
    logits_p, logits_q = ([rng.normal(size=shape) for shape in shapes] for _ in range(2))
    masks = [np.zeros((2, 12)), np.zeros((2, 5))]
    masks[0][0, 5] = masks[0][1, 11] = masks[1][1, 2] = 1  # window 1 token 1; window 5 token 3
    gap = [np.abs(p.mean((1, 2)) - q.mean((1, 2))) for p, q in zip(logits_p, logits_q, strict=True)]
    expected = ((gap[0][1, 1] + gap[0][5, 3]) / 2 + gap[1][1, 2]) / 2
    arrays = ([jnp.asarray(array, jnp.float32) for array in each] for each in (logits_p, logits_q))
    value = losses.masked_attention_loss(*arrays, [jnp.asarray(mask) for mask in masks], 0)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


# Of ten tokens one stands before the patches, and three behind them.
BEHIND = regions.PatchTokens(num_before=1, num_behind=3, scored_by="tokens behind")


@pytest.mark.parametrize(
    ("loss", "x"),
    [
        (losses.inter_head_similarity_loss, LOGITS_P),
        (losses.patch_similarity_entropy_loss, LOGITS_P),
        (losses.patch_similarity_density_loss, OUTPUTS_P),
        (functools.partial(losses.masked_attention_distillation_loss, OUTPUTS_P), OUTPUTS_Q),
    ],
    ids=["similarity", "entropy", "density", "distillation"],
)
def test_tokens_behind_the_patches_do_not_count(loss, x):
    own = slice(None, -3)
    if x is OUTPUTS_Q:
        expected = losses.masked_attention_distillation_loss(OUTPUTS_P[..., own, :], x[..., own, :])
    elif x is OUTPUTS_P:
        expected = loss(x[..., own, :])
    else:
        expected = loss(x[..., own, own])
    np.testing.assert_allclose(loss(x, BEHIND), expected, rtol=1e-6)


def test_tokens_behind_the_patches_couple_them():
    mask = MASK[:, :6]
    gap = np.abs((LOGITS_P - LOGITS_Q)[:, :, :, 7:, 1:7].mean(axis=(2, 3)))
    expected = (gap * mask[None]).sum(axis=(1, 2)).mean() / mask.sum()
    value = losses.masked_attention_loss(LOGITS_P, LOGITS_Q, mask, BEHIND)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_patches_without_a_class_token_are_coupled_by_what_they_receive():
    """In one mask for all layers, which a model with windows can't have."""
    patches = regions.PatchTokens(num_before=0, scored_by="all patches")
    mask = (jax.random.uniform(KEYS[6], (8, 10)) < 0.4).astype(jnp.float32)
    gap = np.abs((LOGITS_P - LOGITS_Q).mean(axis=(2, 3)))
    expected = (gap * mask[None]).sum(axis=(1, 2)).mean() / mask.sum()
    for shorthand in (patches, 0):
        value = losses.masked_attention_loss(LOGITS_P, LOGITS_Q, mask, shorthand)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
