"""Whole runs of detectors, segmenters and models of maps, from weights to a low-bit model."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import maskaq_jax
from maskaq_jax import report, run, torch_import
from maskaq_jax.data import scenes
from maskaq_jax.export import __main__ as export
from maskaq_jax.models import create_model
from tests import tiny

pytestmark = [tiny.ignore_orbax_warnings, pytest.mark.slow]

SWIN = {
    **{"img_size": 96, "patch_size": 8, "embed_dim": 8, "depths": (1, 1)},
    **{"num_heads": (1, 2), "window_size": 3},
}
YOLOS = {"img_size": 96, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2}
MODELS = {
    "yolos": (YOLOS | {"num_detection_tokens": 8}, 10, "ap"),
    "upernet_swin": (SWIN | {"hidden_size": 8}, 11, "miou"),
    "swin_fpn": (SWIN, 0, None),
}
# What the command says of a file.
EXPORTED = {
    "yolos": r"same class as the low-bit model at \S+% of the detection tokens of 6 .*; AP ",
    "upernet_swin": r"same class as the low-bit model at \S+% of the pixels of 6 images; mIoU ",
    "swin_fpn": r"no evaluation images at hand",
}


def _settings(settings, name, weights):
    arguments, num_classes, metric = MODELS[name]
    synthesis = dataclasses.replace(
        settings.synthesis, num_steps=3, background="none", first_images="leaves"
    )
    if not num_classes:
        own = dataclasses.replace(synthesis.weights, classes=0.0)
        synthesis = dataclasses.replace(synthesis, weights=own)
    evaluation = dataclasses.replace(
        settings.evaluation, dataset="scenes" if metric else "", split="validation", batch_size=4
    )
    return dataclasses.replace(
        settings,
        model=dataclasses.replace(
            settings.model,
            name=name,
            num_classes=num_classes,
            arguments=arguments,
            weights=str(weights),
        ),
        synthesis=synthesis,
        samples=dataclasses.replace(settings.samples, num_samples=8, refresh_every=0),
        finetuning=dataclasses.replace(settings.finetuning, epochs=1, block_weight=1.0),
        evaluation=evaluation,
    )


def _save_weights(name, directory):
    """Random ones, of this model."""
    arguments, num_classes, _ = MODELS[name]
    model = create_model(name, num_classes, **arguments)
    weights = directory / "weights.safetensors"
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 96, 96, 3), np.float32))["params"]
    save_file(torch_import.to_torch_state(params), weights)
    return weights


@pytest.fixture
def few_scenes(monkeypatch):
    monkeypatch.setattr(scenes, "NUM_SCENES", 6)


@pytest.fixture(scope="module")
def run_whole(settings, tmp_path_factory):
    """Runs a model by its name, once: its inputs and results, with a report."""

    @functools.cache
    def run_whole(name):
        directory = tmp_path_factory.mktemp(name)
        own = _settings(settings, name, _save_weights(name, directory))
        inputs = tiny.prepare(own, directory / "run")
        return inputs, run.run(inputs, at_end=report.write_at_end)

    return run_whole


@pytest.mark.usefixtures("few_scenes")
@pytest.mark.parametrize("name", MODELS)
def test_a_run_goes_from_weights_to_a_low_bit_model_and_its_file(run_whole, name, capsys):
    inputs, results = run_whole(name)
    metric, workdir, num_classes = MODELS[name][2], inputs.workdir, inputs.model.num_classes
    assert (workdir / "samples.png").is_file()
    assert '<section id="samples"' in (workdir / "report.html").read_text(encoding="utf-8")
    if metric:
        assert set(results["metrics"][metric]) == {"fp", "calibrated", "quantized"}
    told = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    synthesis = [record for record in told if record["phase"] == "synthesis"]
    assert all(("classes" in record) == bool(num_classes) for record in synthesis)
    training = [record for record in told if record["phase"] == "finetuning"]
    assert np.isfinite([record["distillation"] for record in training]).all()
    quantized, variables = maskaq_jax.load(workdir)
    shown = maskaq_jax.Quantized(quantized, variables, results, workdir)._repr_html_()
    assert "W4A4" in shown
    outputs, _ = quantized.apply(variables, np.zeros((1, 96, 96, 3), np.float32))
    assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(outputs)])).all()
    capsys.readouterr()
    export.main([f"--workdir={workdir}"])
    said = capsys.readouterr().out
    assert re.search(EXPORTED[name], said), said
    if metric:
        own = f"its own {results['metrics'][metric]['quantized']:.2f}%"
        assert own in said
    with pytest.raises(SystemExit):
        export.main([f"--workdir={workdir}", "--format=litert"])
    (told,) = capsys.readouterr().err.splitlines()
    assert "--format=litert takes classifiers" in told


@pytest.mark.usefixtures("few_scenes")
@pytest.mark.parametrize("name", ["yolos", "upernet_swin"])
def test_a_stopped_run_continues_to_the_same_bits(run_whole, tmp_path, monkeypatch, name):
    """Stops before the second of two steps of training, then starts again."""
    inputs, finished = run_whole(name)
    stopped = tiny.prepare(inputs.config, tmp_path / "stopped")
    tiny.run_until(stopped, monkeypatch, 2, phases=("finetuning",))
    assert tiny.checkpoints(tmp_path / "stopped") == [0, 1]
    results = run.run(tiny.prepare(inputs.config, tmp_path / "stopped"))
    tiny.assert_same_run(tmp_path / "stopped", results, (inputs.workdir, finished))
