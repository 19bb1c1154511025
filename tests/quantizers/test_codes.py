import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import quantizers
from maskaq_jax.quantizers import codes

BITS = range(2, 9)


def _weight(seed):
    """Channels of unlike sizes, one of zeros, one too small to count, some whose end is a tie."""
    w = jax.random.normal(jax.random.key(seed), (7, 5, 48)) * jnp.logspace(-3, 2, 48)[None, None]
    return w.at[..., 0].set(0).at[..., 1].multiply(1e-12).at[..., 2].set(-jnp.abs(w[..., 2]))


@pytest.mark.parametrize("bits", BITS)
def test_values_of_weight_codes_are_the_fake_quantizer_s(bits):
    w = _weight(bits)
    own = codes.weight_codes(w, bits)
    assert own.codes.dtype == jnp.int8
    assert -(2 ** (bits - 1)) <= int(own.codes.min())
    assert int(own.codes.max()) < 2 ** (bits - 1)
    expected = quantizers.quantize_weight(w, bits)
    np.testing.assert_array_equal(own.values(), expected)
    np.testing.assert_allclose(own.codes * own.step[None, None], expected, rtol=3e-7)


@pytest.mark.parametrize("bits", BITS)
def test_a_weight_of_codes_is_rounded_to_them_again(bits):
    for seed in range(20):
        own = codes.weight_codes(_weight(seed), bits)
        np.testing.assert_array_equal(quantizers.quantize_weight(own.weight(), bits), own.values())
        again = codes.weight_codes(own.weight(), bits)
        np.testing.assert_array_equal(again.codes, own.codes)
        np.testing.assert_array_equal(again.span, own.span)


@pytest.mark.parametrize("bits", BITS)
def test_values_of_codes_on_a_kept_grid_are_the_fake_quantizer_s(bits):
    w = _weight(bits)[0]
    grid = quantizers.WeightQuantizer(quantizers.least_squares_weight_steps(w, bits))
    own = codes.weight_codes_on_grid(w, grid, bits)
    np.testing.assert_array_equal(own.values(), quantizers.quantize_weight_to_grid(w, grid, bits))
    again = quantizers.quantize_weight_to_grid(own.weight(), grid, bits)
    np.testing.assert_array_equal(again, own.values())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("zero_point", [-300.2, -1.5, -0.4, 0.0, 2.5, 200.0, 400.0])
def test_values_of_activation_codes_are_the_fake_quantizer_s(bits, signed, zero_point):
    quantizer = quantizers.ActivationQuantizer(
        jnp.float32(0.037), jnp.float32(zero_point), jnp.asarray(signed)
    )
    middle = -0.037 * zero_point
    x = jnp.concatenate(
        [jnp.linspace(middle - 12, middle + 12, 4001), (jnp.arange(-40, 40) + 0.5) * 0.037]
    )
    grid = codes.byte_grid(quantizer, bits)
    assert 0 <= grid.lowest < grid.highest <= 255
    assert 0 <= grid.zero_point <= 255
    expected = quantizers.quantize_activation(x, quantizer, bits)
    np.testing.assert_array_equal(grid.values(grid.round(x)), expected)
    own = codes.activation_codes(x, quantizer, bits)
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    assert own.min() >= lo
    assert own.max() <= hi
    values = (own - jnp.round(jnp.float32(zero_point))) * jnp.float32(0.037)
    np.testing.assert_array_equal(values, expected)


def test_a_grid_around_zero_needs_no_offset():
    quantizer = quantizers.ActivationQuantizer(jnp.float32(0.1), jnp.float32(-1.0), False)
    assert codes.byte_grid(quantizer, 4).excess == 0
    assert codes.byte_grid(quantizer, 8).excess == 1


@pytest.mark.parametrize(("step", "zero_point"), [(0.0, 0.0), (-1.0, 0.0), (1.0, jnp.nan)])
def test_a_grid_that_no_integers_stand_for_is_refused(step, zero_point):
    quantizer = quantizers.ActivationQuantizer(step, zero_point, False)
    with pytest.raises(ValueError, match="no integer codes"):
        codes.byte_grid(quantizer, 4)
