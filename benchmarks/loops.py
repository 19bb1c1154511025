"""Whether blocks are faster one after the other in the program, or as a loop over stacked weights.

    python -m benchmarks.loops --model=deit_t

Forward and back through all blocks of the quantized model, to the tokens that enter them, as
synthesis needs, and to their weights and quantizers too, as fine-tuning does. The loss reads what
the real ones do: every block's attention logits and outputs, and its tokens. Prints a Markdown
table.
"""

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.problems import make_problem
from benchmarks.processes import Step, interleave, parse_repeats, timed
from maskaq_jax.devices import memory
from maskaq_jax.models import vit

# Sums a loss over all blocks, of their variables and the tokens that enter the first.
Loss = Callable[[Any, Array], Array]


def main() -> None:
    """Measures both, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t", help="a ViT or DeiT of configs/")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--bits", type=int, default=3, help="of weights and activations")
    parser.add_argument("--repeats", type=parse_repeats, default=10, help="timed steps, of each")
    options = parser.parse_args()
    memory.keep_freed_memory()  # as a run does
    problem = make_problem(options.model, options.batch, options.bits)
    model = problem.model
    if not isinstance(model, vit.VisionTransformer):
        parser.error(f"{options.model} has blocks of several kinds, which can't be stacked")
    tokens = make_tokens(model, options.batch)
    losses = {
        "unrolled": (make_unrolled(model), list_blocks(problem.variables, model.depth)),
        "looped": (make_looped(model), stack_blocks(problem.variables, model.depth)),
    }
    print("| gradients to | blocks | seconds | compiled in | temporary memory |")
    print("|---|---|---|---|---|")
    for gradients, argnums in {"tokens": (1,), "tokens and variables": (0, 1)}.items():
        compiled = {
            kind: compile_gradient(loss, argnums, variables, tokens)
            for kind, (loss, variables) in losses.items()
        }
        steps = {kind: timed(one.step) for kind, one in compiled.items()}
        seconds = interleave(steps, options.repeats)
        for kind, one in compiled.items():
            print(
                f"| {gradients} | {kind} | {statistics.median(seconds[kind]):.3f} ± "
                f"{statistics.stdev(seconds[kind]):.3f} s | {one.compile_seconds:.1f} s | "
                f"{one.temporary_bytes / 1e9:.2f} GB |",
                flush=True,
            )


def make_tokens(model: vit.VisionTransformer, batch_size: int) -> Array:
    """[B, N, C] random tokens for the first block."""
    num_tokens = model.patches.num_before + math.prod(model.patch_grid)
    shape = (batch_size, num_tokens, model.embed_dim)
    return jax.random.normal(jax.random.key(0), shape, model.dtype)


def list_blocks(variables: Any, depth: int) -> list[Any]:
    """The variables of each block."""
    return [{name: tree[f"blocks_{i}"] for name, tree in variables.items()} for i in range(depth)]


def stack_blocks(variables: Any, depth: int) -> Any:
    """The same, on a leading axis of all blocks."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *list_blocks(variables, depth))


def make_block(model: vit.VisionTransformer) -> Callable[[Array, Any], tuple[Array, Array]]:
    """A block's tokens and loss, of the tokens before and its variables."""
    block = vit.Block(
        num_heads=model.num_heads,
        mlp_ratio=model.mlp_ratio,
        init_values=model.init_values,
        quantization=model.quantization,
        dtype=model.dtype,
    )

    @jax.jit  # traced once, as `layers.traced_once` does
    def apply(tokens: Array, variables: Any) -> tuple[Array, Array]:
        tokens, logits, outputs = cast(tuple[Array, Array, Array], block.apply(variables, tokens))
        return tokens, sum((jnp.mean(x**2) for x in (tokens, logits, outputs)), jnp.float32(0))

    return apply


def make_unrolled(model: vit.VisionTransformer) -> Loss:
    """One block after the other; of `list_blocks`."""
    block = make_block(model)

    def loss(variables: list[Any], tokens: Array) -> Array:
        total = jnp.float32(0)
        for of_block in variables:
            tokens, term = block(tokens, of_block)
            total += term
        return total

    return loss


def make_looped(model: vit.VisionTransformer) -> Loss:
    """A loop; of `stack_blocks`."""
    block = make_block(model)

    def loss(variables: Any, tokens: Array) -> Array:
        _, terms = jax.lax.scan(block, tokens, variables)
        return terms.sum()

    return loss


@dataclasses.dataclass(frozen=True)
class Gradient:
    """A compiled gradient: a step of it, and what its program costs to compile and to hold."""

    step: Step
    compile_seconds: float
    temporary_bytes: int


def compile_gradient(
    loss: Loss, argnums: tuple[int, ...], variables: Any, tokens: Array
) -> Gradient:
    """Of a loss, to the arguments of these numbers."""
    # Quantizers hold whether they are signed, which has no gradient.
    gradient = jax.jit(jax.grad(loss, argnums, allow_int=True))
    started = time.perf_counter()
    compiled = gradient.lower(variables, tokens).compile()
    seconds = time.perf_counter() - started

    def take_step() -> None:
        jax.block_until_ready(compiled(variables, tokens))

    temporary_bytes = cast(Any, compiled.memory_analysis()).temp_size_in_bytes
    return Gradient(take_step, seconds, temporary_bytes)


if __name__ == "__main__":
    main()
