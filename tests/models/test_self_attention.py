import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.models import self_attention

KEYS = jax.random.split(jax.random.key(0), 3)
VALUE = jax.random.normal(KEYS[0], (2, 3, 7, 4))
COTANGENT = jax.random.normal(KEYS[1], VALUE.shape)
LOGITS = jax.random.normal(KEYS[2], (2, 3, 7, 7))
MASK = jnp.where(jnp.arange(7) % 3 == 0, -100.0, 0.0)[None, None, None]


def _value_and_slopes(function, logits, value):
    product, pull_back = jax.vjp(function, logits, value)
    return product, *pull_back(COTANGENT.astype(product.dtype))


# Exponentials of logits as large as the third would overflow.
@pytest.mark.parametrize("logits", [LOGITS, 10 * LOGITS, 1000 * LOGITS, LOGITS + MASK])
def test_the_product_with_a_softmax_and_its_slopes(logits):
    own = _value_and_slopes(self_attention.softmax_product, logits, VALUE)
    expected = _value_and_slopes(
        lambda logits, value: jax.nn.softmax(logits) @ value, logits, VALUE
    )
    for array, other in zip(own, expected, strict=True):
        np.testing.assert_allclose(array, other, atol=1e-5)


def test_one_token_is_its_value():
    value = VALUE[:, :, :1]
    np.testing.assert_array_equal(self_attention.softmax_product(LOGITS[..., :1, :1], value), value)


def test_half_precision_adds_up_in_float32():
    value = VALUE.astype(jnp.bfloat16)
    own = _value_and_slopes(self_attention.softmax_product, LOGITS, value)
    exact = _value_and_slopes(self_attention.softmax_product, LOGITS, value.astype(jnp.float32))
    assert [array.dtype for array in own] == [jnp.bfloat16, jnp.float32, jnp.bfloat16]
    for array, other in zip(own, exact, strict=True):
        np.testing.assert_allclose(array.astype(jnp.float32), other, rtol=0.02, atol=0.02)
