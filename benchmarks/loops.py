"""Whether blocks are faster one after the other in the program, or as a loop over stacked weights.

    python -m benchmarks.loops --model=deit_t

Forward and back through all blocks of the quantized model, to the tokens that enter them, as
synthesis needs, and to their weights and quantizers too, as fine-tuning does. The loss reads what
the real ones do: every block's attention logits and outputs, and its tokens. Prints a Markdown
table.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.processes import Step, timed
from benchmarks.steps import Problem, interleave, make_problem
from maskaq_jax import memory
from maskaq_jax.models import vit

# Sums a loss over all blocks, of the variables of each and the tokens that enter the first.
Loss = Callable[[list[Any], Array], Array]


def main() -> None:
    """Measures both, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t", help="a ViT or DeiT of configs/")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--bits", type=int, default=3, help="of weights and activations")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each kind")
    options = parser.parse_args()
    memory.keep_freed_memory()  # as a run does
    problem = make_problem(options.model, options.batch, options.bits)
    model = cast(vit.VisionTransformer, problem.model)
    print("| gradients to | blocks | seconds | compiled in | temporary memory |")
    print("|---|---|---|---|---|")
    for gradients, arguments in {"tokens": 1, "tokens and variables": (0, 1)}.items():
        steps, costs = {}, {}
        for kind, make_loss in {"unrolled": make_unrolled, "looped": make_looped}.items():
            steps[kind], costs[kind] = make_step(make_loss(model), arguments, problem)
        measured = interleave({kind: timed(step) for kind, step in steps.items()}, options.repeats)
        for kind, answers in measured.items():
            seconds = [taken for taken, _ in answers]
            print(
                f"| {gradients} | {kind} | {statistics.median(seconds):.3f} ± "
                f"{statistics.stdev(seconds):.3f} s | {costs[kind]} |",
                flush=True,
            )


def make_block(model: vit.VisionTransformer) -> Callable[[Any, Array], tuple[Array, Array]]:
    """A block's tokens and loss, of its variables and the tokens before."""
    block = vit.Block(
        model.num_heads, model.mlp_ratio, model.init_values, model.quantization, model.dtype
    )

    @jax.jit  # traced once, as `layers.traced_once` does
    def apply(variables: Any, tokens: Array) -> tuple[Array, Array]:
        tokens, logits, outputs = cast(tuple[Array, Array, Array], block.apply(variables, tokens))
        return tokens, sum((jnp.mean(x**2) for x in (tokens, logits, outputs)), jnp.float32(0))

    return apply


def make_unrolled(model: vit.VisionTransformer) -> Loss:
    """One block after the other."""
    block = make_block(model)

    def loss(variables: list[Any], tokens: Array) -> Array:
        total = jnp.float32(0)
        for of_block in variables:
            tokens, term = block(of_block, tokens)
            total += term
        return total

    return loss


def make_looped(model: vit.VisionTransformer) -> Loss:
    """A loop over the stacked variables."""
    block = make_block(model)

    def loss(variables: list[Any], tokens: Array) -> Array:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
        _, terms = jax.lax.scan(lambda x, of_block: block(of_block, x), tokens, stacked)
        return terms.sum()

    return loss


def make_step(loss: Loss, arguments: Any, problem: Problem) -> tuple[Step, str]:
    """A step of its gradients, and what its program costs to compile and to hold."""
    model = cast(vit.VisionTransformer, problem.model)
    variables = [
        {name: tree[f"blocks_{i}"] for name, tree in problem.variables.items()}
        for i in range(model.depth)
    ]
    num_tokens = model.num_prefix_tokens + math.prod(model.patch_grid)
    shape = (problem.batch_size, num_tokens, model.embed_dim)
    tokens = jax.random.normal(jax.random.key(0), shape)
    started = time.perf_counter()
    gradient = jax.grad(loss, arguments, allow_int=True)
    compiled = jax.jit(gradient).lower(variables, tokens).compile()
    seconds = time.perf_counter() - started
    temporary = cast(Any, compiled.memory_analysis()).temp_size_in_bytes

    def take_step() -> None:
        jax.block_until_ready(compiled(variables, tokens))

    return take_step, f"{seconds:.1f} s | {temporary / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
