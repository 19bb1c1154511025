"""Whole runs of a model small enough that each takes seconds."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import maskaq_jax
from maskaq_jax import data, run, torch_import
from maskaq_jax.config import Config
from maskaq_jax.data import embedded
from maskaq_jax.devices import parallel
from maskaq_jax.runs import inputs as run_inputs
from maskaq_jax.runs import workload
from maskaq_jax.runs.plan import make_plan
from maskaq_jax.runs.progress import Progress
from maskaq_jax.synthesis import store

# Orbax leaves an event loop to the garbage collector.
ignore_orbax_warnings = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestWarning"
)

ARGUMENTS = {"img_size": 28, "patch_size": 7, "embed_dim": 16, "depth": 2, "num_heads": 2}


# Images that ship with the package to evaluate on, as far as `few_evaluated` leaves them.
NUM_EVALUATED = 60


@contextlib.contextmanager
def few_evaluated():
    """Evaluates on few of the images that ship with the package."""
    load = embedded.load_embedded

    def load_few(split, num_channels):
        images, labels = load(split, num_channels)
        return images[:NUM_EVALUATED], labels[:NUM_EVALUATED]

    with pytest.MonkeyPatch.context() as patch:
        # By the name that runs read, and by the tests'.
        for module in (embedded, data):
            patch.setattr(module, "load_embedded", load_few)
        yield


def save_random_weights(model, path):
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]
    save_file(torch_import.to_torch_state(params), path)
    return params


_ZERO = np.float16(0)


def constant_weights(model, value=_ZERO):
    """Weights of a model, all alike and cheap, under timm's names."""
    images = jax.ShapeDtypeStruct((1, *model.input_shape), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return torch_import.to_torch_state(jax.tree.map(lambda x: np.full(x.shape, value), shapes))


def flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def largest_file(directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def prepare(settings, workdir, num_devices=1):
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    return dataclasses.replace(run_inputs.prepare(settings, workdir), mesh=mesh)


class StopError(Exception):
    """What a run is stopped by."""


def run_until(inputs, monkeypatch, calls, phases=("synthesis", "calibration", "finetuning")):
    """Runs up to the n-th progress of these phases, which is not saved any more."""
    original, seen = Progress.phase, []

    @contextlib.contextmanager
    def stopping_phase(self, name):
        with original(self, name) as advance:

            def counting(units):
                seen.append(units)
                if len(seen) == calls:
                    raise StopError
                advance(units)

            yield counting if name in phases else advance

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "phase", stopping_phase)
        with pytest.raises(StopError):
            run.run(inputs)


def run_counting_work(inputs, monkeypatch):
    """Runs, and sees that what is kept and what is done come to the whole work of a run.

    Returns the results, and the work that earlier starts have done.
    """
    resume, phase, kept, done = Progress.resume, Progress.phase, [], []

    def listing_resume(self, work):
        kept.append(work)
        resume(self, work)

    @contextlib.contextmanager
    def listing_phase(self, name):
        with phase(self, name) as advance:

            def listing_advance(units):
                done.append(units * workload.per_unit(inputs.config)[name])
                advance(units)

            yield listing_advance

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "resume", listing_resume)
        patch.setattr(Progress, "phase", listing_phase)
        results = run.run(inputs)
    assert sum(kept) + sum(done) == workload.total(inputs, make_plan(inputs.config))
    # What is done a second time counts for nothing.
    assert 0 not in done
    return results, sum(kept)


def work(evaluated, synthesis_steps, training_steps):
    """Of images evaluated, and of steps of batches of 8 images and of 4, as in the settings."""
    units = {"evaluation": evaluated, "synthesis": 8 * synthesis_steps}
    units["finetuning"] = 4 * training_steps
    passes = workload.per_unit(Config())
    return sum(passes[phase] * count for phase, count in units.items())


def shard_path(workdir, refresh, batch):
    folder = store.refresh_folder(workdir / "samples", refresh)
    return store.shard_path(folder, 8 * batch, 8 * batch + 8)


def checkpoints(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def finetuning_metrics(workdir):
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["phase"] == "finetuning"]


def accuracies(results):
    return {name: value for name, value in results.items() if name.endswith("top1")}


def assert_same_run(workdir, results, finished):
    expected_workdir, expected = finished
    assert accuracies(results) == accuracies(expected)
    assert finetuning_metrics(workdir) == finetuning_metrics(expected_workdir)
    _, variables = maskaq_jax.load(workdir)
    _, expected_variables = maskaq_jax.load(expected_workdir)
    jax.tree.map(np.testing.assert_array_equal, variables, expected_variables)
