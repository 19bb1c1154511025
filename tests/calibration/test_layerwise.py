"""A fitted model is near P, on its grids, and has the variables of any other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, quantizers
from maskaq_jax.calibration import CalibrationSettings
from maskaq_jax.images import noise
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Quantization, create_model, full_precision

SIZES = {
    "vit": {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2},
    "deit_distilled": {
        **{"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
    },
    "swin": {
        **{"img_size": 16, "patch_size": 2, "embed_dim": 16, "depths": (2, 1)},
        **{"num_heads": (2, 2), "window_size": 4},
    },
}
MODELS = ["vit", pytest.param("swin", marks=pytest.mark.slow)]
SETTINGS = CalibrationSettings(ranges="least_squares", num_searched=128)
KEY = jax.random.key(7)


def _problem(name, weight_bits, activation_bits, **arguments):
    model = create_model(
        name,
        5,
        Quantization(weight_bits, activation_bits, keeps_grids=True),
        **SIZES[name] | arguments,
    )
    images = jax.random.normal(jax.random.key(0), (24, *model.input_shape))
    params = jax.jit(full_precision(model).init)(jax.random.key(1), images)["params"]
    # Channels of unlike sizes, which random weights don't have.
    keys = iter(jax.random.split(jax.random.key(2), 200))

    def stretch(path, leaf):
        if path[-1].key != "scale":
            return leaf
        return leaf * jnp.exp(0.7 * jax.random.normal(next(keys), leaf.shape))

    return model, jax.tree_util.tree_map_with_path(stretch, params), images


@functools.cache
def _fitted(name):
    """A problem at 4 bits, solved on sixteen of its images."""
    model, params, images = _problem(name, 4, 4)
    return model, params, images, calibration.fit(model, params, images[:16], SETTINGS, KEY)


def _relative_error(model, params, variables, images):
    logits_p, _ = full_precision(model).apply({"params": params}, images)
    logits_q, _ = model.apply(variables, images)
    return float(jnp.square(logits_q - logits_p).mean() / logits_p.var())


@pytest.mark.slow
def test_eight_bits_change_little():
    model, params, images = _problem("deit_distilled", 8, 8)
    variables = calibration.fit(model, params, images, SETTINGS, KEY)
    assert _relative_error(model, params, variables, images) < 1e-2
    features = [
        np.asarray(out["features"])
        for _, out in (
            full_precision(model).apply({"params": params}, images),
            model.apply(variables, images),
        )
    ]
    # They are behind the last norm, which must not have been equalized.
    cosines = (features[0] * features[1]).sum(axis=1)
    cosines /= np.linalg.norm(features[0], axis=1) * np.linalg.norm(features[1], axis=1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize("name", MODELS)
def test_on_other_images_it_is_nearer_to_p_than_the_paper_s_ranges(name):
    model, params, images, fitted = _fitted(name)
    seen, others = images[:16], images[16:]
    plain = model.clone(quantization=Quantization(4, 4))
    calibrated = {"params": params, "quant": calibration.calibrate(plain, params, seen)}
    assert _relative_error(model, params, fitted, others) < 0.7 * _relative_error(
        plain, params, calibrated, others
    )


def _assert_variables_are_those_of_the_model(model, variables, images):
    expected = jax.eval_shape(model.init, jax.random.key(0), images)
    shapes = jax.tree.map(lambda leaf: jnp.shape(leaf), variables)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, {"quant": {}} | expected)


@pytest.mark.parametrize("name", MODELS)
def test_variables_are_those_of_the_model(name):
    model, _, images, variables = _fitted(name)
    _assert_variables_are_those_of_the_model(model, variables, images)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [(3, 32), (32, 4)])
def test_variables_are_those_of_a_model_that_rounds_one_of_both(bits):
    model, params, images = _problem("vit", *bits)
    variables = calibration.fit(model, params, images[:16], SETTINGS, KEY)
    _assert_variables_are_those_of_the_model(model, variables, images)


def test_kernels_lie_on_the_grids_that_they_keep():
    model, _, _, variables = _fitted("vit")
    for path in (("blocks_0", "attn", "qkv"), ("blocks_1", "mlp", "fc2"), ("head",)):
        own, grid = variables["params"], variables["quant"]
        for name in path:
            own, grid = own[name], grid[name]
        bits = model.quantization.weight_bits
        rounded = quantizers.quantize_weight_to_grid(own["kernel"], grid["kernel"], bits)
        np.testing.assert_allclose(rounded, own["kernel"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("correct_bias", [True, False])
def test_corrected_biases_give_p_s_mean_logits(correct_bias):
    model, params, images = _problem("vit", 4, 4)
    images = images[:16]
    settings = dataclasses.replace(SETTINGS, correct_bias=correct_bias)
    variables = calibration.fit(model, params, images, settings, KEY)
    logits_p, _ = full_precision(model).apply({"params": params}, images)
    logits_q, _ = model.apply(variables, images)
    gap = jnp.abs(logits_q.mean(axis=0) - logits_p.mean(axis=0)).max() / logits_p.std()
    assert (gap < 1e-3) == correct_bias


def test_second_order_rounding_is_nearer_to_p_than_the_nearest_codes():
    model, params, images = _problem("vit", 3, 32)
    # As pixels are, neighbours are alike: what one's rounding loses, the next can make up.
    images = noise.blur(images, 0.1)
    tokens_p = full_precision(model).apply({"params": params}, images, method="embed")
    errors = []
    for second_order in (True, False):
        settings = dataclasses.replace(SETTINGS, second_order=second_order)
        variables = calibration.fit(model, params, images, settings, KEY)
        tokens_q = model.apply(variables, images, method="embed")
        errors.append(float(jnp.square(tokens_q - tokens_p).mean()))
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"equalize_norms": False}, ("params", "blocks_0", "norm1", "scale")),
        ({"equalize_hidden": False}, ("quant", "blocks_0", "mlp", "fc2", "input_factor")),
    ],
)
def test_what_is_not_equalized_stays_as_it_is(change, path):
    model, params, images = _problem("vit", 4, 4)
    settings = dataclasses.replace(SETTINGS, **change)
    own = calibration.fit(model, params, images[:16], settings, KEY)
    expected = {"params": params, "quant": None}[path[0]]
    for name in path:
        own = own[name]
    if expected is not None:
        for name in path[1:]:
            expected = expected[name]
    np.testing.assert_array_equal(own, 1 if expected is None else expected)


def test_attention_is_equalized_by_factors_that_cancel():
    model, params, images = _problem("vit", 32, 4)
    settings = dataclasses.replace(
        SETTINGS, ridge=0.0, correct_bias=False, equalize_norms=False, equalize_hidden=False
    )
    fitted = calibration.fit(model, params, images[:16], settings, KEY)["params"]
    params, fitted = params["blocks_0"], fitted["blocks_0"]
    ratio = fitted["attn"]["qkv"]["kernel"] / params["attn"]["qkv"]["kernel"]
    # A factor for each channel.
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:1], ratio.shape), rtol=1e-4)
    query, key, value = np.split(np.asarray(ratio[0]), 3)
    assert np.ptp(query) > 0.05
    np.testing.assert_allclose(query * key, 1, rtol=1e-4)
    behind = fitted["attn"]["proj"]["kernel"] / params["attn"]["proj"]["kernel"]
    np.testing.assert_allclose(behind[:, 0] * value, 1, rtol=1e-4)


def test_nothing_is_fitted_where_no_grid_is_kept():
    model, params, images = _problem("vit", 4, 4)
    with pytest.raises(ValueError, match="keeps grids"):
        calibration.fit(model.clone(quantization=Quantization(4, 4)), params, images, SETTINGS, KEY)


def test_views_are_added_to_the_images_and_drawn_once():
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    views = calibration.add_views(images, 40, jax.random.key(1), Pixels())
    assert views.shape == (40, 8, 8, 3)
    np.testing.assert_array_equal(views[:3], images)
    np.testing.assert_array_equal(
        views, calibration.add_views(images, 40, jax.random.key(1), Pixels())
    )
    assert calibration.add_views(images, 2, jax.random.key(1), Pixels()).shape[0] == 3


@pytest.mark.parametrize("name", SIZES)
def test_the_parts_of_a_model_are_the_model(name):
    model, params, images = _problem(name, 32, 32)
    model = full_precision(model)
    tokens = model.apply({"params": params}, images, method="embed")
    for part in model.parts():
        own = params
        for step in part.path:
            own = own[step]
        result = part.module.apply({"params": own}, tokens)
        tokens = result if isinstance(result, jax.Array) else result.tokens
    logits, out = model.apply({"params": params}, tokens, method="classify")
    expected, whole = model.apply({"params": params}, images)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(out["features"], whole["features"], atol=1e-5)
