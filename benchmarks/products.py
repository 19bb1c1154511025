"""How fast matrix products run, and how many operations of a step are theirs."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from benchmarks.problems import check_phase, is_on_cpu
from benchmarks.processes import interleave, timed
from maskaq_jax.models import Model, full_precision


def measure_product_rate(dtype: DTypeLike = jnp.float32) -> float:
    """FLOPs a second that large matrix products reach while nothing else runs."""
    # Sides and numbers of products large enough for a device to be at its rate.
    side, count = (1536, 1) if is_on_cpu() else (8192, 20)
    # Neither overflows nor vanishes in repeated products.
    matrix = (jax.random.normal(jax.random.key(0), (side, side)) / np.sqrt(side)).astype(dtype)

    @jax.jit
    def multiply(matrix: Array) -> Array:
        return jax.lax.fori_loop(0, count, lambda _, product: product @ matrix, matrix)

    step = timed(lambda: jax.block_until_ready(multiply(matrix)), count)
    return 2 * side**3 / min(interleave({"product": step}, 20)["product"])


def count_product_flops(model: Model, phase: str) -> float:
    """FLOPs of an image's matrix products that the mathematics of a step needs.

    Counted on the traced forward pass in full precision.

    Args:
      model: Q.
      phase: of `problems.PHASES`.

    Raises:
      ValueError: there is no such phase.
    """
    check_phase(phase)
    model_p = full_precision(model)
    images = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    shapes = jax.eval_shape(model_p.init, jax.random.key(0), images)
    products = list(_products(jax.make_jaxpr(model_p.apply)(shapes, images).jaxpr))
    dense, attention = _sums(products)
    if phase == "synthesis":  # both models, forward and to the images
        # Q is read up to its last attention logits, the last but one product of activations.
        last = [number for number, (_, is_batched) in enumerate(products) if is_batched][-2]
        dense_q, attention_q = _sums(products[: last + 1])
        return 2 * (dense + dense_q) + 3 * (attention + attention_q)
    if phase == "finetuning":  # P forward; Q forward, and to its inputs and weights
        return 4 * dense + 4 * attention
    return dense + attention


def _sums(products: list[tuple[float, bool]]) -> tuple[float, float]:
    """FLOPs of the products with weights, and of those of activations alone."""
    dense = sum(flops for flops, is_batched in products if not is_batched)
    return dense, sum(flops for flops, is_batched in products if is_batched)


def _products(jaxpr: Any) -> Iterator[tuple[float, bool]]:
    """FLOPs of each product, and whether it is one of activations alone."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            length = np.prod([left[axis] for axis in contracted])
            yield 2.0 * length * np.prod(equation.outvars[0].aval.shape), bool(batched)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _products(inner)
