"""What models that look at eight images would give: arrays for losses."""

import jax
import jax.numpy as jnp

KEYS = jax.random.split(jax.random.key(0), 8)
LOGITS_P = jax.random.normal(KEYS[0], (2, 8, 3, 10, 10))
LOGITS_Q = LOGITS_P + 0.3 * jax.random.normal(KEYS[1], LOGITS_P.shape)
OUTPUTS_P = jax.random.normal(KEYS[2], (2, 8, 3, 10, 4))
OUTPUTS_Q = OUTPUTS_P + 0.3 * jax.random.normal(KEYS[3], OUTPUTS_P.shape)
TOKENS_P, TOKENS_Q = (x.swapaxes(2, 3).reshape(2, 8, 10, 12) for x in (OUTPUTS_P, OUTPUTS_Q))
MASK = (jax.random.uniform(KEYS[6], (8, 9)) < 0.4).astype(jnp.float32)
