import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.models import layers


@pytest.mark.parametrize(("dtype", "precision"), [(jnp.float32, 1e-3), (jnp.bfloat16, 2e-2)])
def test_gelu_keeps_its_negative_tail(dtype, precision):
    x = jnp.linspace(-3.5, 3.5, 29, dtype=jnp.bfloat16).astype(jnp.float32)
    dense = {"kernel": jnp.eye(29), "bias": jnp.zeros(29)}
    variables = {"params": {"fc1": dense, "fc2": dense}}
    hidden = layers.Mlp(29, None, dtype).apply(variables, x)
    np.testing.assert_allclose(
        hidden.astype(jnp.float32), jax.nn.gelu(x, approximate=False), rtol=precision
    )
