import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import quantizers
from maskaq_jax.calibration import attention


def _rounded_logit_error(query, key, factor, bits=4):
    rounded = []
    for x in (query / factor[None], key * factor[None]):
        quantizer = quantizers.least_squares_activation_quantizer(x, bits)
        rounded.append(quantizers.quantize_activation(x, quantizer, bits))
    error = rounded[0] @ rounded[1].T - query @ key.T
    return float(jnp.square(error - error.mean(axis=1, keepdims=True)).mean())


def test_a_query_s_large_channels_go_into_the_key():
    sizes = jnp.asarray([10.0, 1.0, 0.5, 0.2])
    query = jax.random.normal(jax.random.key(0), (200, 4)) * sizes[None]
    key = jax.random.normal(jax.random.key(1), (200, 4)) / sizes[None]
    factor = attention.choose_query_factor(query, key, num_heads=1, bits=4)
    none = _rounded_logit_error(query, key, jnp.ones(4))
    assert _rounded_logit_error(query, key, factor) < 0.2 * none
    assert factor[0] > factor[3]


def test_channels_alike_need_no_factor_that_differs():
    query, key = jax.random.normal(jax.random.key(2), (2, 200, 8))
    factor = attention.choose_query_factor(query, key, num_heads=2, bits=4)
    assert np.ptp(np.log(factor)) < 0.7


def test_heads_that_do_not_divide_the_channels_are_refused():
    rows = jnp.ones((3, 8))
    with pytest.raises(ValueError, match="3 heads don't divide 8 channels"):
        attention.choose_query_factor(rows, rows, num_heads=3, bits=4)
