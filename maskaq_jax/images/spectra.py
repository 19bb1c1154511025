"""Noise whose power falls with the frequency, as it does in photographs."""

import jax.numpy as jnp
from jax import Array


def colour_noise(noise: Array, slope: Array | float) -> Array:
    """[height, width, channels] of white noise, its amplitude at frequency f scaled by f^-slope.

    Args:
      noise: [height, width, channels] float32.
      slope: [], 1 for photographs.

    Returns:
      The same shape, of mean 0 and deviation 1 over all of it.
    """
    height, width, _ = noise.shape
    rows, columns = jnp.fft.fftfreq(height), jnp.fft.rfftfreq(width)
    frequency = jnp.sqrt(jnp.square(rows)[:, None] + jnp.square(columns)[None])
    power = jnp.maximum(frequency, 1 / max(height, width)) ** -slope
    spectrum = jnp.fft.rfft2(noise, axes=(0, 1)) * power[..., None]
    coloured = jnp.fft.irfft2(spectrum, (height, width), axes=(0, 1))
    return (coloured - coloured.mean()) / jnp.maximum(coloured.std(), 1e-8)
