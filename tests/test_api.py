"""The functions that notebooks and programs call, on a run of a few seconds."""

import base64
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import maskaq_jax
from maskaq_jax import api
from maskaq_jax.models import create_model
from maskaq_jax.runs import interruption
from maskaq_jax.schema import ConfigError
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings

FIELDS = {
    **{f"model.arguments.{name}": value for name, value in tiny.ARGUMENTS.items()},
    "samples.num_samples": 4,
    "samples.batch_size": 4,
    "samples.calibration_size": 4,
    "synthesis.num_steps": 2,
    "calibration.num_views": 8,
    "calibration.num_searched": 32,
    "finetuning.epochs": 0,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    tiny.save_random_weights(create_model("vit", 10, **tiny.ARGUMENTS), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of a folder each for ten classes, a picture in each."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir()
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / str(label) / "picture.png")
    return folder


@pytest.fixture(scope="module")
def quantized(weights, pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("api") / "run"
    return maskaq_jax.quantize(
        *("vit",),
        **{"weights": weights, "num_classes": 10, "w": 4, "a": 8, "fields": FIELDS},
        **{"evaluate": pictures, "workdir": workdir},
    )


def test_results_are_those_of_the_run(quantized):
    assert quantized.results["quantized_top1"] is not None
    assert (quantized.results["weight_bits"], quantized.results["activation_bits"]) == (4, 8)
    assert quantized.workdir.joinpath("results.json").is_file()


def test_it_shows_itself_by_accuracy_size_and_samples(quantized):
    shown = quantized._repr_html_()
    sizes = dict(re.findall(r"<td>(weights [^<]*)</td><td>([\d.]+) kB</td>", shown))
    assert list(sizes) == ["weights in float32", "weights at W4A8"]
    count = sum(leaf.size for leaf in jax.tree.leaves(quantized.variables["params"]))
    whole, packed = map(float, sizes.values())
    assert whole == round(4 * count / 1000, 1)
    assert whole / 8 < packed < whole / 2
    assert f"<td>W4A8</td><td>{quantized.results['quantized_top1']:.2f} top-1 %</td>" in shown
    sheet = base64.b64encode((quantized.workdir / "samples.png").read_bytes()).decode()
    assert f'<img src="data:image/png;base64,{sheet}"' in shown


def test_it_shows_the_files_that_it_was_exported_to(quantized, tmp_path):
    workdir = tmp_path / "a<b"
    workdir.mkdir()
    shutil.copy(quantized.workdir / "config.json", workdir)
    there = dataclasses.replace(quantized, workdir=workdir)
    path = there.export(workdir / "model.safetensors")
    shown = there._repr_html_()
    assert f"<td>model.safetensors</td><td>{path.stat().st_size / 1000:.1f} kB</td>" in shown
    assert "a&lt;b" in shown
    assert "<img" not in shown


def test_it_prints_itself_in_a_line_without_weights(quantized):
    shown = repr(quantized)
    assert re.fullmatch(r"Quantized\(\w+ at W4A8, top-1 % [\d.]+, workdir='.*run'\)", shown)


def test_a_report_says_how_to_make_the_run_again(quantized, weights, pictures):
    html = quantized.workdir.joinpath("report.html").read_text(encoding="utf-8")
    command = json.loads(quantized.workdir.joinpath("command.json").read_text())["command"]
    assert command == (
        f"maskaq_jax.quantize('vit', weights={str(weights)!r}, num_classes=10, "
        f"evaluate={str(pictures)!r}, fields={FIELDS!r})"
    )
    assert command.replace("'", "&#x27;") in html
    assert 'class="notes"' not in html


def test_pictures_of_every_kind_get_the_same_logits(quantized, pictures):
    path = pictures / "3" / "picture.png"
    expected = quantized.logits(path)
    assert expected.shape == (1, 10)
    with Image.open(path) as picture:
        array = np.asarray(picture)
        np.testing.assert_array_equal(quantized.logits(picture), expected)
    np.testing.assert_array_equal(quantized.logits(array), expected)
    np.testing.assert_array_equal(quantized.logits(array[None]), expected)
    for made in (jnp.asarray(array), jnp.asarray(array)[None], [jnp.asarray(array)]):
        np.testing.assert_array_equal(quantized.logits(made), expected)
    both = quantized.logits([path, str(path)])
    np.testing.assert_allclose(both, jnp.concatenate([expected, expected]), atol=1e-5)
    normalised = maskaq_jax.read_images(quantized.workdir, path)
    np.testing.assert_array_equal(quantized.logits(normalised), expected)


def test_what_is_no_picture_is_named(quantized, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*cat\.png"):
        quantized.logits(tmp_path / "cat.png")
    with pytest.raises(ValueError, match=r"uint8, got \(4, 4, 3\) float32"):
        quantized.logits(np.zeros((4, 4, 3), np.float32))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (
            np.zeros((3, 40, 30), np.uint8),
            r"channels come last, as `picture\.transpose\(1, 2, 0\)`",
        ),
        (np.zeros((1, 40, 30), np.uint8), "channels come last"),
        (np.zeros((2, 3, 40, 30), np.uint8), r"got \(3, 40, 30\) uint8: channels come last"),
        (np.zeros((40, 30, 5), np.uint8), "a picture has 1 to 4 channels"),
        (np.zeros((9, 40, 30), np.uint8), r"several grey pictures are `list\(pictures\)`"),
        (np.zeros((0, 30, 3), np.uint8), "it has no pixels"),
        (np.zeros((40, 0), np.uint8), "it has no pixels"),
        (np.zeros((2, 2, 40, 30, 3), np.uint8), "several pictures are a list of them"),
        (np.zeros(3, np.uint8), "several pictures are a list of them"),
        (Image.new("RGB", (0, 9)), "a picture of 0 x 9 has no pixels"),
        (jnp.zeros((3, 40, 30), jnp.uint8), "channels come last"),
        (b"\x89PNG", r"got bytes: `PIL\.Image\.open\(io\.BytesIO\(content\)\)`"),
        (bytearray(b"\x89PNG"), "got bytearray"),
        ([b"\x89PNG"], "got bytes"),
        (None, "got NoneType"),
        (3, "got int"),
        ([[0.5]], "got list"),
        (np.full((1, 28, 28, 3), np.nan, np.float32), "got NaN"),
        (np.full((1, 28, 28, 3), -255, np.float32), "got values from -255 to -255"),
    ],
)
def test_what_is_no_picture_is_answered_with_what_is_one(quantized, picture, message):
    with pytest.raises(ValueError, match=message):
        quantized.logits(picture)


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 1), (40, 30, 2), (40, 30, 4)])
@pytest.mark.parametrize("module", [np, jnp])
def test_arrays_with_other_channels_are_pictures_too(quantized, module, shape):
    picture = module.full(shape, 200, module.uint8)
    assert quantized.logits(picture).shape == (1, 10)
    assert quantized.logits([picture, picture]).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "taken", "message"),
    [
        ("a.onnx", "rgb", "must be 'pixel_values' or 'pixels', got 'rgb'"),
        ("a.onnx", "", "must be 'pixel_values' or 'pixels', got ''"),
        ("a.tflite", "rgb", "must be 'pixel_values' or 'pixels', got 'rgb'"),
        ("a.safetensors", "pixels", "'pixels' is of files for runtimes, not of safetensors"),
    ],
)
def test_an_input_that_a_file_can_t_take_is_refused(quantized, tmp_path, name, taken, message):
    with pytest.raises(ConfigError, match=message):
        quantized.export(tmp_path / name, input_name=taken)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_it_is_exported_by_the_path_s_ending_and_says_what_came_of_it(
    quantized, tmp_path, capsys, name
):
    path = quantized.export(tmp_path / name)
    assert 0 < path.stat().st_size < 200_000
    of_size, before, of_images = capsys.readouterr().out.splitlines()
    assert before.startswith("comparing it with the low-bit model on ")
    assert f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB, " in of_size
    assert f"its own {quantized.results['quantized_top1']:.2f}%" in of_images
    with pytest.raises(ConfigError, match="exists already"):
        quantized.export(path)


def test_the_same_workdir_continues(quantized, weights, pictures):
    again = maskaq_jax.quantize(
        *("vit",),
        **{"weights": weights, "num_classes": 10, "w": 4, "a": 8, "fields": FIELDS},
        **{"evaluate": pictures, "workdir": quantized.workdir},
    )
    assert again.results["quantized_top1"] == quantized.results["quantized_top1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "vit"}, "weights is missing"),
        ({"model": "vti", "weights": "x"}, "vti"),
        ({"model": "configs/vit_fashoin.py"}, "no file configs/vit_fashoin.py"),
        ({"model": Path("configs/vit_fashoin.py")}, "no file configs/vit_fashoin.py"),
        ({"model": "configs/smoke.py:w=3"}, "behind the colon are arguments of `quantize` itself"),
        (
            {"model": "configs/smoke.py", "evaluate": "tfds:imagenet2021"},
            "TFDS has no 'imagenet2021'",
        ),
        ({"model": "configs/smoke.py", "w": 1}, "weight_bits"),
        ({"model": "configs/smoke.py", "method": "mask"}, "mask"),
        ({"model": "configs/smoke.py", "fields": {"samples.num": 3}}, "config.samples.num"),
        ({"model": "configs/smoke.py", "fields": {"seed": "x"}}, "config.seed"),
        ({"model": "deit_tiny_patch16_224", "weights": "no.safetensors"}, "no.safetensors"),
    ],
)
def test_a_mistake_is_named_before_any_work(arguments, message, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        maskaq_jax.quantize(**arguments, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_numbers(tmp_path):
    fields = {"samples.num_samples": np.int32(0), "samples.refresh_every": np.int64(1)}
    with pytest.raises(ConfigError, match=r"config\.samples\.num_samples must be positive, got 0"):
        maskaq_jax.quantize("configs/smoke.py", fields=fields, workdir=tmp_path / "run")


@pytest.fixture
def set_jax():
    """Changes a setting of JAX until the end of a test."""
    before = {}

    def set_jax(name, value):
        before[name] = jax.config.values[name]
        jax.config.update(name, value)

    yield set_jax
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("jax_numpy_dtype_promotion", "strict"), ("jax_transfer_guard", "disallow")],
)
def test_settings_of_jax_that_refuse_what_runs_do_are_named(tmp_path, set_jax, name, value):
    set_jax(name, value)
    with pytest.raises(ConfigError, match=rf"{name.upper()} is '{value}', with which runs don't"):
        maskaq_jax.quantize("configs/smoke.py", workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def in_64_bits():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.usefixtures("in_64_bits")
def test_64_bits_are_refused_in_a_line(weights, tmp_path):
    message = r"JAX computes in 64 bits .*: unset it, or call jax\.config\.update"
    with pytest.raises(ConfigError, match=message):
        api.quantize(
            "vit", weights=weights, num_classes=10, fields=FIELDS, workdir=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_loaded_in_64_bits(quantized, request):
    request.getfixturevalue("in_64_bits")
    with pytest.raises(ConfigError, match=r"JAX computes in 64 bits"):
        maskaq_jax.load(quantized.workdir)


def test_a_home_directory_is_found(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(interruption.Clock, "is_stopping", lambda clock: True)
    with pytest.raises(KeyboardInterrupt, match=re.escape(f"workdir='{tmp_path}/run'")):
        api.quantize("vit", weights=weights, num_classes=10, fields=FIELDS, workdir="~/run")


def test_a_stopped_run_says_where_it_continues(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(interruption.Clock, "is_stopping", lambda clock: True)
    with pytest.raises(KeyboardInterrupt, match=r"workdir='.*run' to continue"):
        api.quantize(
            "vit", weights=weights, num_classes=10, fields=FIELDS, workdir=tmp_path / "run"
        )


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, maskaq_jax; print(sorted({'jax', 'torch', 'onnx'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"
