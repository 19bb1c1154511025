"""Detectors, segmenters and features agree with transformers, rounded or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

from maskaq_jax import regions, torch_import
from maskaq_jax.models import Quantization, create_model, maps
from maskaq_jax.regions import WindowGrid

NAMES = ("yolos", "upernet_swin", "linear_seg", "swin_fpn")


def _load(arrays, quantization=None, **changes):
    stored = arrays.arguments["img_size"]
    arguments = arrays.arguments | changes
    model = create_model(arguments.pop("arch"), quantization=quantization, **arguments)
    size = tuple(stored) if isinstance(stored, list) else None
    state = load_file(arrays.weights)
    return model, torch_import.from_torch_state(state, model, image_size=size)


def _apply(model, params, images):
    return jax.jit(model.apply)({"params": params}, images)


def test_boxes_and_classes_are_those_of_transformers(golden, close):
    """At a size that patches don't cover, and that stored positions are not of."""
    arrays = golden("yolos")
    model, params = _load(arrays, img_size=[26, 19])
    outputs, out = _apply(model, params, arrays["images2"])
    close(outputs["logits"], arrays["logits2"])
    close(outputs["pred_boxes"], arrays["boxes2"])
    close(out["tokens"], arrays["tokens2"])
    assert outputs["logits"].shape == (2, 5, 4)


def test_a_linear_head_is_that_on_transformers_dinov2(golden, close):
    arrays = golden("linear_seg")
    model, params = _load(arrays, img_size=28)
    logits, _ = _apply(model, params, arrays["images2"])
    close(logits, arrays["logits2"])


@pytest.fixture(scope="module")
def segmenter(golden):
    """UperNet in full precision: the model, its golden numbers, and what it makes of them."""
    arrays = golden("upernet_swin")
    model, params = _load(arrays)
    return model, arrays, *_apply(model, params, arrays["images"])


def test_label_maps_are_those_of_transformers(segmenter, close):
    _, arrays, logits, out = segmenter
    close(logits, arrays["logits"])
    assert logits.shape == (2, 26, 33, 3)
    for i, each in enumerate(out["feature_maps"]):
        close(each, arrays[f"map_{i}"])


def test_features_are_those_of_a_pyramid_on_transformers_swin(golden, close):
    arrays = golden("swin_fpn")
    model, params = _load(arrays)
    levels, out = _apply(model, params, arrays["images"])
    assert len(levels) == len(out["feature_maps"]) + 1
    for i, each in enumerate(out["feature_maps"]):
        close(each, arrays[f"map_{i}"])
    for i, each in enumerate(levels):
        close(each, arrays[f"level_{i}"])


# What `outputs` of each model are in its golden file.
GOLDEN_OUTPUTS = {
    "yolos": lambda arrays: {"logits": arrays["logits"], "pred_boxes": arrays["boxes"]},
    "upernet_swin": lambda arrays: arrays["logits"],
    "linear_seg": lambda arrays: arrays["logits"],
    "swin_fpn": lambda arrays: tuple(arrays[f"level_{i}"] for i in range(4)),
}


# Eight bits change little: what is rounded is what float computes.
@pytest.mark.parametrize(
    "name",
    [
        *("yolos", "upernet_swin"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("linear_seg", "swin_fpn")),
    ],
)
def test_every_model_rounds_what_its_sites_name(golden, name):
    arrays = golden(name)
    model, params = _load(arrays, Quantization(8, 8))
    calibrate = jax.jit(lambda params, x: model.apply({"params": params}, x, mutable=["quant"]))
    (outputs, _), state = calibrate(params, arrays["images"])
    sites = {(*part.path, *site.path, site.name) for part in model.parts() for site in part.sites}
    sites |= {(*site.path, site.name) for site in model.head_sites()}
    assert set(traverse_util.flatten_dict(state["quant"])) == sites
    expected = GOLDEN_OUTPUTS[name](arrays)

    def assert_near(value, wanted):
        error = np.square(np.asarray(value) - wanted).mean() / np.var(wanted)
        assert 1e-6 < error < 0.05

    jax.tree.map(assert_near, outputs, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_gives_float32_close_to_full(golden, name):
    arrays = golden(name)
    model, params = _load(arrays)
    found, _ = _apply(model.clone(dtype=jnp.bfloat16), params, arrays["images"])
    for value, wanted in zip(
        jax.tree.leaves(found), jax.tree.leaves(GOLDEN_OUTPUTS[name](arrays)), strict=True
    ):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, wanted, atol=0.1 * np.abs(wanted).max())


def test_padding_is_no_region(segmenter):
    model, _, _, out = segmenter
    patches = model.patches
    assert not all(grid.is_whole for grid in patches.grids)
    masks = regions.window_regions(out["attention_logits"], 0.5, 2, patches)
    for mask, grid in zip(masks, patches.grids, strict=True):
        is_token = np.asarray(grid.is_token()).reshape(-1)
        assert is_token.sum() == grid.rows * grid.columns
        assert not np.asarray(mask)[:, is_token == 0].any()
        np.testing.assert_array_equal(mask.sum(axis=1), grid.rows * grid.columns // 2)


def test_pictured_regions_are_the_tokens_that_receive_most_attention(segmenter):
    model, _, _, out = segmenter
    rows, columns = model.patch_grid
    mask = np.asarray(model.patch_regions(out["attention_logits"], 0.25))
    assert mask.shape == (2, rows * columns)
    # The last stage is one row of windows, the second of which is padded.
    assert (rows, columns) == (4, 5)
    logits = np.asarray(out["attention_logits"][-1]).mean(axis=1).reshape(2, 2, 16, 16)
    scores = np.zeros((2, 4, 5))
    scores[:, :, :4] = logits[:, 0].mean(axis=1).reshape(2, 4, 4)
    scores[:, :, 4] = logits[:, 1, ::4].mean(axis=1)[:, ::4]
    for image in range(2):
        best = np.argsort(scores[image].ravel())[-5:]
        assert set(np.flatnonzero(mask[image])) == set(best.tolist())


def test_windows_without_padding_have_no_grids():
    arguments = {"patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}
    model = create_model("upernet_swin", img_size=16, window_size=4, **arguments)
    assert model.patches == regions.WINDOWS


def test_a_shifted_grid_knows_its_padding():
    grid = WindowGrid(rows=3, columns=2, window=2, shift=1)
    # Rolled by one: rows 1, 2, padding, 0; columns 1, 0.
    np.testing.assert_array_equal(grid.is_token(), [[1, 1, 1, 1], [0, 0, 1, 1]])


def test_bins_of_a_pooled_map_are_uneven_and_overlap():
    x = jnp.arange(5.0).reshape(1, 5, 1, 1)
    pooled = maps.pool(x, 3)[0, :, 0, 0]
    np.testing.assert_allclose(pooled, [0.5, 2.0, 3.5])


def test_nearest_places_of_odd_sizes():
    x = jnp.arange(3.0).reshape(1, 3, 1, 1)
    np.testing.assert_array_equal(maps.resize_nearest(x, 5, 1)[0, :, 0, 0], [0, 0, 1, 1, 2])


def test_images_of_another_size_are_refused():
    model = create_model("yolos", img_size=(20, 24), patch_size=4, embed_dim=8, num_heads=1)
    with pytest.raises(
        ValueError, match=r"expected images of \[B, 20, 24, 3\], got \(1, 24, 20, 3\)"
    ):
        jax.eval_shape(
            model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 24, 20, 3), "float32")
        )
