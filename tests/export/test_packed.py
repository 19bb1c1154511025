import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from maskaq_jax import export, models
from maskaq_jax.export import packing
from maskaq_jax.models import Quantization
from maskaq_jax.storage import checked_arrays
from tests import tiny
from tests.export import networks


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(3, 5), (8,), (1,), (2, 4, 8)])
def test_codes_are_packed_without_gaps_and_unpacked_again(bits, shape):
    half = 2 ** (bits - 1)
    codes = np.random.default_rng(bits).integers(-half, half, shape).astype(np.int8)
    packed = packing.pack(codes, bits)
    assert packed.nbytes == bits * -(-codes.size // 8)
    np.testing.assert_array_equal(packing.unpack(packed, bits, shape), codes)


@pytest.mark.parametrize(
    ("name", "w", "a", "keeps_grids"),
    [
        *[("clip", 8, 8, False), ("siglip", 3, 3, True), ("dinov2", 5, 32, False)],
        ("yolos", 4, 8, False),
        *[
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                *[("swin", 3, 8, True), ("vit", 32, 5, False), ("swin", 32, 32, False)],
                *[
                    ("upernet", 3, 3, True),
                    ("pyramid", 8, 8, True),
                    ("linear segmenter", 3, 3, True),
                ],
            )
        ],
    ],
)
def test_a_file_gives_the_model_again_bit_for_bit(name, w, a, keeps_grids, tmp_path):
    model, variables, images, _ = networks.problem(name, w, a, keeps_grids)
    export.write_packed(tmp_path / "model.safetensors", model, variables)
    again, loaded = export.load_packed(tmp_path / "model.safetensors")
    assert models.description(again) == models.description(model)
    assert again.quantization == model.quantization
    jax.tree.map(np.testing.assert_array_equal, loaded["quant"], dict(variables["quant"]))
    both = (networks.outputs(model, values, images) for values in (variables, loaded))
    jax.tree.map(np.testing.assert_array_equal, *both)
    export.write_packed(tmp_path / "again.safetensors", again, loaded)
    files = [load_file(tmp_path / f"{file}.safetensors") for file in ("model", "again")]
    jax.tree.map(np.testing.assert_array_equal, *files)


def test_weights_take_the_bits_that_they_have(tmp_path):
    sizes = []
    problem = networks.problem("clip", 8, 8, False)
    variables = problem.variables
    for bits in (3, 6):
        model = problem.model.clone(quantization=Quantization(bits, 8))
        export.write_packed(tmp_path / str(bits), model, variables)
        sizes.append((tmp_path / str(bits)).stat().st_size)
    kernels = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if path[-1].key == "kernel"
    )
    assert sizes[1] - sizes[0] == pytest.approx(3 * kernels / 8, rel=0.02)


def test_a_damaged_file_is_refused(tmp_path):
    model, variables, *_ = networks.problem("clip", 8, 8, False)
    path = tmp_path / "model.safetensors"
    export.write_packed(path, model, variables)
    tiny.flip_last_bit(path)
    with pytest.raises(OSError, match="damaged"):
        export.load_packed(path)


def test_a_file_of_another_model_is_refused(tmp_path):
    """Its checksum fits, and its tensors don't."""
    model, variables, *_ = networks.problem("clip", 8, 8, False)
    path = tmp_path / "model.safetensors"
    export.write_packed(path, model, variables)
    metadata, arrays = checked_arrays.read_metadata(path), checked_arrays.read_arrays(path)
    texts = {"maskaq_jax": metadata["maskaq_jax"]}
    for changes, named in (
        ({"params/pos_embed": np.zeros((1, 3, 24), np.float32)}, "pos_embed"),
        ({"params/head/bias": arrays["params/head/bias"].astype(np.int32)}, "head/bias is int32"),
        ({"params/more": np.zeros(3, np.float32)}, "has no params/more"),
    ):
        checked_arrays.write_arrays(path, arrays | changes, texts)
        with pytest.raises(ValueError, match=named):
            export.load_packed(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match="is no model of maskaq_jax"):
        export.load_packed(path)
    with pytest.raises(OSError, match=r"gone\.safetensors"):
        export.load_packed(tmp_path / "gone.safetensors")
