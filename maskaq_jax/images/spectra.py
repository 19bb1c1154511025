"""Noise whose power falls with the frequency, as it does in photographs."""

import jax.numpy as jnp
from jax import Array


def with_slope(noise: Array, slope: Array | float) -> Array:
    """White noise, its amplitude at frequency f scaled by f^-slope.

    Args:
      noise: [height, width, channels] float32.
      slope: [], 1 for photographs.

    Returns:
      The same shape, of mean 0 and deviation 1 over all of it.
    """
    height, width, _ = noise.shape
    rows, columns = jnp.fft.fftfreq(height), jnp.fft.rfftfreq(width)
    frequency = jnp.sqrt(jnp.square(rows)[:, None] + jnp.square(columns)[None])
    gain = jnp.maximum(frequency, 1 / max(height, width)) ** -slope
    spectrum = jnp.fft.rfft2(noise, axes=(0, 1)) * gain[..., None]
    shaped = jnp.fft.irfft2(spectrum, (height, width), axes=(0, 1))
    return (shaped - shaped.mean()) / jnp.maximum(shaped.std(), 1e-8)
