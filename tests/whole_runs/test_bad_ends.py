"""Runs that cannot go on say what is the matter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import maskaq_jax
from maskaq_jax import run, schema
from maskaq_jax.devices.keys import named_key
from maskaq_jax.synthesis import first_images
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


def test_another_config_is_refused_with_the_field_that_differs(finished, settings):
    workdir, _ = finished
    with pytest.raises(schema.ConfigError, match=r"config\.seed \(0 there, 5 here\)"):
        tiny.prepare(dataclasses.replace(settings, seed=5), workdir)


def test_an_unfinished_run_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        maskaq_jax.load(tmp_path)


def test_images_that_stay_infinite_end_the_run(settings, tmp_path, monkeypatch):
    draw = first_images.draw_images
    monkeypatch.setattr(first_images, "draw_images", lambda *arguments: draw(*arguments) * jnp.nan)
    with pytest.raises(FloatingPointError, match="images 0 to 7 came out with NaN"):
        run.run(tiny.prepare(settings, tmp_path / "run"))


@pytest.mark.slow
def test_images_drawn_again_are_told_and_counted(settings, tmp_path, monkeypatch, capfd):
    """A refresh's second batch, images 8 to 15, is not finite when drawn first."""
    draw = first_images.draw_images
    key = named_key(jax.random.key(settings.seed), "synthesize")
    bad = jax.random.fold_in(jax.random.fold_in(key, 1), 0)

    def draw_badly(key, indices, *arguments):
        is_bad = (jax.random.key_data(key) == jax.random.key_data(bad)).all() & (indices >= 8)
        images = draw(key, indices, *arguments)
        return jnp.where(is_bad[:, None, None, None], jnp.nan, images)

    monkeypatch.setattr(first_images, "draw_images", draw_badly)
    results = run.run(tiny.prepare(settings, tmp_path / "run"))
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
        run.run(tiny.prepare(settings, tmp_path / "run"))
    message = str(raised.value)
    assert "diverged at step 1 of 9 (attention nan, distillation nan)" in message
    assert "lower config.finetuning.learning_rate" in message
    assert message.endswith(str(tmp_path / "run" / "checkpoints" / "0"))
    assert (tmp_path / "run" / "checkpoints" / "0").is_dir()


@pytest.fixture(scope="module")
def astray(settings, tmp_path_factory):
    """A run whose rates are too high, and what it said."""
    workdir = tmp_path_factory.mktemp("astray") / "run"
    wild = dataclasses.replace(settings.finetuning, optimizer="adam", learning_rate=3.0)
    samples = dataclasses.replace(settings.samples, held_out=4)
    settings = dataclasses.replace(settings, finetuning=wild, samples=samples)
    return settings, workdir, run.run(tiny.prepare(settings, workdir))


def test_training_that_goes_astray_leaves_the_calibrated_model(astray):
    settings, workdir, results = astray
    assert results["kept"] == "calibrated"
    assert results["quantized_top1"] == results["calibrated_top1"]
    assert results["retreats"] == 2
    first, *_ = results["distances"]
    assert first["step"] == 0
    _, variables = maskaq_jax.load(workdir)
    # Calibration chooses ranges alone: the weights are P's.
    params = tiny.prepare(settings, workdir).params
    jax.tree.map(np.testing.assert_array_equal, variables["params"], params)


def test_a_run_that_kept_the_calibrated_model_ends_alike_when_started_again(astray):
    settings, workdir, results = astray
    again = run.run(tiny.prepare(settings, workdir))
    assert again | {"seconds": results["seconds"]} == results


@pytest.mark.slow
def test_training_that_went_astray_goes_on_as_one_at_a_quarter_of_its_rates(settings, tmp_path):
    samples = dataclasses.replace(settings.samples, held_out=4)

    def run_at(share):
        rates = dataclasses.replace(
            settings.finetuning,
            optimizer="adam",
            relative_learning_rate=0.08 * share,
            quantizer_learning_rate=1e-3 * share,
            step_learning_rate=1e-3 * share,
        )
        changed = dataclasses.replace(settings, finetuning=rates, samples=samples)
        return run.run(tiny.prepare(changed, tmp_path / f"{share}"))

    astray, gentle = run_at(1.0), run_at(0.25)
    assert (astray["retreats"], gentle["retreats"]) == (1, 0)
    assert astray["distances"] == gentle["distances"]


def test_a_trained_model_is_kept_where_it_is_nearer_to_p(finished):
    _, results = finished
    distances = [compared["distance"] for compared in results["distances"]]
    is_nearer = distances[-1] <= distances[0]
    assert results["kept"] == ("trained" if is_nearer else "calibrated")
