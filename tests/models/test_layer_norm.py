import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.models.layer_norm import LayerNorm

KEYS = jax.random.split(jax.random.key(0), 4)
# Tokens far from 0, so that one-pass variances would be wrong, and one of equal values.
X = (3 * jax.random.normal(KEYS[0], (2, 3, 5, 12)) + 100).at[0, 1, 2].set(100)
PARAMS = {
    "params": {
        "scale": 1 + 0.3 * jax.random.normal(KEYS[1], (12,)),
        "bias": jax.random.normal(KEYS[2], (12,)),
    }
}
COTANGENT = jax.random.normal(KEYS[3], X.shape)


# In half precision flax rounds both gradients of x before it adds them.
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
def test_norm_and_slopes_are_those_of_flax(dtype, tolerance):
    theirs = nn.LayerNorm(epsilon=1e-3, use_fast_variance=False, dtype=dtype)
    own = LayerNorm(1e-3, dtype)
    x = X.astype(dtype)
    fresh = own.init(KEYS[0], x)
    jax.tree.map(np.testing.assert_array_equal, fresh, theirs.init(KEYS[0], x))

    expected, pull_back = jax.vjp(theirs.apply, PARAMS, x)
    normalised, own_pull_back = jax.vjp(own.apply, PARAMS, x)
    assert normalised.dtype == dtype
    np.testing.assert_array_equal(normalised, expected)
    cotangent = COTANGENT.astype(dtype)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance
        ),
        own_pull_back(cotangent),
        pull_back(cotangent),
    )
