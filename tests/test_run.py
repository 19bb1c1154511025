"""Whole runs of a tiny model: what they leave behind, and that nothing is lost when they stop."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import maskaq_jax
from maskaq_jax import config as config_lib
from maskaq_jax import (
    data,
    experiment,
    finetune,
    interruption,
    parallel,
    phases,
    randomness,
    report,
    run,
    samples,
    schema,
    synthesis,
    torch_import,
)
from maskaq_jax.models import create_model

ARGUMENTS = {"img_size": 28, "patch_size": 7, "embed_dim": 16, "depth": 2, "num_heads": 2}

# Orbax leaves an event loop to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestWarning")


@pytest.fixture(autouse=True, scope="module")
def compiled_once(tmp_path_factory):
    """Every run makes its programs anew, and most of them are the same."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = create_model("vit", 10, **ARGUMENTS)
    params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]
    save_file(torch_import.to_torch_state(params), path)
    return path


@pytest.fixture(scope="module")
def settings(weights):
    settings = config_lib.default()
    settings.model.name, settings.model.num_classes = "vit", 10
    settings.model.arguments = ARGUMENTS
    settings.model.weights = str(weights)
    settings.samples.num_samples = 12
    settings.samples.batch_size = 8
    settings.samples.refresh_every = 2
    settings.samples.calibration_size = 8
    settings.synthesis.num_steps = 3
    settings.finetuning.epochs = 3
    settings.finetuning.batch_size = 4
    settings.evaluation.dataset, settings.evaluation.split = "fashion_mnist", "test"
    settings.checkpoint_seconds = 0.0
    return config_lib.validated(settings)


@pytest.fixture(autouse=True, scope="module")
def few_evaluated():
    load = data.load_embedded
    with pytest.MonkeyPatch.context() as patch:

        def load_few(split, num_channels):
            images, labels = load(split, num_channels)
            return images[:60], labels[:60]

        patch.setattr(data, "load_embedded", load_few)
        yield


def _prepare(settings, workdir, num_devices=1):
    prepared = experiment.prepare(settings, workdir)
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    return dataclasses.replace(prepared, mesh=mesh)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, run.run(_prepare(settings, workdir))


def _shard(workdir, refresh, batch):
    folder = samples.refresh_folder(workdir / "samples", refresh)
    return samples.shard_path(folder, 8 * batch, 8 * batch + 8)


def _accuracies(results):
    return {name: value for name, value in results.items() if name.endswith("top1")}


def _assert_same_run(workdir, results, finished):
    expected_workdir, expected = finished
    assert _accuracies(results) == _accuracies(expected)
    _, variables = maskaq_jax.load(workdir)
    _, expected_variables = maskaq_jax.load(expected_workdir)
    jax.tree.map(np.testing.assert_array_equal, variables, expected_variables)


def test_a_run_leaves_everything_behind(finished):
    workdir, results = finished
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "checkpoints", "samples", "metrics.jsonl", "samples.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert json.loads((workdir / "results.json").read_text()) == results
    assert set(results["seconds"]) == {"evaluation", "synthesis", "finetuning"}
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
    assert results["redrawn_images"] == 0
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


def test_the_loaded_model_has_the_accuracy_of_the_results(finished, settings):
    workdir, results = finished
    model, variables = maskaq_jax.load(workdir)
    images, labels = data.load_embedded("test", 3)
    logits, _ = model.apply(variables, data.normalise(images, settings.pixels))
    correct = np.asarray(logits).argmax(axis=-1) == labels
    assert results["quantized_top1"] == round(100 * correct.mean(), 4)


def test_the_same_config_gives_the_same_results(finished, settings, tmp_path):
    results = run.run(_prepare(settings, tmp_path / "again"))
    _assert_same_run(tmp_path / "again", results, finished)


def test_a_finished_run_is_not_run_again(finished, settings, monkeypatch):
    workdir, results = finished
    monkeypatch.setattr(
        phases,
        "make_synthesis",
        lambda *_: pytest.fail,  # returns what fails when called
    )
    assert _accuracies(run.run(_prepare(settings, workdir))) == _accuracies(results)


class _StopError(Exception):
    pass


@pytest.mark.parametrize("calls", [2, 4, 7, 10])
def test_a_stopped_run_continues_to_the_same_bits(finished, settings, tmp_path, monkeypatch, calls):
    """Stops at the n-th progress of synthesis or fine-tuning, then starts again."""
    workdir = tmp_path / "stopped"
    original = report.Reporter.phase
    seen = []

    def stopping_phase(self, name):
        context = original(self, name)
        if name == "evaluation":
            return context

        class Phase:
            def __enter__(self):
                advance = context.__enter__()

                def counting(units):
                    seen.append(units)
                    if len(seen) == calls:
                        raise _StopError
                    advance(units)

                return counting

            def __exit__(self, *exception):
                return context.__exit__(*exception)

        return Phase()

    with monkeypatch.context() as patch:
        patch.setattr(report.Reporter, "phase", stopping_phase)
        with pytest.raises(_StopError):
            run.run(_prepare(settings, workdir))
    results = run.run(_prepare(settings, workdir))
    _assert_same_run(workdir, results, finished)


@pytest.mark.slow
def test_four_devices_give_the_images_of_one(finished, settings, tmp_path):
    """Later images depend on Q, where a rounding tie can go either way: the first ones don't."""
    workdir, _ = finished
    run.run(_prepare(settings, tmp_path / "four", num_devices=4))
    for batch in range(2):
        one, four = (
            samples.read_arrays(_shard(directory, 0, batch))
            for directory in (workdir, tmp_path / "four")
        )
        np.testing.assert_array_equal(one["labels"], four["labels"])
        assert np.abs(one["images"] - four["images"]).mean() < 0.02


@pytest.mark.parametrize("method", ["noise", "real"])
def test_other_samples_are_trained_on_the_same_way(settings, tmp_path, method):
    settings = dataclasses.replace(settings, method=method)
    results = run.run(_prepare(settings, tmp_path / method))
    assert results["method"] == method
    assert results["seconds"]["synthesis"] == 0
    assert not (tmp_path / method / "samples").exists()


def test_more_real_images_than_there_are_is_refused(settings, tmp_path):
    many = dataclasses.replace(settings.samples, num_samples=5000)
    settings = dataclasses.replace(settings, method="real", samples=many)
    with pytest.raises(schema.ConfigError, match="real images ship"):
        _prepare(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_config_is_refused_with_the_field_that_differs(finished, settings):
    workdir, _ = finished
    with pytest.raises(schema.ConfigError, match=r"config\.seed \(0 there, 5 here\)"):
        _prepare(dataclasses.replace(settings, seed=5), workdir)


def test_an_unfinished_run_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        maskaq_jax.load(tmp_path)


def test_images_that_stay_infinite_end_the_run(settings, tmp_path, monkeypatch):
    draw = synthesis.draw_first_images
    monkeypatch.setattr(
        synthesis, "draw_first_images", lambda *arguments: draw(*arguments) * jnp.nan
    )
    with pytest.raises(FloatingPointError, match="images 0 to 7 came out with NaN"):
        run.run(_prepare(settings, tmp_path / "run"))


def test_images_drawn_again_are_told_and_counted(settings, tmp_path, monkeypatch, capfd):
    """A refresh's second batch, images 8 to 15, is not finite when drawn first."""
    draw = synthesis.draw_first_images
    key = randomness.named_key(jax.random.key(settings.seed), "synthesize")
    bad = jax.random.fold_in(jax.random.fold_in(key, 1), 0)

    def draw_badly(key, indices, *arguments):
        is_bad = (jax.random.key_data(key) == jax.random.key_data(bad)).all() & (indices >= 8)
        images = draw(key, indices, *arguments)
        return jnp.where(is_bad[:, None, None, None], jnp.nan, images)

    monkeypatch.setattr(synthesis, "draw_first_images", draw_badly)
    results = run.run(_prepare(settings, tmp_path / "run"))
    assert results["redrawn_images"] == 8
    told = capfd.readouterr().err
    assert "warning: images 8 to 15 of refresh 1 came out with NaN or infinite values" in told


def test_finetuning_that_diverges_names_step_loss_and_the_last_good_state(settings, tmp_path):
    # Weights this large overflow in the first step.
    wild = dataclasses.replace(
        settings.finetuning, learning_rate=1e30, quantizer_learning_rate=1e30
    )
    settings = dataclasses.replace(settings, finetuning=wild)
    with pytest.raises(FloatingPointError) as raised:
        run.run(_prepare(settings, tmp_path / "run"))
    message = str(raised.value)
    assert "diverged at step 1 of 9 (attention nan, distillation nan)" in message
    assert "lower config.finetuning.learning_rate" in message
    assert message.endswith(str(tmp_path / "run" / "checkpoints" / "0"))
    assert (tmp_path / "run" / "checkpoints" / "0").is_dir()


def _flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _largest_file(directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def _damage_newest_checkpoint(workdir):
    newest = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    path = _largest_file(workdir / "checkpoints" / str(newest) / "variables")
    # All along the file: what its last byte belongs to depends on the order of writes.
    content = np.fromfile(path, np.uint8)
    content[::256] ^= 1
    content.tofile(path)
    return f"checkpoints/{newest} is damaged"


def _damage_last_shard(workdir):
    _flip_last_bit(_shard(workdir, 1, 1))
    return "images_00000008_00000016.safetensors is damaged"


def _damage_first_shard_and_later_checkpoints(workdir):
    for path in (workdir / "checkpoints").iterdir():
        shutil.rmtree(path)
    _flip_last_bit(_shard(workdir, 0, 0))
    return "images_00000000_00000008.safetensors is damaged"


def _remove_every_checkpoint(workdir):
    shutil.rmtree(workdir / "checkpoints")
    return ""


@pytest.mark.parametrize(
    "damage",
    [
        _damage_newest_checkpoint,
        _damage_last_shard,
        _damage_first_shard_and_later_checkpoints,
        _remove_every_checkpoint,
    ],
)
def test_damage_is_told_and_mended_to_the_same_bits(finished, settings, tmp_path, damage, capfd):
    workdir = tmp_path / "damaged"
    shutil.copytree(finished[0], workdir)
    warning = damage(workdir)
    results = run.run(_prepare(settings, workdir))
    assert warning in capfd.readouterr().err.replace("\n", "")
    _assert_same_run(workdir, results, finished)
    for refresh, batch in ((0, 0), (1, 1)):
        mended, before = (
            samples.read_arrays(_shard(directory, refresh, batch))
            for directory in (workdir, finished[0])
        )
        np.testing.assert_array_equal(mended["images"], before["images"])


def test_a_damaged_model_is_not_loaded(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    _damage_newest_checkpoint(tmp_path / "run")
    with pytest.raises(OSError, match="start the run again to repair it"):
        maskaq_jax.load(tmp_path / "run")


def test_two_runs_do_not_share_a_directory(settings, tmp_path):
    prepared = _prepare(settings, tmp_path / "run")
    with (
        experiment.claim(prepared),
        pytest.raises(schema.ConfigError, match="another run is at work in"),
        experiment.claim(prepared),
    ):
        pass
    with experiment.claim(prepared):  # which is free again
        pass


@pytest.mark.parametrize("signals", [1, 2, 4, 8, 12])
def test_a_run_told_to_stop_saves_and_continues_to_the_same_bits(
    finished, settings, tmp_path, monkeypatch, signals
):
    """SIGTERM comes while the n-th question is asked whether to stop."""
    settings = dataclasses.replace(settings, checkpoint_seconds=1e6)
    ask, asked = interruption.Clock.is_stopping, []

    def ask_after_signal(clock):
        asked.append(None)
        if len(asked) == signals:
            os.kill(os.getpid(), signal.SIGTERM)
        return ask(clock)

    with monkeypatch.context() as patch:
        patch.setattr(interruption.Clock, "is_stopping", ask_after_signal)
        with (
            interruption.catch_termination() as is_terminated,
            pytest.raises(interruption.Interrupted),
        ):
            run.run(_prepare(settings, tmp_path / "run"), is_terminated)
    assert len(asked) == signals
    results = run.run(_prepare(settings, tmp_path / "run"))
    _assert_same_run(tmp_path / "run", results, finished)


def test_a_second_interrupt_from_the_keyboard_ends_the_program():
    with interruption.catch_termination() as is_terminated:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert is_terminated()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "opened"), [("maskaq", False), ("real", True)])
def test_real_images_are_opened_by_their_own_method_alone(settings, tmp_path, method, opened):
    saved = tmp_path / "config.json"
    settings = dataclasses.replace(
        settings, method=method, finetuning=finetune.Settings(epochs=1, batch_size=4)
    )
    saved.write_text(json.dumps(config_lib.as_dict(settings)))
    code = f"""
import json, pathlib, sys
paths = []
sys.addaudithook(lambda event, args: paths.append(str(args[0])) if event == "open" else None)
from maskaq_jax import config, experiment, run
settings = config.from_dict(json.loads(pathlib.Path({str(saved)!r}).read_text()))
run.run(experiment.prepare(settings, pathlib.Path({str(tmp_path / "run")!r})))
print("opened", any("fashion_real" in path for path in paths))
print("modules", sorted({{"torch", "tensorflow"}} & set(sys.modules)))
"""
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert output.returncode == 0, output.stderr
    assert f"opened {opened}" in output.stdout
    assert "modules []" in output.stdout


@pytest.mark.slow
def test_swin_is_quantized_too(settings, tmp_path):
    """Where the authors' code stops: stages of other resolutions, no class token."""
    arguments = {"img_size": 28, "patch_size": 2, "embed_dim": 8, "depths": (1, 2)}
    arguments |= {"num_heads": (1, 2), "window_size": 7}
    model = create_model("swin", 10, **arguments)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]
    save_file(torch_import.to_torch_state(params), tmp_path / "swin.safetensors")
    weights = str(tmp_path / "swin.safetensors")
    settings = dataclasses.replace(settings, model=config_lib.Model("swin", 10, arguments, weights))
    results = run.run(_prepare(settings, tmp_path / "run"))
    first, *_ = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first)["coupling"] > 0
    model, variables = maskaq_jax.load(tmp_path / "run")
    images, labels = data.load_embedded("test", 3)
    logits, _ = model.apply(variables, data.normalise(images, settings.pixels))
    correct = np.asarray(logits).argmax(axis=-1) == labels
    assert results["quantized_top1"] == round(100 * correct.mean(), 4)


def test_without_evaluation_images_agreement_is_reported(settings, tmp_path, capsys):
    settings = dataclasses.replace(settings, evaluation=config_lib.Evaluation(batch_size=8))
    results = run.run(_prepare(settings, tmp_path / "run"))
    assert results["quantized_top1"] is None
    assert results["evaluation"] == "samples"
    assert "no evaluation dataset" in capsys.readouterr().err

    # As many of the last refresh's samples as there are.
    model, variables = maskaq_jax.load(tmp_path / "run")
    shards = [_shard(tmp_path / "run", 1, batch) for batch in range(2)]
    images = np.concatenate([samples.read_arrays(shard)["images"] for shard in shards])[:12]
    params = _prepare(settings, tmp_path / "run").params
    logits_p, out_p = model.clone(quantization=None).apply({"params": params}, images)
    logits_q, out_q = model.apply(variables, images)
    same = np.mean(logits_p.argmax(axis=-1) == logits_q.argmax(axis=-1))
    assert results["agreement"] == round(100 * float(same), 4)
    cosines = [
        np.dot(p, q) / np.linalg.norm(p) / np.linalg.norm(q)
        for p, q in zip(out_p["features"], out_q["features"], strict=True)
    ]
    np.testing.assert_allclose(results["feature_cosine"], np.mean(cosines), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_a_model_without_classes_is_compared_by_its_features(settings, tmp_path, distance):
    arguments = ARGUMENTS | {"init_values": 0.5}
    model = create_model("vit", 0, **arguments)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]
    save_file(torch_import.to_torch_state(params), tmp_path / "features.safetensors")
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    settings = dataclasses.replace(
        settings,
        model=config_lib.Model("vit", 0, arguments, str(tmp_path / "features.safetensors")),
        synthesis=dataclasses.replace(
            settings.synthesis, weights=dataclasses.replace(settings.synthesis.weights, classes=0.0)
        ),
        finetuning=dataclasses.replace(settings.finetuning, output_distance=distance),
        evaluation=config_lib.Evaluation("folder", path=str(tmp_path / "images"), batch_size=4),
    )
    results = run.run(_prepare(settings, tmp_path / "run"))
    assert results["quantized_top1"] is None
    assert results["num_evaluated"] == 6
    assert "agreement" not in results
    assert -1 <= results["feature_cosine"] <= 1
