"""What whole runs leave behind, by method and by model."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import maskaq_jax
from maskaq_jax import calibration, data, run
from maskaq_jax import config as config_lib
from maskaq_jax.calibration import CalibrationSettings
from maskaq_jax.config import fields
from maskaq_jax.data import preprocessing
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.step import FinetuningSettings
from maskaq_jax.models import create_model
from maskaq_jax.runs import checkpoint
from maskaq_jax.storage import checked_arrays
from maskaq_jax.synthesis.loop import SynthesisLoop
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


def test_a_run_leaves_everything_behind(finished):
    workdir, results = finished
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "checkpoints", "samples", "metrics.jsonl", "samples.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert json.loads((workdir / "results.json").read_text()) == results
    assert set(results["seconds"]) == {"evaluation", "synthesis", "calibration", "finetuning"}
    assert {
        "fp_top1",
        "calibrated_top1",
        "quantized_top1",
        "weight_bits",
        "activation_bits",
        "method",
        "seed",
        "num_samples",
        "synthesis_steps",
        "epochs",
        "device",
    } <= set(results)
    names = ("fp", "calibrated", "quantized")
    assert results["metrics"] == {"top1": {name: results[f"{name}_top1"] for name in names}}
    assert results["redrawn_images"] == results["broken_images"] == 0
    assert results["num_evaluated"] == 60
    with Image.open(workdir / "samples.png") as picture:
        assert picture.width > picture.height > 0
    # Two batches, made at the start and again after two epochs.
    assert len(list((workdir / "samples").rglob("*.safetensors"))) == 4
    phases_recorded = [
        json.loads(line)["phase"] for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    assert phases_recorded == ["synthesis"] * 2 + ["finetuning"] * 2 + ["synthesis"] * 2 + [
        "finetuning"
    ]
    # The newest two, the one that the last images were made from, and the calibrated model.
    assert tiny.checkpoints(workdir) == [0, 6, 8, 9]


def test_the_loaded_model_has_the_accuracy_of_the_results(finished, settings):
    workdir, results = finished
    model, variables = maskaq_jax.load(workdir)
    images, labels = data.load_embedded("test", 3)
    logits, _ = model.apply(variables, settings.pixels.from_bytes(images))
    correct = np.asarray(logits).argmax(axis=-1) == labels
    assert results["quantized_top1"] == round(100 * correct.mean(), 4)


def test_the_same_config_gives_the_same_results(finished, settings, tmp_path):
    results = run.run(tiny.prepare(settings, tmp_path / "again"))
    tiny.assert_same_run(tmp_path / "again", results, finished)


def test_a_finished_run_is_not_run_again(finished, settings, monkeypatch):
    workdir, results = finished
    monkeypatch.setattr(SynthesisLoop, "run", pytest.fail)
    monkeypatch.setattr(finetuning, "step", pytest.fail)
    again = run.run(tiny.prepare(settings, workdir))
    assert again | {"seconds": results["seconds"]} == results


@pytest.mark.slow
def test_four_devices_give_the_images_of_one(finished, settings, tmp_path):
    """Later images depend on Q, where a rounding tie can go either way: the first ones don't."""
    workdir, _ = finished
    run.run(tiny.prepare(settings, tmp_path / "four", num_devices=4))
    for batch in range(2):
        one, four = (
            checked_arrays.read_arrays(tiny.shard_path(directory, 0, batch))
            for directory in (workdir, tmp_path / "four")
        )
        np.testing.assert_array_equal(one["labels"], four["labels"])
        assert np.abs(one["images"] - four["images"]).mean() < 0.02


def test_a_run_of_an_earlier_version_keeps_its_accuracies(
    finished, settings, tmp_path, monkeypatch
):
    """Which were numbers then."""
    shutil.copytree(finished[0], tmp_path / "run")
    restore = checkpoint.restore

    def restore_earlier(*arguments):
        saved = restore(*arguments)
        progress = dict(saved.progress)
        figures = progress.pop("figures")
        progress["top1"] = {name: of_model["top1"] for name, of_model in figures.items()}
        return saved._replace(progress=progress)

    monkeypatch.setattr(checkpoint, "restore", restore_earlier)
    again = run.run(tiny.prepare(settings, tmp_path / "run"))
    assert tiny.accuracies(again) == tiny.accuracies(finished[1])
    assert again["metrics"] == finished[1]["metrics"]


def _assert_trained_without_synthesis(workdir, results, method):
    assert results["method"] == method
    assert results["seconds"]["synthesis"] == 0
    assert not (workdir / "samples").exists()
    assert (workdir / "samples.png").is_file()


@pytest.mark.slow
def test_noise_is_trained_on_the_same_way(settings, tmp_path):
    settings = dataclasses.replace(settings, method="noise")
    results = run.run(tiny.prepare(settings, tmp_path / "run"))
    _assert_trained_without_synthesis(tmp_path / "run", results, "noise")


@pytest.mark.slow
def test_real_images_are_trained_on_the_same_way_and_opened_by_their_own_method_alone(
    settings, tmp_path
):
    settings = dataclasses.replace(
        settings,
        finetuning=FinetuningSettings(epochs=1, batch_size=4),
        evaluation=dataclasses.replace(settings.evaluation, split="validation"),
    )
    (tmp_path / "config.json").write_text(json.dumps(config_lib.as_dict(settings)))
    code = f"""
import dataclasses, json, pathlib, sys
paths = []
sys.addaudithook(lambda event, args: paths.append(str(args[0])) if event == "open" else None)
from maskaq_jax import config, run
from maskaq_jax.runs import inputs
directory = pathlib.Path({str(tmp_path)!r})
settings = config.from_dict(json.loads((directory / "config.json").read_text()))
for method in ("maskaq", "real"):
    changed = dataclasses.replace(settings, method=method)
    run.run(inputs.prepare(changed, directory / method))
    print(method, any("fashion_real" in path for path in paths))
print("modules", sorted({{"torch", "tensorflow"}} & set(sys.modules)))
"""
    environment = {
        **{name: value for name, value in os.environ.items() if name.startswith("JAX_")},
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(tmp_path),
    }
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert output.returncode == 0, output.stderr
    assert output.stdout.splitlines() == ["maskaq False", "real True", "modules []"]
    results = json.loads((tmp_path / "real" / "results.json").read_text())
    _assert_trained_without_synthesis(tmp_path / "real", results, "real")


@pytest.mark.slow
def test_images_are_made_in_front_of_the_colour_that_the_model_chose(settings, tmp_path, capsys):
    settings = dataclasses.replace(
        settings,
        synthesis=dataclasses.replace(settings.synthesis, background="auto"),
        finetuning=dataclasses.replace(settings.finetuning, epochs=1),
    )
    run.run(tiny.prepare(settings, tmp_path))
    first, *_ = (tmp_path / "metrics.jsonl").read_text().splitlines()
    scores = {name: json.loads(first)[name] for name in ("black", "white")}
    chosen, other = sorted(scores, key=scores.__getitem__, reverse=True)
    assert f"images get a {chosen} background" in capsys.readouterr().err
    colours = dict(zip(("black", "white"), settings.pixels.bounds(), strict=True))
    images = checked_arrays.read_arrays(tiny.shard_path(tmp_path, 0, 0))["images"]
    shares = {
        name: np.isclose(images, colour, atol=1e-4).all(axis=-1).mean(axis=(1, 2))
        for name, colour in colours.items()
    }
    # Boxes cover half of an image on average.
    assert 0.3 < shares[chosen].mean() < 0.8
    assert shares[other].max() < 0.1


@pytest.mark.slow
def test_swin_is_quantized_too(settings, tmp_path):
    """Where the authors' code stops: shifted windows, another resolution, no class token."""
    arguments = {"img_size": 28, "patch_size": 2, "embed_dim": 8, "depths": (2, 1)}
    arguments |= {"num_heads": (1, 2), "window_size": 7}
    model = create_model("swin", 10, **arguments)
    tiny.save_random_weights(model, tmp_path / "swin.safetensors")
    weights = str(tmp_path / "swin.safetensors")
    settings = dataclasses.replace(
        settings, model=fields.ModelSettings("swin", 10, arguments, weights)
    )
    results = run.run(tiny.prepare(settings, tmp_path / "run"))
    first, *_ = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first)["coupling"] > 0
    model, variables = maskaq_jax.load(tmp_path / "run")
    images, labels = data.load_embedded("test", 3)
    logits, _ = model.apply(variables, settings.pixels.from_bytes(images))
    correct = np.asarray(logits).argmax(axis=-1) == labels
    assert results["quantized_top1"] == round(100 * correct.mean(), 4)


def _mean_cosine(first, second):
    """Of the rows of two arrays."""
    return np.mean(
        [
            np.dot(p, q) / np.linalg.norm(p) / np.linalg.norm(q)
            for p, q in zip(first, second, strict=True)
        ]
    )


@pytest.mark.slow
def test_without_evaluation_images_agreement_is_reported(settings, tmp_path, monkeypatch, capsys):
    settings = dataclasses.replace(settings, evaluation=fields.Evaluation(batch_size=8))
    results, _ = tiny.run_counting_work(tiny.prepare(settings, tmp_path / "run"), monkeypatch)
    assert results["quantized_top1"] is None
    assert (results["evaluation"], results["num_evaluated"]) == ("samples", 12)
    assert "no evaluation dataset" in capsys.readouterr().err

    # As many of the last refresh's samples as there are.
    model, variables = maskaq_jax.load(tmp_path / "run")
    shards = [tiny.shard_path(tmp_path / "run", 1, batch) for batch in range(2)]
    images = np.concatenate([checked_arrays.read_arrays(shard)["images"] for shard in shards])[:12]
    params = tiny.prepare(settings, tmp_path / "run").params
    logits_p, out_p = model.clone(quantization=None).apply({"params": params}, images)
    logits_q, out_q = model.apply(variables, images)
    same = np.mean(logits_p.argmax(axis=-1) == logits_q.argmax(axis=-1))
    assert results["agreement"] == round(100 * float(same), 4)
    cosine = _mean_cosine(out_p["features"], out_q["features"])
    np.testing.assert_allclose(results["feature_cosine"], cosine, atol=1e-4)


@pytest.mark.slow
def test_a_model_without_classes_is_compared_by_its_features(settings, tmp_path, capsys):
    arguments = tiny.ARGUMENTS | {"init_values": 0.5}
    model = create_model("vit", 0, **arguments)
    params = tiny.save_random_weights(model, tmp_path / "features.safetensors")
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    settings = dataclasses.replace(
        settings,
        model=fields.ModelSettings("vit", 0, arguments, str(tmp_path / "features.safetensors")),
        synthesis=dataclasses.replace(
            settings.synthesis, weights=dataclasses.replace(settings.synthesis.weights, classes=0.0)
        ),
        finetuning=dataclasses.replace(settings.finetuning, output_distance="cosine"),
        evaluation=fields.Evaluation("folder", path=str(tmp_path / "images"), batch_size=4),
    )
    results = run.run(tiny.prepare(settings, tmp_path / "run"))
    assert results["quantized_top1"] is None
    assert (results["num_evaluated"], results["broken_images"]) == (5, 1)
    assert "1 images could not be read: " in (told := capsys.readouterr().err)
    assert "broken.png" in told.replace("\n", "")
    assert "agreement" not in results
    model, variables = maskaq_jax.load(tmp_path / "run")
    paths = [tmp_path / "images" / f"{number}.png" for number in range(5)]
    spec = settings.evaluation.preprocessing
    pixels = np.stack([preprocessing.read_image(path, "", 28, spec) for path in paths])
    images = settings.pixels.from_bytes(pixels)
    features_p, _ = model.clone(quantization=None).apply({"params": params}, images)
    features_q, _ = model.apply(variables, images)
    cosine = _mean_cosine(features_p, features_q)
    np.testing.assert_allclose(results["feature_cosine"], cosine, atol=1e-4)


@pytest.mark.slow
def test_layers_are_fitted_to_the_samples_and_views_of_them(
    settings, tmp_path, capsys, monkeypatch
):
    calibrated = CalibrationSettings(ranges="least_squares", num_views=16, num_searched=64)
    settings = dataclasses.replace(
        settings,
        calibration=calibrated,
        quantization=dataclasses.replace(settings.quantization, keeps_grids=True),
        finetuning=dataclasses.replace(settings.finetuning, epochs=0),
    )
    results, _ = tiny.run_counting_work(tiny.prepare(settings, tmp_path), monkeypatch)
    assert "fitting every layer to 8 images and 8 views" in capsys.readouterr().err
    assert results["calibrated_top1"] == results["quantized_top1"]
    assert results["seconds"]["calibration"] > 0
    model, variables = maskaq_jax.load(tmp_path)
    shards = [tiny.shard_path(tmp_path, 0, batch) for batch in range(2)]
    images = np.concatenate([checked_arrays.read_arrays(shard)["images"] for shard in shards])[:8]
    views = calibration.add_views(images, 16, jax.random.key(settings.seed), settings.pixels)
    params = tiny.prepare(settings, tmp_path).params
    expected = calibration.fit(model, params, views, calibrated, jax.random.key(settings.seed))
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_a_run_trains_layers_at_the_bits_that_rules_give_them(settings, tmp_path, capsys):
    rules = "*.mlp.fc2=4x8,head=32x32"
    settings = dataclasses.replace(
        settings,
        method="noise",
        quantization=dataclasses.replace(settings.quantization, rules=rules),
        finetuning=dataclasses.replace(settings.finetuning, epochs=1),
    )
    results = run.run(tiny.prepare(settings, tmp_path))
    assert results["rules"] == rules
    assert f"but for {rules}" in capsys.readouterr().err
    model, variables = maskaq_jax.load(tmp_path)
    assert "head" not in variables["quant"]
    images, labels = data.load_embedded("test", 3)
    logits, _ = model.apply(variables, settings.pixels.from_bytes(images))
    assert results["quantized_top1"] == round(
        100 * (np.asarray(logits).argmax(axis=-1) == labels).mean(), 4
    )
