"""What is exported computes what the model computes: the file in its runtime, integers in JAX."""

import re

import jax
import jax.export
import numpy as np
import pytest

from maskaq_jax import export
from maskaq_jax.export import agreement, integers, onnx
from tests.export import networks

# Every kind of model, fitted grids, and sides that are not rounded.
MODELS = [
    *[("vit", 4, 8, True), ("vit", 32, 5, False), ("deit_distilled", 4, 4, False)],
    *[("dinov2", 5, 32, False), ("registers", 4, 4, False), ("siglip", 3, 3, True)],
    *[("clip", 8, 8, False), ("averaged", 6, 2, False), ("swin features", 4, 4, False)],
    *[("yolos", 4, 8, False), ("linear segmenter", 3, 3, True), ("upernet", 4, 8, False)],
]
# The same parts, put together otherwise.
OTHERS = [
    *[("normed behind the token", 4, 4, False), ("normed before the mean", 4, 4, False)],
    *[("pooled behind registers", 4, 4, False), ("distilled features", 4, 4, False)],
    *[("swin", 4, 4, False), ("swin", 3, 8, True), ("swin", 32, 32, False)],
    *[("yolos", 3, 3, True), ("yolos", 8, 8, False), ("yolos", 4, 32, False)],
    *[("linear segmenter", 4, 8, False), ("linear segmenter", 8, 8, False)],
    *[("linear segmenter", 32, 32, False), ("upernet", 3, 3, True), ("upernet", 8, 8, False)],
    *[("upernet", 4, 32, False), ("pyramid", 4, 8, False), ("pyramid", 3, 3, False)],
    *[("pyramid", 8, 8, True), ("pyramid", 32, 32, False)],
]


@pytest.mark.parametrize(
    ("name", "w", "a", "keeps_grids"),
    [*MODELS, *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS)],
)
def test_a_file_gives_the_model_s_outputs(name, w, a, keeps_grids):
    problem = networks.problem(name, w, a, keeps_grids)
    content = networks.onnx_file(name, w, a, keeps_grids).SerializeToString()
    compute = agreement.open_onnx(content, networks.PIXELS)
    found = compute(problem.images)
    networks.assert_same(found, problem.logits, is_rounded=a < 32)
    alone = compute(problem.images[:1])
    for one, of_all in zip(jax.tree.leaves(alone), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(one, of_all[:1], atol=1e-5)


@pytest.mark.slow
def test_a_file_gives_the_outputs_of_a_fitted_model():
    problem = networks.fitted()
    assert np.ptp(problem.variables["quant"]["blocks_0"]["mlp"]["fc2"]["input_factor"]) > 0.01
    content = onnx.build(*problem.written).SerializeToString()
    compute = agreement.open_onnx(content, networks.PIXELS)
    networks.assert_same(compute(problem.images), problem.logits)


@pytest.mark.parametrize(
    ("name", "w", "a", "keeps_grids"),
    [
        *[("vit", 4, 8, True), ("dinov2", 5, 32, False), ("siglip", 3, 3, True)],
        pytest.param("swin", 4, 4, False, marks=pytest.mark.slow),
        *[
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                *[("registers", 4, 4, False), ("yolos", 8, 8, False), ("upernet", 3, 3, True)],
                *[("linear segmenter", 4, 8, False), ("pyramid", 4, 8, False)],
            )
        ],
    ],
)
def test_sums_of_integers_give_the_model_s_outputs(name, w, a, keeps_grids):
    model, variables, images, expected = networks.problem(name, w, a, keeps_grids)
    found = jax.jit(lambda x: integers.apply(model, variables, x))(images)
    networks.assert_same(found, expected, is_rounded=a < 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolos", "linear segmenter", "upernet", "pyramid"])
def test_integers_of_what_sees_places_can_be_served_for_any_batch(name):
    model, variables, images, expected = networks.problem(name, 4, 8, False)
    program = jax.export.deserialize(bytearray(integers.serialised(model, variables)))
    networks.assert_same(program.call(images), expected)


def test_integers_of_a_file_can_be_served_without_this_package(tmp_path):
    """By a program for any batch, whose products are of int8."""
    model, variables, images, expected = networks.problem("clip", 8, 8, False)
    export.write_packed(tmp_path / "model.safetensors", model, variables)
    data = integers.serialised(*export.load_packed(tmp_path / "model.safetensors"))
    program = jax.export.deserialize(bytearray(data))
    products = re.findall(r"stablehlo.dot_general .* -> tensor<\S+x(\w+)>", program.mlir_module())
    # The patches' is not rounded; those of the block are, and the head's.
    assert sorted(products) == ["f32", *["i32"] * (8 + 1)]
    networks.assert_same(np.asarray(program.call(images)), expected)
