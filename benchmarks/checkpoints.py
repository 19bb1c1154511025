"""What it costs to be ready for a stop: saving while a run goes on, and starting again.

    python -m benchmarks.checkpoints

Saves and restores the state of fine-tuning of models of several sizes, without training them; then
stops a run of `configs/smoke.py` and starts it again. Prints Markdown tables.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from maskaq_jax.config import Config
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.optimizer import create_optimizer
from maskaq_jax.finetuning.step import FinetuningSettings
from maskaq_jax.models import Quantization, create_model, shapes
from maskaq_jax.runs import checkpoint, directory

MODELS = ("deit_tiny_patch16_224", "deit_base_patch16_224")


def main() -> None:
    """Measures and prints."""
    interval = Config().checkpoint_seconds
    print(
        "| model | state | the run waits | share of the time | written in the background | restored"
        " |\n|---|---|---|---|---|---|"
    )
    for name in MODELS:
        state = initial_state(name)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        waits, written, restored = measure(state)
        print(
            f"| {name} | {size / 1e9:.2f} GB | {waits:.2f} s | {100 * waits / interval:.1f}% of "
            f"{interval:.0f} s | {written:.1f} s | {restored:.1f} s |",
            flush=True,
        )
    seconds = measure_start_again()
    print(
        "\nA run of `configs/smoke.py` stopped by SIGTERM has restored its state "
        f"{seconds:.1f} s after it was started again, {measure_imports():.1f} s of it imports."
    )


def initial_state(name: str) -> dict[str, Any]:
    """The trees a checkpoint of a model holds, all ones."""
    model = create_model(name, quantization=Quantization(4, 4))
    optimizer = create_optimizer(FinetuningSettings(), 1)
    state = jax.eval_shape(
        lambda variables: finetuning.init_state(optimizer, variables),
        shapes.variable_shapes(model),
    )
    return finetuning.to_trees(jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), state))


def measure(trees: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds that a save holds the run up, that it takes in all, and that restoring takes."""
    with tempfile.TemporaryDirectory() as name:
        with checkpoint.open_manager(Path(name)) as manager:
            checkpoint.save(manager, 1, trees, {})  # the first one prepares the writers
            manager.wait_until_finished()
            started = time.monotonic()
            checkpoint.save(manager, 2, trees, {})
            waits = time.monotonic() - started
            manager.wait_until_finished()
            written = time.monotonic() - started
        with checkpoint.open_manager(Path(name)) as manager:
            started = time.monotonic()
            saved = checkpoint.restore(manager, trees, print)
            restored = time.monotonic() - started
            assert saved is not None
            assert saved.step == 2
    return waits, written, restored


def measure_start_again() -> float:
    """Seconds from the second start of a run to its restored state; it has compiled before."""
    with tempfile.TemporaryDirectory() as name:
        for is_first in (True, False):
            started = time.monotonic()
            run = subprocess.Popen(
                [
                    *(sys.executable, "-m", "maskaq_jax.main", "--config=configs/smoke.py"),
                    *(f"--workdir={name}/run", f"--compilation_cache={name}/compiled"),
                ],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            assert run.stderr is not None
            if is_first:
                first = Path(name) / "run" / directory.CHECKPOINTS / "0"
                while run.poll() is None and not first.exists():
                    time.sleep(0.1)
                is_there = run.poll() is None
            else:
                is_there = any("continuing after step" in line for line in run.stderr)
                seconds = time.monotonic() - started
            if not is_there:
                raise RuntimeError("the run of configs/smoke.py ended early: start it by itself")
            run.send_signal(signal.SIGTERM)
            run.communicate()
    return seconds


def measure_imports() -> float:
    """Seconds to import what a run imports."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "from maskaq_jax import run"], check=True)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
