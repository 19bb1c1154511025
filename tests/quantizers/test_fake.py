import functools

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given

from maskaq_jax import quantizers
from maskaq_jax.quantizers import ActivationQuantizer

BITS = [3, 4, 8]
GRID = ActivationQuantizer(jnp.float32(0.1), jnp.float32(0), jnp.bool_(True))
bits = st.integers(2, 8)
values = st.floats(-8, 8, width=32)
matrices = hnp.arrays(np.float32, (6, 4), elements=values)


@pytest.mark.parametrize("k", BITS)
@pytest.mark.parametrize("name", ["weight_dense", "weight_conv"])
@pytest.mark.parametrize("compile_", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_weights_agree_with_the_reference(golden, close, name, k, compile_):
    arrays = golden("quantizers")
    quantize = compile_(lambda w: quantizers.quantize_weight(w, k))
    close(quantize(jnp.asarray(arrays[name])), arrays[f"{name}_q{k}"])


@pytest.mark.parametrize("k", BITS)
@pytest.mark.parametrize("name", ["act", "act_positive"])
@pytest.mark.parametrize("compile_", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_activations_agree_with_the_reference(golden, close, name, k, compile_):
    arrays = golden("quantizers")

    def compute(x, cotangent):
        quantizer = quantizers.init_activation_quantizer(x, k)
        grad_scale = quantizers.step_gradient_scale(quantizer, k, lsq_grad_scale=0.01)

        def weighted_sum(x, step, zero_point):
            grid = quantizer.replace(step=step, zero_point=zero_point)
            return (quantizers.quantize_activation(x, grid, k, grad_scale) * cotangent).sum()

        gradients = jax.grad(weighted_sum, (0, 1, 2))(x, quantizer.step, quantizer.zero_point)
        return {
            "step": quantizer.step,
            "zero_point": quantizer.zero_point,
            "signed": quantizer.signed,
            "grad_scale": grad_scale,
            "out": quantizers.quantize_activation(x, quantizer, k, grad_scale),
            "out2": quantizers.quantize_activation(1.3 * x - 0.2, quantizer, k, grad_scale),
            **dict(zip(("dx", "dstep", "dzero_point"), gradients, strict=True)),
        }

    results = compile_(compute)(jnp.asarray(arrays[name]), jnp.asarray(arrays["act_cotangent"]))
    for what, value in results.items():
        close(value, arrays[f"{name}_q{k}_{what}"])


@given(matrices, bits)
def test_a_channel_has_at_most_two_to_the_k_weights(w, k):
    quantized = np.asarray(quantizers.quantize_weight(jnp.asarray(w), k))
    assert all(len(np.unique(channel)) <= 2**k for channel in quantized.T)


@given(matrices, bits)
def test_unclipped_weights_move_at_most_half_a_step(w, k):
    quantized = np.asarray(quantizers.quantize_weight(jnp.asarray(w), k))
    step = np.maximum(2 * np.abs(w).max(axis=0), 1e-8) / (2**k - 1)
    clipped = w > step * (2 ** (k - 1) - 0.5)
    error = np.where(clipped, 0, np.abs(quantized - w))
    assert (error <= step * 0.5 + 1e-5).all()


@given(matrices, bits, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_weight_quantization_commutes_with_scaling_by_powers_of_two(w, k, factor):
    w = np.where(np.abs(w).max(axis=0) < 1e-3, 1.0, w).astype(np.float32)
    scaled = quantizers.quantize_weight(jnp.asarray(factor * w), k)
    np.testing.assert_array_equal(scaled, factor * quantizers.quantize_weight(jnp.asarray(w), k))


@given(matrices, matrices, bits)
def test_weight_gradient_passes_straight_through(w, cotangent, k):
    _, pull_back = jax.vjp(lambda w: quantizers.quantize_weight(w, k), jnp.asarray(w))
    np.testing.assert_array_equal(pull_back(jnp.asarray(cotangent))[0], cotangent)


def test_channel_axis_selects_the_scales():
    w = jax.random.normal(jax.random.key(0), (3, 5))
    rows = quantizers.quantize_weight(w, 3, channel_axis=0)
    np.testing.assert_array_equal(rows, quantizers.quantize_weight(w.T, 3).T)


@given(matrices, bits)
def test_activation_quantization_is_idempotent(x, k):
    quantizer = _quantizer(x, k)
    once = quantizers.quantize_activation(jnp.asarray(x), quantizer, k)
    twice = quantizers.quantize_activation(once, quantizer, k)
    np.testing.assert_allclose(once, twice, atol=1e-6)
    assert len(np.unique(once)) <= 2**k


@given(matrices, bits)
def test_activations_within_the_range_move_at_most_half_a_step(x, k):
    quantizer = _quantizer(x, k)
    quantized = quantizers.quantize_activation(jnp.asarray(x), quantizer, k)
    inside = _is_inside(x, quantizer, k)
    error = np.where(inside, np.abs(quantized - x), 0)
    assert (error <= float(quantizer.step) * 0.501 + 1e-6).all()


@given(matrices, bits)
def test_activation_gradient_is_one_inside_and_zero_outside(x, k):
    quantizer = _quantizer(x, k)
    gradient = jax.grad(lambda x: quantizers.quantize_activation(x, quantizer, k).sum())(
        jnp.asarray(x)
    )
    np.testing.assert_allclose(gradient, _is_inside(x, quantizer, k), atol=1e-5)


# Of usual size, masked as in a shifted window, or so large that their exponential overflows.
logits = values | st.sampled_from([-100.0, 200.0])
rows = st.sampled_from([(3, 5), (2, 1)]).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=logits)
)


@given(rows, bits, st.floats(0.02, 0.4), st.floats(-3, 3), st.booleans())
def test_the_quantized_softmax_is_the_softmax_quantized(logits, k, step, zero_point, signed):
    grid = ActivationQuantizer(jnp.float32(step), jnp.float32(zero_point), jnp.bool_(signed))

    def composed(logits, grid):
        return quantizers.quantize_activation(jax.nn.softmax(logits), grid, k, 0.3)

    def fused(logits, grid):
        return quantizers.quantize_softmax(logits, grid, k, 0.3)

    # Between two codes or at the end of the range, the last bit of a probability decides.
    halves = 2 * np.asarray(jax.nn.softmax(logits)) / np.float32(step)
    assume(((np.abs(halves - np.round(halves)) > 1e-4) | (halves < 1e-9)).all())
    np.testing.assert_allclose(fused(logits, grid), composed(logits, grid), atol=1e-5)

    def gradients(function):
        def total(logits, step, zero_point):
            moved = grid.replace(step=step, zero_point=zero_point)
            return (function(logits, moved) * jnp.arange(logits.size).reshape(logits.shape)).sum()

        return jax.grad(total, (0, 1, 2))(jnp.asarray(logits), grid.step, grid.zero_point)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3),
        gradients(fused),
        gradients(composed),
    )


def test_gradient_is_one_on_the_bounds_too():
    quantizer = ActivationQuantizer(jnp.float32(0.5), jnp.float32(0), jnp.bool_(True))
    bounds = jnp.array([-2.0, 1.5])
    gradient = jax.grad(lambda x: quantizers.quantize_activation(x, quantizer, 3).sum())(bounds)
    np.testing.assert_array_equal(gradient, [1, 1])


def test_gradient_scale_reaches_the_step_alone():
    x = jax.random.normal(jax.random.key(0), (20,))
    quantizer = quantizers.init_activation_quantizer(x, 3)

    def gradients(scale):
        def total(step, zero_point):
            grid = quantizer.replace(step=step, zero_point=zero_point)
            return jnp.sum(quantizers.quantize_activation(x, grid, 3, scale) ** 2)

        return jax.grad(total, (0, 1))(quantizer.step, quantizer.zero_point)

    (step, zero_point), (step_scaled, zero_point_scaled) = gradients(1.0), gradients(0.1)
    np.testing.assert_allclose(step_scaled, 0.1 * step, rtol=1e-6)
    np.testing.assert_array_equal(zero_point, zero_point_scaled)


def test_parameters_of_one_element_serve_too():
    x = jax.random.normal(jax.random.key(0), (20,))
    quantizer = quantizers.init_activation_quantizer(x, 3)

    def total(step, zero_point):
        grid = quantizer.replace(step=step, zero_point=zero_point)
        return jnp.sum(quantizers.quantize_activation(x, grid, 3) ** 2)

    numbers = quantizer.step, quantizer.zero_point
    arrays = tuple(jnp.reshape(number, (1,)) for number in numbers)
    for array, number in zip(
        jax.grad(total, (0, 1))(*arrays), jax.grad(total, (0, 1))(*numbers), strict=True
    ):
        assert array.shape == (1,)
        assert array[0] == number


def test_only_tensors_above_zero_are_unsigned():
    assert quantizers.init_activation_quantizer(jnp.array([-1.0, 2.0]), 3).signed
    assert quantizers.init_activation_quantizer(jnp.array([0.0, 2.0]), 3).signed
    assert not quantizers.init_activation_quantizer(jnp.array([0.1, 2.0]), 3).signed


def test_constant_zero_stays_finite():
    zeros = jnp.zeros((3, 2))
    assert not quantizers.quantize_weight(zeros, 3).any()
    quantizer = quantizers.init_activation_quantizer(zeros, 3)
    assert np.isfinite(quantizers.quantize_activation(zeros, quantizer, 3)).all()

    # Later, values are infinitely many of its steps.
    def total(x, quantizer):
        return quantizers.quantize_activation(x, quantizer, 3).sum()

    gradients = jax.grad(total, argnums=(0, 1), allow_int=True)(zeros + 5.0, quantizer)
    assert np.isfinite(gradients[0]).all()
    assert np.isfinite(gradients[1].step)
    assert np.isfinite(gradients[1].zero_point)


@pytest.mark.parametrize("k", [1, 9, 32])
def test_bits_out_of_range_are_refused(k):
    x = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="bits must be 2 to 8"):
        quantizers.quantize_weight(x, k)
    with pytest.raises(ValueError, match="bits must be 2 to 8"):
        quantizers.init_activation_quantizer(x, k)
    grid = ActivationQuantizer(1.0, 0.0, False)
    for quantize in (quantizers.quantize_activation, quantizers.quantize_softmax):
        with pytest.raises(ValueError, match="bits must be 2 to 8"):
            quantize(x, grid, k)


def _quantizer(x, k):
    quantizer = quantizers.init_activation_quantizer(jnp.asarray(x), k)
    # The laws are about grids a network can have, not about underflow.
    return quantizer.replace(step=jnp.maximum(quantizer.step, 1e-3))


def _is_inside(x, quantizer, k):
    code = x / np.float32(quantizer.step) + np.round(np.float32(quantizer.zero_point))
    lo, hi = (-(2 ** (k - 1)), 2 ** (k - 1) - 1) if quantizer.signed else (0, 2**k - 1)
    return (code >= lo) & (code <= hi)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_ties_of_weights_fall_as_with_the_reciprocal_taken_first(bits):
    # Every channel's largest weight is a tie, which the last bit of the scale decides.
    w = np.random.default_rng(0).normal(size=(8, 2000)).astype(np.float32)
    scale = np.float32(1) / (2 * np.abs(w).max(axis=0)) * np.float32(2**bits - 1)
    codes = np.clip(np.round(scale * w), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    quantized = jax.jit(quantizers.quantize_weight, static_argnums=1)(jnp.asarray(w), bits)
    np.testing.assert_allclose(quantized, codes / scale, rtol=1e-6)


def test_small_weights_are_quantized_as_large_ones():
    w = jax.random.normal(jax.random.key(0), (5, 4))
    small = quantizers.quantize_weight(w * 2.0**-20, 4)
    np.testing.assert_array_equal(small, quantizers.quantize_weight(w, 4) * 2.0**-20)


def test_weights_that_scales_cannot_reach_become_zero():
    w = jnp.full((3, 2), 1e-30)
    assert not quantizers.quantize_weight(w, 4).any()


def test_half_precision_activations_are_quantized_in_float32():
    x = jax.random.normal(jax.random.key(0), (40, 5)).astype(jnp.bfloat16)
    quantizer = quantizers.init_activation_quantizer(x, 8)
    exact = quantizers.init_activation_quantizer(x.astype(jnp.float32), 8)
    jax.tree.map(np.testing.assert_array_equal, quantizer, exact)

    quantized = quantizers.quantize_activation(x, quantizer, 8)
    exact = quantizers.quantize_activation(x.astype(jnp.float32), quantizer, 8)
    assert quantized.dtype == jnp.bfloat16
    np.testing.assert_array_equal(quantized, exact.astype(jnp.bfloat16))
    np.testing.assert_array_equal(
        quantizers.quantize_softmax(x, quantizer, 8),
        quantizers.quantize_softmax(x.astype(jnp.float32), quantizer, 8),
    )


@pytest.mark.parametrize("name", ["step", "zero_point"])
def test_clipped_values_move_with_the_grids_end(name):
    # Far outside the range, the output is an end of the grid: its slope is known.
    x = jnp.array([50.0, 60.0, -70.0])
    grid = quantizers.ActivationQuantizer(jnp.float32(0.5), jnp.float32(0.0), jnp.bool_(True))

    def total(value):
        return quantizers.quantize_activation(x, grid.replace(**{name: value}), 3).sum()

    # Ends 3, 3 and -4 times the step; moving the zero point by one moves each by minus one step.
    expected = {"step": 3 + 3 - 4, "zero_point": -3 * 0.5}[name]
    np.testing.assert_allclose(jax.grad(total)(getattr(grid, name)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: quantizers.quantize_weight(jnp.ones((2, 3), jnp.int8), 4),
            "w must have floating dtype, got int8",
        ),
        (
            lambda: quantizers.quantize_weight(jnp.ones((2, 3)), 4, channel_axis=2),
            r"channel_axis=2 is no axis of a weight of shape \(2, 3\)",
        ),
        (
            lambda: quantizers.quantize_activation(jnp.ones(3, int), GRID, 4),
            "x must have floating dtype, got int32",
        ),
        (
            lambda: quantizers.quantize_softmax(jnp.ones(3, int), GRID, 4),
            "logits must have floating dtype, got int32",
        ),
        (
            lambda: quantizers.quantize_activation(jnp.ones(3), GRID.replace(step=jnp.ones(3)), 4),
            r"one step and one zero point, got shapes \(3,\) and \(\)",
        ),
        (
            lambda: quantizers.init_activation_quantizer(jnp.ones((0, 3)), 4),
            r"x must have values to choose a range by, got shape \(0, 3\)",
        ),
        (
            lambda: quantizers.init_activation_quantizer(jnp.ones(3, jnp.uint8), 4),
            "x must have floating dtype, got uint8",
        ),
    ],
)
def test_arrays_that_cannot_be_quantized_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
