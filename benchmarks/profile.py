"""Where a step's time goes, by part of the model.

    python -m benchmarks.profile --model=deit_t --phase=synthesis --batch=8

Traces a few dispatches with JAX's profiler and adds up what every compiled instruction took, by the
part of the model that its metadata names; times of threads that work side by side are added. Prints
a Markdown table.
"""

import argparse
import collections
import re
import tempfile
from pathlib import Path

import jax

from benchmarks.problems import PHASES, make_problem, make_step
from benchmarks.processes import TimedStep
from maskaq_jax.devices import memory

_NUM_CALLS = 3
# Name of a part: what the scope of its instructions holds; the first that fits counts.
PARTS = {
    "attention: dense layers": r"attn/(qkv|proj)/",
    "attention: products, softmax, quantizers": r"/attn/",
    "MLP: dense layers": r"mlp/fc\d/",
    "MLP: GELU": r"/mlp/",
    "norms and residuals": r"/(blocks|norm)",
    "patch embedding": r"patch_embed",
    "losses, views and the update": r"",
}


def main() -> None:
    """Profiles and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t", help="of configs/")
    parser.add_argument("--phase", default="synthesis", choices=PHASES)
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--bits", type=int, default=3, help="of weights and activations")
    options = parser.parse_args()
    memory.keep_freed_memory()  # as a run does
    problem = make_problem(options.model, options.batch, options.bits)
    step, compiled = make_step(problem, options.phase)
    num_steps = _NUM_CALLS * compiled.num_steps
    milliseconds = trace(step, read_scopes(compiled.program.as_text()))
    total = sum(milliseconds.values())
    print("| part | matrix products | all else |\n|---|---|---|")
    for part in PARTS:
        shares = [100 * milliseconds[part, is_product] / total for is_product in (True, False)]
        print(f"| {part} | {shares[0]:.0f}% | {shares[1]:.0f}% |")
    print(f"\n{total / num_steps:.0f} ms a step, threads added up")


def trace(step: TimedStep, scopes: dict[str, str]) -> collections.Counter[tuple[str, bool]]:
    """Milliseconds that each part takes in all, its products apart from all else."""
    step()
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(_NUM_CALLS):
                step()
        (path,) = Path(directory).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    milliseconds: collections.Counter[tuple[str, bool]] = collections.Counter()
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in scopes:
                    scope = scopes[event.name]
                    part = next(part for part, sign in PARTS.items() if re.search(sign, scope))
                    is_product = "dot_general" in scope
                    milliseconds[part, is_product] += event.duration_ns / 1e6
    return milliseconds


def read_scopes(hlo: str) -> dict[str, str]:
    """The scope of every instruction of a compiled program, by its name."""
    pattern = r'^\s*(?:ROOT )?%?([\w.\-]+) = .*? (?!while)[\w\-]+\(.*op_name="([^"]*)"'
    return dict(re.findall(pattern, hlo, re.MULTILINE))


if __name__ == "__main__":
    main()
