import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.models import self_attention

KEYS = jax.random.split(jax.random.key(0), 3)
VALUE = jax.random.normal(KEYS[0], (2, 3, 7, 4))
COTANGENT = jax.random.normal(KEYS[1], VALUE.shape)


# Exponentials of logits as large as the last would overflow.
@pytest.mark.parametrize("size", [1.0, 10.0, 1000.0])
def test_the_product_with_a_softmax_and_its_slopes(size):
    logits = size * jax.random.normal(KEYS[2], (2, 3, 7, 7))

    def composed(logits, value):
        return jax.nn.softmax(logits) @ value

    expected, pull_back = jax.vjp(composed, logits, VALUE)
    product, own_pull_back = jax.vjp(self_attention.softmax_product, logits, VALUE)
    np.testing.assert_allclose(product, expected, atol=1e-6)
    for own, other in zip(own_pull_back(COTANGENT), pull_back(COTANGENT), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)


def test_half_precision_is_that_of_its_operands():
    logits = 3 * jax.random.normal(KEYS[2], (2, 3, 7, 7))
    product = self_attention.softmax_product(logits, VALUE.astype(jnp.bfloat16))
    assert product.dtype == jnp.bfloat16
    exact = self_attention.softmax_product(logits, VALUE)
    np.testing.assert_allclose(product.astype(jnp.float32), exact, atol=0.03)
