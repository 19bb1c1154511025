"""Equalization changes nothing in float, and pays where rounding does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.calibration.equalization import Equalization, choose_equalization
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.models.layers import Dense

KEY = jax.random.key(0)


@pytest.fixture
def inputs():
    """Channels of sizes from 1 to 100, off their middle."""
    sizes = jnp.geomspace(1, 100, 24)
    return sizes[None] * (jax.random.normal(KEY, (500, 24)) + 1)


def test_a_norm_takes_up_shift_and_factor_exactly():
    tokens = 5 * jax.random.normal(KEY, (40, 16)) + 1
    norm, dense = LayerNorm(1e-6), Dense(8)
    scale, offset = jax.random.normal(jax.random.key(1), (2, 16)) + 1
    kernel = jax.random.normal(jax.random.key(2), (16, 8))
    change = Equalization(jnp.linspace(-1, 1, 16), jnp.geomspace(0.1, 10, 16))

    def outputs(scale, offset, kernel, bias):
        normed = norm.apply({"params": {"scale": scale, "bias": offset}}, tokens)
        return dense.apply({"params": {"kernel": kernel, "bias": bias}}, normed)

    changed = outputs(
        *change.in_norm(scale, offset), change.factor[:, None] * kernel, change.shift @ kernel
    )
    before = outputs(scale, offset, kernel, jnp.zeros(8))
    np.testing.assert_allclose(changed, before, atol=1e-4 * np.abs(before).max())


def test_factors_leave_the_scale_of_a_tensor(inputs):
    change = choose_equalization(inputs, jnp.ones((24, 3)), 8, 4)
    assert float(jnp.log(change.factor).mean()) == pytest.approx(0, abs=1e-4)


def test_channels_of_unlike_sizes_are_equalized(inputs):
    # Small channels matter as much as large ones.
    kernel = jax.random.normal(jax.random.key(3), (24, 12)) / jnp.geomspace(1, 100, 24)[:, None]
    change = choose_equalization(inputs, kernel, 32, 4)
    spread = change.apply(inputs).std(axis=0)
    assert spread.max() / spread.min() < 0.2 * inputs.std(axis=0).max() / inputs.std(axis=0).min()


def test_what_no_layer_behind_can_take_up_is_not_shifted(inputs):
    change = choose_equalization(inputs, jnp.ones((24, 3)), 4, 4, shifts=("none",))
    np.testing.assert_array_equal(change.shift, 0)


def test_like_channels_are_left_alone():
    inputs = jax.random.normal(KEY, (4000, 6))
    change = choose_equalization(inputs, jax.random.normal(KEY, (6, 5)), 8, 8)
    np.testing.assert_allclose(change.factor, 1, atol=0.1)
