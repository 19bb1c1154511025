"""Second-order rounding against a plain loop over channels, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import quantizers
from maskaq_jax.calibration import second_order

DAMPING = 0.02


@pytest.fixture(params=[40, 200], ids=["part of a block", "two blocks"])
def problem(request):
    """Correlated inputs, a kernel and the steps of its grid."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(request.param, request.param)) / np.sqrt(request.param)
    inputs = (rng.normal(size=(600, request.param)) @ mixing).astype(np.float32)
    kernel = rng.normal(size=(request.param, 7)).astype(np.float32)
    steps = np.asarray(quantizers.least_squares_weight_steps(jnp.asarray(kernel), 4))
    return inputs, kernel, steps


def _by_loop(kernel, gram, steps, bits):
    """As the paper has it: the inverse is updated whenever a channel has been rounded."""
    half = 2 ** (bits - 1)
    left = kernel.astype(np.float64)
    damped = gram.astype(np.float64) + DAMPING * np.diag(gram).mean() * np.eye(len(gram))
    rounded = np.zeros_like(left)
    remaining = list(np.argsort(-np.diag(gram), kind="stable"))
    while remaining:
        first = remaining[0]
        inverse = np.linalg.inv(damped[np.ix_(remaining, remaining)])
        rounded[first] = np.clip(np.round(left[first] / steps), -half, half - 1) * steps
        error = (left[first] - rounded[first]) / inverse[0, 0]
        left[remaining] -= inverse[0][:, None] * error
        remaining = remaining[1:]
    return rounded


def _round(inputs, kernel, steps, bits=4):
    gram = jnp.asarray(inputs.T @ inputs / len(inputs))
    rounded = second_order.round_kernel(jnp.asarray(kernel), gram, steps, bits, DAMPING)
    return np.asarray(rounded), np.asarray(gram)


def test_it_is_the_loop_over_channels(problem):
    _, kernel, steps = problem
    rounded, gram = _round(*problem)
    expected = _by_loop(kernel, gram, steps, 4)
    # A tie may fall the other way in float32.
    assert np.mean(np.abs(rounded - expected) > 1e-4) < 0.02


def test_outputs_change_less_than_by_rounding_to_the_nearest(problem):
    inputs, kernel, steps = problem
    rounded, _ = _round(*problem)
    nearest = np.clip(np.round(kernel / steps), -8, 7) * steps
    errors = [np.square(inputs @ (other - kernel)).mean() for other in (rounded, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_all_weights_lie_on_the_grid(problem):
    _, _, steps = problem
    rounded, _ = _round(*problem, bits=3)
    codes = rounded / steps
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    assert codes.min() >= -4.001
    assert codes.max() <= 3.001


def test_independent_inputs_are_rounded_to_the_nearest():
    kernel = jax.random.normal(jax.random.key(0), (30, 4))
    steps = jnp.full(4, 0.3)
    rounded = second_order.round_kernel(kernel, jnp.diag(jnp.arange(1.0, 31.0)), steps, 4)
    np.testing.assert_allclose(rounded, jnp.clip(jnp.round(kernel / 0.3), -8, 7) * 0.3, atol=1e-6)


def test_a_kernel_is_fitted_to_outputs_or_stays_where_it_is():
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(300, 20)).astype(np.float32)
    kernel, wanted = rng.normal(size=(2, 20, 5)).astype(np.float32)
    gram, moments = inputs.T @ inputs, inputs.T @ (inputs @ wanted)
    near = second_order.fit_kernel(jnp.asarray(kernel), gram, moments, ridge=1e-6)
    np.testing.assert_allclose(near, wanted, atol=1e-3)
    far = second_order.fit_kernel(jnp.asarray(kernel), gram, moments, ridge=1e6)
    np.testing.assert_allclose(far, kernel, atol=1e-3)


def test_arrays_of_other_shapes_are_refused():
    kernel, gram = jnp.ones((4, 3)), jnp.eye(4)
    with pytest.raises(ValueError, match=r"kernel must be \[in, out\]"):
        second_order.round_kernel(kernel[0], gram, jnp.ones(3), 4)
    with pytest.raises(ValueError, match="gram and inputs_squared must have the same shape"):
        second_order.round_kernel(kernel, jnp.eye(5), jnp.ones(3), 4)
    with pytest.raises(ValueError, match="bits must be 2 to 8, got 40"):
        second_order.round_kernel(kernel, gram, jnp.ones(3), 40)
    with pytest.raises(ValueError, match="kernel and moments must have the same shape"):
        second_order.fit_kernel(kernel, gram, jnp.ones((4, 2)))
