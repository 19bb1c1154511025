"""How far logits are from classes or from other logits; and Q's attention outputs from P's in each
channel, as weighted means over patches.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.losses import _reductions

# SSIM's stabilisers for signals in [0, 1] (Wang et al. 2004).
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2

Distance = Literal["ssim", "mse", "l1", "kl"]

# A distance maps P's and Q's outputs [B, H, n, d] and the weighted mean over patches to the
# distance of every channel, [B, H, 1, d].
Expectation = Callable[[Array], Array]


def cross_entropy(logits: Array, classes: Array) -> Array:
    """`-log softmax(logits)[class]`: [..., classes] and [...] int -> [...] float32."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_probabilities, classes[..., None], axis=-1)[..., 0]


def class_divergence(student: Array, teacher: Array, temperature: float) -> Array:
    """`KL(softmax(teacher / T) || softmax(student / T))` of logits: [..., classes] -> [...].

    No gradient flows to the teacher.
    """
    student = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    teacher = jax.nn.log_softmax(jax.lax.stop_gradient(teacher).astype(jnp.float32) / temperature)
    return jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)


def _ssim_distance(target: Array, output: Array, expectation: Expectation) -> Array:
    target = target - expectation(target)
    output = output - expectation(output)
    covariance = expectation(target * output)
    variances = expectation(target**2) + expectation(output**2)
    return 1 - (2 * covariance + SSIM_C2) / (variances + SSIM_C2 + 1e-6)


def _mse_distance(target: Array, output: Array, expectation: Expectation) -> Array:
    return expectation(jnp.square(target - output))


def _l1_distance(target: Array, output: Array, expectation: Expectation) -> Array:
    return expectation(_reductions.absolute(target - output))


def _kl_distance(target: Array, output: Array, expectation: Expectation) -> Array:
    """Of the distributions over patches that a softmax makes of each channel."""
    target, output = jax.nn.log_softmax(target, axis=2), jax.nn.log_softmax(output, axis=2)
    return expectation(jnp.exp(target) * (target - output))


DISTANCES: dict[str, Callable[[Array, Array, Expectation], Array]] = {
    "ssim": _ssim_distance,
    "mse": _mse_distance,
    "l1": _l1_distance,
    "kl": _kl_distance,
}
