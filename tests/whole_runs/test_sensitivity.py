"""`python -m maskaq_jax.sensitivity` on runs, and on what is none."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from maskaq_jax import config as config_lib
from maskaq_jax import sensitivity
from maskaq_jax.models import create_model
from maskaq_jax.runs import training_images
from maskaq_jax.sensitivity import __main__ as command
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy, which may be changed."""
    return shutil.copytree(finished[0], tmp_path / "run")


def _refusal(capsys, *arguments):
    """The one line that it ends with."""
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors


def test_a_run_s_tensors_are_measured_and_rules_suggested(workdir, settings, capsys):
    command.main([f"--workdir={workdir}"])
    told = json.loads((workdir / "sensitivity.json").read_text())
    assert (told["weight_bits"], told["activation_bits"], told["num_images"]) == (4, 4, 4)
    inputs = tiny.prepare(settings, workdir)
    assert len(told["tensors"]) == sensitivity.count_tensors(inputs.model)
    assert set(told["tensors"][0]) == {"layer", "tensor", "bits", "agreement", "divergence"}
    with Image.open(workdir / "sensitivity.png") as picture:
        assert picture.width > 100
    output, _ = capsys.readouterr()
    assert told["tensors"][0]["layer"] in output
    *_, last = output.splitlines()
    assert last == f"--config.quantization.rules={told['suggested_rules']}"
    # What it suggests can be run.
    rules = dataclasses.replace(settings.quantization, rules=told["suggested_rules"])
    config_lib.check_values(dataclasses.replace(settings, quantization=rules))


def test_other_bits_than_the_run_s(workdir, capsys):
    command.main([f"--workdir={workdir}", "--bits=32x8"])
    told = json.loads((workdir / "sensitivity.json").read_text())
    assert {(loss["tensor"], loss["bits"]) for loss in told["tensors"]} == {("activation", 8)}
    assert told["suggested_rules"] == ""
    assert "rules=" not in capsys.readouterr().out


def test_images_are_those_of_the_newest_refresh_that_has_them(finished, settings, tmp_path):
    inputs = tiny.prepare(settings, finished[0])
    newest = training_images.read_newest(inputs, np.arange(12))
    shutil.copytree(finished[0], tmp_path / "run")
    tiny.shard_path(tmp_path / "run", 1, 1).unlink()
    inputs = dataclasses.replace(inputs, workdir=tmp_path / "run")
    assert not np.array_equal(training_images.read_newest(inputs, np.arange(12)), newest)
    np.testing.assert_array_equal(training_images.read_newest(inputs, np.arange(8)), newest[:8])


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ("4", "--bits: bits of weights and activations read like 4x8, got '4'"),
        ("4x9", "--bits: activation_bits must be 2 to 8, or 32 for none, got 9"),
        ("32x32", "at 32x32 bits nothing is rounded: name others, as --bits=4x4"),
    ],
)
def test_bits_that_are_none_are_refused(finished, capsys, bits, message):
    assert message in _refusal(capsys, f"--workdir={finished[0]}", f"--bits={bits}")
    assert not (finished[0] / "sensitivity.json").exists()


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert "--workdir" in _refusal(capsys)
    assert "unrecognized arguments: --bit" in _refusal(capsys, "--workdir=x", "--bitz=4x4")
    gone = tmp_path / "gone"
    assert f"workdir {gone} is no folder" in _refusal(capsys, f"--workdir={gone}")
    assert "holds no run: there is no config.json" in _refusal(capsys, f"--workdir={tmp_path}")
    (tmp_path / "config.json").write_text("{")
    assert "config.json is not readable" in _refusal(capsys, f"--workdir={tmp_path}")


def test_a_run_that_has_not_calibrated_is_refused(workdir, capsys):
    shutil.rmtree(workdir / "checkpoints")
    assert "has not calibrated its model yet" in _refusal(capsys, f"--workdir={workdir}")


def test_a_run_without_its_images_is_refused(workdir, capsys):
    shutil.rmtree(workdir / "samples")
    assert "has 8 images" in _refusal(capsys, f"--workdir={workdir}")


def test_a_run_of_other_weights_than_there_are_now_is_refused(workdir, settings, capsys, tmp_path):
    model = create_model("vit", 10, **tiny.ARGUMENTS | {"embed_dim": 32})
    tiny.save_random_weights(model, tmp_path / "other.safetensors")
    changed = json.loads((workdir / "config.json").read_text())
    changed["model"]["weights"] = str(tmp_path / "other.safetensors")
    (workdir / "config.json").write_text(json.dumps(changed))
    assert "other.safetensors" in _refusal(capsys, f"--workdir={workdir}")
    changed["model"]["weights"] = str(tmp_path / "gone.safetensors")
    (workdir / "config.json").write_text(json.dumps(changed))
    told = _refusal(capsys, f"--workdir={workdir}")
    assert "gone.safetensors: if its path is of another directory than this, start there" in told
    assert f"if it is elsewhere by now, say so in {workdir}/config.json" in told


def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(workdir, capsys):
    (workdir / "sensitivity.json").mkdir()
    assert "sensitivity.json is a folder, not a file" in _refusal(capsys, f"--workdir={workdir}")
