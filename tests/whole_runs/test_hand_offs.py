"""What a run hands from one phase to the next."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

import maskaq_jax
from maskaq_jax import calibration, data, report, run
from maskaq_jax.runs import results, training_images
from maskaq_jax.storage import checked_arrays
from maskaq_jax.synthesis.loop import SynthesisLoop
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


def _synthetic(inputs):
    return checked_arrays.read_arrays(tiny.shard_path(inputs.workdir, 0, 0))["images"]


def _noise(inputs):
    return training_images.read_noise(inputs, jax.random.key(inputs.config.seed))(np.arange(8))


def _real(inputs):
    images, _ = data.load_embedded("real", 3)
    return inputs.config.pixels.from_bytes(images[:8])


def _top1(model, variables, pixels):
    images, labels = data.load_embedded("test", 3)
    logits, _ = model.apply(variables, pixels.from_bytes(images))
    return round(100 * float(np.mean(np.asarray(logits).argmax(axis=-1) == labels)), 4)


@pytest.mark.parametrize(
    ("method", "source", "read_images"),
    [
        ("maskaq", "synthetic", _synthetic),
        ("maskaq", "noise", _noise),
        ("real", "synthetic", _real),
    ],
)
def test_a_run_without_training_is_its_calibration(settings, tmp_path, method, source, read_images):
    settings = dataclasses.replace(
        settings,
        method=method,
        samples=dataclasses.replace(settings.samples, calibration=source),
        finetuning=dataclasses.replace(settings.finetuning, epochs=0),
    )
    inputs = tiny.prepare(settings, tmp_path / "run")
    summary = run.run(inputs)
    model, variables = maskaq_jax.load(tmp_path / "run")
    expected = calibration.calibrate(model, inputs.params, read_images(inputs))
    jax.tree.map(np.testing.assert_array_equal, variables["quant"], expected)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], inputs.params)
    full_precision = model.clone(quantization=None)
    top1 = _top1(full_precision, {"params": inputs.params}, settings.pixels)
    top1_of_q = _top1(model, variables, settings.pixels)
    assert tiny.accuracies(summary) == {
        "fp_top1": top1,
        "calibrated_top1": top1_of_q,
        "quantized_top1": top1_of_q,
    }
    assert top1_of_q != top1


@pytest.mark.parametrize("is_lost", [True, False])
def test_accuracy_that_training_lost_is_told_after_the_results(
    finished, settings, tmp_path, monkeypatch, capsys, is_lost
):
    shutil.copytree(finished[0], tmp_path / "run")
    monkeypatch.setattr(results, "lost_accuracy", lambda summary: is_lost)
    run.run(tiny.prepare(settings, tmp_path / "run"))
    _, after_results = capsys.readouterr().err.split("time of finetuning")
    warning = "warning: fine-tuning left the calibrated model worse than it was"
    assert (warning in after_results) == is_lost


def test_images_stay_as_they_are_drawn_where_no_step_is_taken(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(SynthesisLoop, "program", pytest.fail)
    settings = dataclasses.replace(
        settings,
        synthesis=dataclasses.replace(settings.synthesis, num_steps=0, first_images="leaves"),
        samples=dataclasses.replace(settings.samples, refresh_every=0),
        finetuning=dataclasses.replace(settings.finetuning, epochs=0),
    )
    inputs = tiny.prepare(settings, tmp_path / "run")
    assert run.run(inputs, at_end=report.write_at_end)["synthesis_steps"] == 0
    pixels = settings.pixels.denormalise(_synthetic(inputs))
    assert pixels.shape == (8, *inputs.model.input_shape)
    assert 0.1 < np.std(pixels) < 0.5
    assert "distillation" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
