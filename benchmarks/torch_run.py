"""A whole run organised as the authors' code is, in eager PyTorch, to measure ours against.

    python -m benchmarks.torch_run --config=vit_fashion:preset=paper

Images, steps, epochs and refreshes are those of the config; losses, rates and views are the
paper's, as `benchmarks/torch_steps.py` has them, whatever the config says of them. It calibrates on
noise, which no phase has, and images have channels of their own. Prints the seconds of each phase
and the top-1 accuracies as a line of JSON. Of a ViT or DeiT that is evaluated on Fashion-MNIST.
"""

import argparse
import contextlib
import importlib
import json
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor

from benchmarks import torch_model, torch_steps
from benchmarks.torch_model import Weights
from maskaq_jax import calibration, data, models, torch_import
from maskaq_jax import config as config_lib
from maskaq_jax.config import Config
from maskaq_jax.models.vit import VisionTransformer
from maskaq_jax.runs import plan as plan_lib
from maskaq_jax.storage import paths


class Run:
    """A run in progress: both models, the images, and the seconds that phases took.

    Attributes:
      seconds: by phase.
    """

    def __init__(self, settings: Config):
        """Loads the weights, and calibrates on noise."""
        self._settings, self.seconds = settings, dict[str, float]()
        model = config_lib.create_model(settings)
        if not isinstance(model, VisionTransformer):
            raise TypeError(f"PyTorch's run is of a ViT or DeiT, not of a {type(model).__name__}")
        self._model = model
        self._version = torch_steps.ORIGINAL
        full_precision = models.full_precision(model)
        weights = paths.weights_path(settings.model.weights)
        params = torch_import.load_torch_weights(weights, full_precision)
        count = settings.samples.calibration_size
        noise = jax.random.normal(jax.random.key(settings.seed), (count, *model.input_shape))
        quant = calibration.calibrate(model, params, noise)
        self._params = torch_model.load(params, {}, None, is_frozen=False)
        bits = settings.quantization.weight_bits
        self._variables = torch_model.load(params, quant, bits, is_frozen=False)
        torch.manual_seed(settings.seed)
        self._random = np.random.default_rng(settings.seed)
        self._batches: Iterator[Tensor] = iter(())

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0) + time.perf_counter() - started

    def train(self) -> None:
        """Makes images, trains on them, and makes them again as the plan has it."""
        plan = plan_lib.make_plan(self._settings)
        take_step = torch_steps.make_finetuning_step(
            *(self._model, self._version, self._params, self._variables), self._next_batch
        )
        for steps in plan.rounds(0):
            images = self.synthesize(plan)[: self._settings.samples.num_trained]
            with self._timed("finetuning"):
                self._batches = self._endless_batches(images)
                for _ in steps:
                    take_step()

    def _next_batch(self) -> Tensor:
        return next(self._batches)

    def synthesize(self, plan: plan_lib.Plan) -> Tensor:
        """[samples, channels, height, width] images, made from noise."""
        made = []
        low, high = (np.asarray(bound) for bound in self._settings.pixels.bounds())
        with self._timed("synthesis"):
            for _ in range(plan.num_batches):
                shape = (plan.batch_size, *self._model.input_shape)
                take_step, pixels = torch_steps.make_synthesis_step(
                    *(self._model, self._version, self._params, self._variables),
                    images=self._random.standard_normal(shape).astype(np.float32),
                    labels=self._random.integers(0, self._model.num_classes, plan.batch_size),
                    bounds=(low, high),
                    num_steps=self._settings.synthesis.num_steps,
                )
                for _ in range(self._settings.synthesis.num_steps):
                    take_step()
                made.append(pixels.detach())
        return torch.cat(made)[: self._settings.samples.num_samples]

    def _endless_batches(self, images: Tensor) -> Iterator[Tensor]:
        """Epoch by epoch in another order, whose start fills up the last batch."""
        size = self._settings.finetuning.batch_size
        while True:
            order = torch.randperm(len(images))
            for start in range(0, len(images), size):
                yield images[order.roll(-start)[:size]]

    def accuracies(self) -> dict[str, float]:
        """Top-1 of P and of Q as it is, in percent."""
        images, labels = data.load_embedded(
            self._settings.evaluation.split, self._model.input_shape[-1]
        )
        with self._timed("evaluation"):
            return {
                "fp_top1": self._accuracy(self._params, images, labels),
                "top1": self._accuracy(self._variables, images, labels),
            }

    def _accuracy(self, variables: Weights, images: np.ndarray, labels: np.ndarray) -> float:
        hits, size = 0, self._settings.evaluation.batch_size
        for start in range(0, len(images), size):
            batch = self._settings.pixels.from_bytes(images[start : start + size])
            pixels = torch_steps.load_images(batch, variables.device)
            classes = torch_steps.classify(self._model, variables, pixels).numpy()
            hits += int((classes == labels[start : start + size]).sum())
        return round(100 * hits / len(images), 2)


def main() -> None:
    """Runs, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="of configs/, and its argument")
    options = parser.parse_args()
    name, _, argument = options.config.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(argument or None)
    settings = config_lib.validated(config)
    if settings.evaluation.dataset != data.EMBEDDED:
        parser.error(f"{name} is not evaluated on {data.EMBEDDED}")
    if settings.method != "maskaq":
        parser.error(f"this is the method 'maskaq', not {settings.method!r}")
    run = Run(settings)
    run.train()
    result: dict[str, Any] = run.accuracies()
    print(json.dumps(result | {"seconds": run.seconds}))


if __name__ == "__main__":
    main()
