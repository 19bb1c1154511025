"""What runs make of the files that people bring, and what they say of them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import maskaq_jax
from maskaq_jax import config as config_lib
from maskaq_jax import run, schema
from maskaq_jax.data.preprocessing import Preprocessing, preprocess
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import create_model
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


def _with(settings, group, **changes):
    return dataclasses.replace(
        settings, **{group: dataclasses.replace(getattr(settings, group), **changes)}
    )


def _quickly(settings):
    """Noise instead of images, and no training."""
    settings = _with(settings, "finetuning", epochs=0)
    return _with(dataclasses.replace(settings, method="noise"), "samples", num_samples=8)


def test_a_run_continues_with_its_weights_from_elsewhere(finished, settings, weights, tmp_path):
    workdir, _ = finished
    moved = tmp_path / "moved.safetensors"
    shutil.copy(weights, moved)
    tiny.prepare(_with(settings, "model", weights=str(moved)), workdir)
    renamed = {f"teacher.{name}": array for name, array in load_file(weights).items()}
    save_file(renamed, moved)
    tiny.prepare(_with(settings, "model", weights=str(moved), weights_key="teacher"), workdir)
    arrays = load_file(weights)
    save_file(arrays | {"head.bias": arrays["head.bias"] + 1}, moved)
    with pytest.raises(schema.ConfigError, match=r"a run of other weights than .*moved"):
        tiny.prepare(_with(settings, "model", weights=str(moved)), workdir)


@pytest.fixture
def folders(tmp_path):
    """Ten classes of an image each, a folder of an archive's, and a file that is none."""
    for number in range(10):
        (tmp_path / "val" / str(number)).mkdir(parents=True)
        picture = np.random.default_rng(number).integers(0, 256, (30, 50, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "val" / str(number) / "0.tif")
    (tmp_path / "val" / "__MACOSX").mkdir()
    (tmp_path / "val" / "3" / "0.heic").touch()
    return tmp_path / "val"


def test_a_model_that_is_sure_and_mostly_wrong_draws_a_warning(
    settings, weights, folders, tmp_path, capfd
):
    arrays = load_file(weights)
    arrays["head.bias"][0] = 50  # class 0 it is, whatever the picture
    save_file(arrays, tmp_path / "sure.safetensors")
    settings = _with(_quickly(settings), "model", weights=str(tmp_path / "sure.safetensors"))
    settings = _with(
        settings, "evaluation", dataset="folder", split="", path=str(folders), order="name"
    )
    results = run.run(tiny.prepare(settings, tmp_path / "run"))
    assert results["fp_top1"] == 10.0
    assert results["class_order"] == "name"
    told = capfd.readouterr().err
    assert "warning: the full-precision model is right on 10.0% of the images, but" in told
    assert "gives its classes 100.0% on average: labels may be in another order" in told
    assert "config.evaluation.order is 'name'" in told
    assert "folders that are no classes are passed over: __MACOSX" in told
    assert "1 files are passed over, which Pillow does not read as images (.heic)" in told
    assert "shapes of weights don't show these, which are taken from the config" in told


def test_a_model_that_is_unsure_draws_none(settings, weights, folders, tmp_path, capfd):
    arrays = load_file(weights)
    save_file(arrays | {"head.weight": 0 * arrays["head.weight"]}, tmp_path / "unsure.safetensors")
    settings = _with(_quickly(settings), "model", weights=str(tmp_path / "unsure.safetensors"))
    settings = _with(settings, "evaluation", dataset="folder", split="", path=str(folders))
    results = run.run(tiny.prepare(settings, tmp_path / "run"))
    assert results["class_order"] == "number"
    assert "labels may be in another order" not in capfd.readouterr().err


def test_of_a_single_class_no_accuracy_is_claimed(settings, folders, tmp_path):
    weights = tmp_path / "one.safetensors"
    tiny.save_random_weights(create_model("vit", 1, **tiny.ARGUMENTS), weights)
    settings = _with(_quickly(settings), "model", num_classes=1, weights=str(weights))
    settings = _with(settings, "finetuning", output_distance="mse")
    settings = _with(settings, "evaluation", dataset="folder", split="", path=str(folders))
    config_lib.check_values(
        dataclasses.replace(
            settings,
            synthesis=dataclasses.replace(
                settings.synthesis,
                weights=dataclasses.replace(settings.synthesis.weights, classes=0.0),
            ),
        )
    )
    results = run.run(tiny.prepare(settings, tmp_path / "run"))
    assert results["fp_top1"] is results["quantized_top1"] is None
    assert "agreement" not in results
    assert "feature_cosine" in results
    assert "class_order" not in results


def _write_settings(settings, workdir):
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(config_lib.as_dict(settings)))


@pytest.mark.parametrize("resize", ["shorter", "squash"])
def test_pictures_are_read_as_a_runs_model_takes_them(settings, folders, tmp_path, resize):
    preprocessing = Preprocessing(0.875, "bilinear", resize)
    settings = _with(settings, "evaluation", preprocessing=preprocessing)
    settings = dataclasses.replace(settings, pixels=Pixels((0.5,) * 3, (0.25,) * 3))
    _write_settings(settings, tmp_path / "run")
    files = [folders / "0" / "0.tif", str(folders / "1" / "0.tif")]
    images = maskaq_jax.read_images(tmp_path / "run", files)
    assert images.dtype == np.float32
    for image, file in zip(images, files, strict=True):
        with Image.open(file) as picture:
            expected = preprocess(picture, 28, preprocessing) / 255 / 0.25 - 2
        np.testing.assert_allclose(image, expected, atol=1e-6)
    np.testing.assert_array_equal(
        maskaq_jax.read_images(str(tmp_path / "run"), files[0]), images[:1]
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_of_grey_pictures_gets_them_grey(settings, folders, tmp_path, channels):
    arguments = tiny.ARGUMENTS | {"in_chans": channels}
    settings = _with(settings, "model", arguments=arguments)
    pixels = Pixels((0.5,) * channels, (0.5,) * channels, grey=True)
    _write_settings(dataclasses.replace(settings, pixels=pixels), tmp_path / "run")
    images = maskaq_jax.read_images(tmp_path / "run", [folders / "0" / "0.tif"])
    assert images.shape == (1, 28, 28, channels)
    assert np.ptp(images, axis=-1).max() == 0


def test_what_is_no_picture_is_named(settings, tmp_path):
    _write_settings(settings, tmp_path / "run")
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"notes\.png: cannot identify"):
        maskaq_jax.read_images(tmp_path / "run", [tmp_path / "notes.png"])
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.png"):
        maskaq_jax.read_images(tmp_path / "run", [tmp_path / "gone.png"])
    with pytest.raises(FileNotFoundError):
        maskaq_jax.read_images(tmp_path / "gone", [tmp_path / "notes.png"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: (255 * images).astype(np.uint8), r"got uint8: .*`maskaq_jax\.read_images"),
        (lambda images: (255 * images).astype(np.int32), r"got int32: .*`maskaq_jax\.read_images"),
        (lambda images: 255 * images, r"got values from \S+ to 2\d\d.*`maskaq_jax\.read_images"),
        (lambda images: 255 * images - 255, r"got values from -2\S+ to -\S+: `Pixels\(mean, std\)"),
        (lambda images: 255 * images - 128, r"got values from -1\S+ to 1\S+: "),
        (lambda images: np.where(images > 0.5, np.nan, images), r"normalised .*, got NaN: "),
        (lambda images: images + np.inf, r"got values from inf to inf: "),
        (lambda images: images.transpose(0, 3, 1, 2), r"channels come last, as `images\.transpose"),
        (lambda images: images[0], r"a single image is `images\[None\]`"),
    ],
)
def test_arrays_of_another_kind_are_refused(finished, change, message):
    model, variables = maskaq_jax.load(finished[0])
    images = np.random.default_rng(0).uniform(size=(2, 28, 28, 3)).astype(np.float32)
    with pytest.raises(ValueError, match=message):
        model.apply(variables, change(images))


def test_a_home_directory_is_found_and_nothing_is_warned_of(finished, monkeypatch, capfd, caplog):
    workdir, _ = finished
    monkeypatch.setenv("HOME", str(workdir.parent))
    model, variables = maskaq_jax.load("~/run")
    assert "quant" in variables
    assert model.num_classes == 10
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
