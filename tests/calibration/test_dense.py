"""Detectors and segmenters are fitted: blocks as a classifier's, necks by ranges."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, quantizers
from maskaq_jax.calibration import CalibrationSettings
from maskaq_jax.models import Quantization, create_model, full_precision

SWIN = {"img_size": (14, 18), "patch_size": 2, "embed_dim": 8, "depths": (1, 2)}
SWIN |= {"num_heads": (2, 2), "window_size": 4}
SIZES = {
    "yolos": {"img_size": (12, 16), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    | {"num_detection_tokens": 6},
    "upernet_swin": SWIN | {"hidden_size": 12},
    "vit_linear_seg": {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2}
    | {"num_heads": 2},
    "swin_fpn": SWIN | {"out_channels": 12},
}
SETTINGS = CalibrationSettings(ranges="least_squares", num_searched=128)


def _problem(name, weight_bits, activation_bits):
    quantization = Quantization(weight_bits, activation_bits, keeps_grids=True)
    num_classes = 0 if name == "swin_fpn" else 3
    model = create_model(name, num_classes, quantization, **SIZES[name])
    images = jax.random.normal(jax.random.key(0), (16, *model.input_shape))
    params = jax.jit(full_precision(model).init)(jax.random.key(1), images[:1])["params"]
    return model, params, images


def _outputs(model, variables, images):
    return jax.tree.leaves(jax.jit(lambda v, x: model.apply(v, x)[0])(variables, images))


def _error(expected, outputs):
    """The largest of the outputs' relative squared errors."""
    pairs = zip(expected, outputs, strict=True)
    return max(float(np.square(p - q).mean() / np.var(p)) for p, q in pairs)


@pytest.mark.parametrize(
    "name",
    [
        *("yolos", "upernet_swin"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit_linear_seg", "swin_fpn")),
    ],
)
def test_the_parts_of_a_model_are_the_model(name):
    model, params, images = _problem(name, 32, 32)
    model = full_precision(model)

    @jax.jit
    def in_parts(params, images):
        x = model.apply({"params": params}, images, method="embed")
        read = []
        for part in model.parts():
            own = functools.reduce(lambda tree, step: tree[step], part.path, params)
            result = part.module.apply({"params": own}, x)
            x = result if isinstance(result, jax.Array) else result.tokens
            read += [x] if part.is_read else []
        outputs, out = model.apply({"params": params}, tuple(read) or x, method="classify")
        return outputs, out["features"]

    outputs, out = jax.jit(model.apply)({"params": params}, images)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5),
        in_parts(params, images),
        (outputs, out["features"]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SIZES if name != "vit_linear_seg"])
def test_a_fitted_model_is_nearer_to_p_than_the_paper_s_ranges(name):
    model, params, images = _problem(name, 4, 4)
    parts = []
    variables = calibration.fit(
        model, params, images, SETTINGS, jax.random.key(2), lambda: parts.append(1)
    )
    assert len(parts) == len(model.parts())
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, shapes)

    expected = _outputs(full_precision(model), {"params": params}, images)
    error = _error(expected, _outputs(model, variables, images))
    plain = model.clone(quantization=Quantization(4, 4))
    calibrate = jax.jit(lambda params, x: plain.apply({"params": params}, x, mutable=["quant"])[1])
    calibrated = {"params": params, **calibrate(params, images)}
    assert error < 0.7 * _error(expected, _outputs(plain, calibrated, images))


@pytest.mark.slow
def test_convolutions_lie_on_grids_and_biases_take_up_the_mean_error():
    model, params, images = _problem("swin_fpn", 4, 8)
    variables = calibration.fit(model, params, images, SETTINGS, jax.random.key(2))
    flat, quant = map(flax.traverse_util.flatten_dict, (variables["params"], variables["quant"]))
    for site in model.head_sites():
        kernel = (*site.path, "kernel")
        rounded = quantizers.quantize_weight_to_grid(flat[kernel], quant[kernel], 4)
        np.testing.assert_allclose(rounded, flat[kernel], atol=1e-6)
    expected = _outputs(full_precision(model), {"params": params}, images)
    found = _outputs(model, variables, images)
    means_p, means_q = (
        np.stack([level.mean(axis=(0, 1, 2)) for level in levels[:2]])
        for levels in (expected, found)
    )
    assert np.abs(means_p - means_q).max() < 1e-3 * np.abs(means_p).max()
