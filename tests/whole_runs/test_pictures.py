"""The pictures of `benchmarks.pictures`, of a run."""

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import maskaq_jax
from benchmarks import pictures
from maskaq_jax.runs import training_images
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


@pytest.fixture
def inputs(finished, settings):
    return tiny.prepare(settings, finished[0])


def test_a_run_s_images_are_drawn_in_three_ways(inputs, tmp_path):
    images = training_images.read_newest(inputs, np.arange(12))
    assert images.shape == (12, 28, 28, 3)
    _, variables = maskaq_jax.load(inputs.workdir)
    both = {"maskaq": images, "noise": images[::-1]}
    pictures.draw_samples(tmp_path / "samples.png", both, inputs)
    pictures.draw_similarity(tmp_path / "similarity.png", both, inputs)
    pictures.draw_attention(tmp_path / "attention.png", images, variables, inputs)
    for name, size in (("samples", (1200, 200)), ("similarity", (400, 400))):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == size
    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.size == (1200, 300)
        # The outlines' colour, which grey images and attention maps don't have.
        red, green, blue = np.asarray(picture.convert("RGB"), int).reshape(-1, 3).T
        assert ((red > 240) & (abs(green - 69) < 15) & (blue < 15)).any()


def test_images_are_those_of_the_method(inputs, settings):
    noise = dataclasses.replace(inputs, config=dataclasses.replace(settings, method="noise"))
    images = training_images.read_newest(noise, np.arange(12))
    assert images.std() > 0.5
    assert not np.array_equal(images, training_images.read_newest(inputs, np.arange(12)))


def test_the_outline_runs_along_the_border_of_marked_patches():
    axis = Figure().subplots()
    mask = np.zeros((4, 4))
    mask[1, 2] = 1
    pictures.outline(axis, mask, 28, 28)
    (contour,) = axis.collections
    (path,) = contour.get_paths()
    # Patch of 7 pixels in row 1 and column 2.
    np.testing.assert_allclose(path.vertices.min(axis=0), (14, 7), atol=0.6)
    np.testing.assert_allclose(path.vertices.max(axis=0), (21, 14), atol=0.6)
