import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from maskaq_jax.report import pictures
from tests.report import made_up


def _images(html):
    found = re.findall(r"data:image/(\w+);base64,([\w+/=]+)", html)
    return [(kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(b))))) for kind, b in found]


def test_small_samples_are_there_to_the_bit_and_once():
    contents = made_up.contents()
    shown = _images(pictures.samples(contents))
    assert len(shown) == 12
    for (kind, pixels), sample in zip(shown, contents.looks.samples, strict=True):
        assert kind == "png"
        np.testing.assert_array_equal(pixels, sample.pixels)


def test_large_samples_take_little():
    looks = made_up.contents().looks
    large = dataclasses.replace(looks, samples=[made_up.sample(size=224, grid=14)])
    ((kind, pixels),) = _images(pictures.samples(made_up.contents(looks=large)))
    assert kind == "jpeg"
    assert pixels.shape == (224, 224, 3)


def _area(path):
    boxes = re.findall(r"M(\S+) (\S+)h(\S+)v(\S+)h(\S+)z", path)
    return sum(float(width) * float(height) for _, _, width, height, _ in boxes)


def test_what_is_dark_is_what_is_not_informative():
    sample = made_up.sample()
    html = pictures.samples(
        made_up.contents(looks=dataclasses.replace(made_up.contents().looks, samples=[sample]))
    )
    shade, edge = re.findall(r'd="(M[^"]*)"', html)
    assert _area(shade) == (~sample.regions).sum() * 16
    # A patch alone has four sides, two beside each other have six.
    regions = np.zeros((7, 7), bool)
    regions[0, :2] = regions[3, 3] = True
    alone = dataclasses.replace(sample, regions=regions)
    html = pictures.samples(
        made_up.contents(looks=dataclasses.replace(made_up.contents().looks, samples=[alone]))
    )
    _, edge = re.findall(r'd="(M[^"]*)"', html)
    assert edge.count("M") == 10


def test_another_class_than_full_precision_s_is_marked():
    html = pictures.samples(made_up.contents())
    assert html.count("<strong>") == 6
    assert "class 0 (90%)" in html


def test_attention_of_both_models_has_one_scale():
    sample = made_up.sample()
    flat = dataclasses.replace(sample, attention_q=np.full((7, 7), sample.attention_p.min()))
    looks = dataclasses.replace(made_up.contents().looks, samples=[flat])
    html = pictures.attention(made_up.contents(looks=looks))
    (_, own), (_, of_p), (_, of_q) = _images(html)
    np.testing.assert_array_equal(own, sample.pixels)
    assert len(np.unique(of_q.reshape(-1, 3), axis=0)) == 1
    darkest = np.unravel_index(sample.attention_p.argmin(), (7, 7))
    np.testing.assert_array_equal(of_q[0, 0], of_p[darkest])
    assert "correlation of the two nan" in html


def test_a_correlation_is_pearson_s():
    sample = dataclasses.replace(
        made_up.sample(), attention_p=np.arange(4.0), attention_q=3 - 2 * np.arange(4.0)
    )
    assert pictures.correlation(sample) == pytest.approx(-1)


def test_without_samples_there_is_nothing_to_show():
    contents = made_up.contents(looks=None)
    assert pictures.samples(contents) == pictures.attention(contents) == ""


def test_what_both_models_find_is_side_by_side():
    contents = made_up.contents()
    assert pictures.found(contents) == ""
    drawn = [
        dataclasses.replace(one, found_p=one.pixels // 2, found_q=255 - one.pixels)
        for one in contents.looks.samples
    ]
    html = pictures.found(
        made_up.contents(looks=dataclasses.replace(contents.looks, samples=drawn))
    )
    (_, own), (_, of_p), (_, of_q), *others = _images(html)
    assert len(others) == 9
    np.testing.assert_array_equal(own // 2, of_p)
    np.testing.assert_array_equal(255 - own, of_q)
