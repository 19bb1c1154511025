"""Ranges of least squares against brute force, and the grid that a kernel keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import quantizers

KEY = jax.random.key(0)


def _error(x, quantizer, bits):
    return float(jnp.square(quantizers.quantize_activation(x, quantizer, bits) - x).mean())


def _skewed(shape=(400, 12)):
    """A long tail to one side, as behind a GELU, and an outlier."""
    x = jax.nn.gelu(3 * jax.random.normal(KEY, shape))
    return x.at[0, 0].set(60.0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("x", [_skewed(), jax.random.normal(KEY, (300, 8)) - 0.5])
def test_least_squares_lose_less_than_the_paper_s_formula(x, bits):
    fitted = quantizers.least_squares_activation_quantizer(x, bits)
    formula = quantizers.init_activation_quantizer(x, bits)
    assert _error(x, fitted, bits) < _error(x, formula, bits)


@pytest.mark.parametrize("bits", [3, 4])
def test_no_range_of_a_fine_grid_is_much_better(bits):
    x = _skewed()
    found = _error(x, quantizers.least_squares_activation_quantizer(x, bits), bits)
    levels = 2.0**bits - 1
    best = np.inf
    for high in np.geomspace(0.5, 60, 120):
        for low in (-0.17, -0.1, -0.05, 0.0):
            step = (high - low) / levels
            zero_point = round(-low / step)
            grid = quantizers.ActivationQuantizer(step, float(zero_point), False)
            best = min(best, _error(x, grid, bits))
    assert found <= 1.05 * best


def test_codes_start_at_zero_and_the_zero_point_is_one_of_them():
    quantizer = quantizers.least_squares_activation_quantizer(_skewed(), 4)
    assert not quantizer.signed
    assert float(quantizer.zero_point) == round(float(quantizer.zero_point))
    assert 0 <= float(quantizer.zero_point) <= 15


def test_a_tensor_of_zeros_has_a_grid():
    quantizer = quantizers.least_squares_activation_quantizer(jnp.zeros((5, 3)), 4)
    np.testing.assert_array_equal(
        quantizers.quantize_activation(jnp.zeros((5, 3)), quantizer, 4), 0
    )


def test_channels_that_matter_more_are_rounded_better():
    x = jnp.concatenate([_skewed((500, 4)), 0.1 * jax.random.normal(KEY, (500, 4))], axis=1)
    importance = jnp.asarray([1e-6] * 4 + [1.0] * 4)
    plain = quantizers.least_squares_activation_quantizer(x, 4)
    weighted = quantizers.least_squares_activation_quantizer(x, 4, importance)
    small = x[:, 4:]
    assert _error(small, weighted, 4) < _error(small, plain, 4)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_steps_of_weights_lose_no_more_than_those_of_the_largest(bits):
    kernel = jax.random.normal(KEY, (200, 6)).at[0].set(8.0)
    steps = quantizers.least_squares_weight_steps(kernel, bits)
    fitted = quantizers.quantize_weight_to_grid(kernel, quantizers.WeightQuantizer(steps), bits)
    largest = quantizers.quantize_weight(kernel, bits)
    errors = [jnp.square(rounded - kernel).sum(axis=0) for rounded in (fitted, largest)]
    assert bool((errors[0] <= errors[1] * 1.0001).all())


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_kernel_on_its_grid_stays_there(bits):
    kernel = jax.random.normal(KEY, (30, 5))
    grid = quantizers.WeightQuantizer(jnp.linspace(0.1, 0.4, 5))
    once = quantizers.quantize_weight_to_grid(kernel, grid, bits)
    np.testing.assert_array_equal(quantizers.quantize_weight_to_grid(once, grid, bits), once)
    codes = np.asarray(once) / np.asarray(grid.step)
    assert codes.min() >= -(2 ** (bits - 1))
    assert codes.max() <= 2 ** (bits - 1) - 1


def test_gradients_of_a_kept_grid_are_straight_through_and_lsq_s():
    kernel = jax.random.normal(KEY, (40, 3))
    step = jnp.asarray([0.2, 0.3, 0.1])
    cotangent = jax.random.normal(jax.random.key(1), kernel.shape)

    def loss(kernel, step):
        rounded = quantizers.quantize_weight_to_grid(kernel, quantizers.WeightQuantizer(step), 3)
        return (cotangent * rounded).sum()

    d_kernel, d_step = jax.grad(loss, (0, 1))(kernel, step)
    np.testing.assert_allclose(d_kernel, cotangent, rtol=1e-6)
    in_steps = kernel / step[None]
    codes = jnp.clip(jnp.round(in_steps), -4, 3)
    inside = (in_steps >= -4) & (in_steps <= 3)
    expected = (cotangent * (codes - jnp.where(inside, in_steps, 0))).sum(axis=0)
    np.testing.assert_allclose(d_step, expected, rtol=1e-4, atol=1e-4)
