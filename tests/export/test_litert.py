"""What LiteRT computes of a file is what the model computes, but for its own rounding."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from maskaq_jax.export import agreement, litert
from maskaq_jax.export import networks as exported
from maskaq_jax.models import Quantization
from maskaq_jax.schema import ConfigError
from tests.export import networks


@pytest.fixture(scope="module")
def interpreter():
    pytest.importorskip("litert_converter")
    return pytest.importorskip("ai_edge_litert.interpreter")


def test_what_is_marked_for_the_converter_is_what_the_model_rounds():
    model, variables, images, expected = networks.problem("vit", 4, 8, True)
    operators, values = litert.LitertOperators(), jax.device_get(variables)
    compute = jax.jit(lambda x: exported.outputs(operators, model, values, x))
    networks.assert_same(np.asarray(compute(images)), expected)


def _operators(interpreter, content):
    """How often the file has which operator, with the types of its first two inputs."""
    plain = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    opened = interpreter.Interpreter(model_content=content, experimental_op_resolver_type=plain)
    opened.allocate_tensors()
    kinds = {one["index"]: one["dtype"].__name__ for one in opened.get_tensor_details()}
    return collections.Counter(
        (one["op_name"], *(kinds.get(index) for index in one["inputs"][:2]))
        for one in opened._get_ops_details()
    )


@pytest.mark.parametrize(
    ("name", "w", "keeps_grids", "num_dense", "num_attended"),
    [
        ("vit", 4, True, 2 * 3, 2),
        # Their grids of probabilities don't reach 0: those products are of floats.
        pytest.param("clip", 8, False, 3, 0, marks=pytest.mark.slow),
        pytest.param("siglip", 4, False, 3 + 2, 0, marks=pytest.mark.slow),
        pytest.param("swin", 3, True, 3 * 3, 3, marks=pytest.mark.slow),
    ],
)
def test_a_file_gives_the_model_s_outputs(
    interpreter, name, w, keeps_grids, num_dense, num_attended
):
    problem = networks.problem(name, w, 8, keeps_grids)
    content = litert.build(*problem.written)
    found = agreement.open_litert(content, networks.PIXELS)(problem.images)
    assert found.shape == problem.logits.shape
    # The runtime rounds attention's sums twice, and so 1 of 200 codes to the one beside.
    differences = found - problem.logits
    assert np.sqrt(np.square(differences).mean()) < 0.1 * problem.logits.std()
    operators = _operators(interpreter, content)
    # Queries, keys and values, whose products are rounded; and what attention finds.
    assert operators["FULLY_CONNECTED", "int8", "int8"] == num_dense
    assert operators["BATCH_MATMUL", "int8", "int8"] == num_attended
    # No value is rounded to another's grid first.
    assert not operators["QUANTIZE", "int8", None]


def test_the_file_takes_bytes_and_says_how_pictures_are_prepared(interpreter):
    problem = networks.problem("vit", 4, 8, True)
    content = litert.build(*problem.written, "pixels")
    shape = problem.model.input_shape
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    run = interpreter.Interpreter(model_content=content).get_signature_runner()
    assert run.get_input_details()["pixels"]["dtype"] == np.uint8
    normalised = networks.PIXELS.from_bytes(images)
    found = np.concatenate([run(pixels=image[None])["logits"] for image in images])
    np.testing.assert_array_equal(
        found, agreement.open_litert(content, networks.PIXELS)(normalised)
    )
    start = content.index(b'{"input": "pixels"')
    described, _ = json.JSONDecoder().raw_decode(content[start:].decode("utf-8", "replace"))
    assert described["size"] == list(shape[:2])
    assert described["bits"] == {"weights": 4, "activations": 8}


def test_pictures_are_made_grey_inside_where_the_model_knows_no_colours(interpreter):
    problem = networks.problem("vit", 4, 8, True)
    model, variables, pixels, preprocessing = problem.written
    pixels = dataclasses.replace(pixels, grey=True)
    content = litert.build(model, variables, pixels, preprocessing, "pixels")
    run = interpreter.Interpreter(model_content=content).get_signature_runner()
    image = np.random.default_rng(0).integers(0, 256, model.input_shape, np.uint8)
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None].repeat(3, axis=-1)
    found, expected = (run(pixels=one[None])["logits"] for one in (image, grey))
    np.testing.assert_array_equal(found, expected)


def test_activations_of_other_bits_are_refused():
    problem = networks.problem("vit", 4, 8, True)
    quantization = Quantization(4, 8, keeps_grids=True, rules="blocks_0.mlp.fc2=4x4")
    model = problem.model.clone(quantization=quantization)
    told = "8 bits, or of 32 for none: blocks_0/mlp/fc2/input has 4"
    with pytest.raises(ConfigError, match=told):
        litert.build(model, *problem.written[1:])
