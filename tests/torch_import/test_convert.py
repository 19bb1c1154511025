import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from maskaq_jax.torch_import import positions
from tests.tiny import constant_weights

MODEL = create_model(
    "vit", 5, img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, init_values=0.1
)
# Patches of a side, before and after: smaller and larger, with a common factor and without.
GRIDS = [(37, 16), (14, 24), (14, 7), (16, 37)]


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


@pytest.fixture
def state(params):
    return torch_import.to_torch_state(params)


def test_names_and_layouts_are_timm_s(state):
    assert state["blocks.1.attn.qkv.weight"].shape == (48, 16)
    assert state["patch_embed.proj.weight"].shape == (16, 3, 4, 4)
    assert {"norm.weight", "blocks.0.ls1.gamma", "cls_token", "head.bias"} <= set(state)


def test_export_and_import_are_inverse(params, state, tmp_path):
    save_file(state, tmp_path / "weights.safetensors")
    back = torch_import.load_torch_weights(tmp_path / "weights.safetensors", MODEL)
    jax.tree.map(np.testing.assert_array_equal, params, back)


def test_weights_of_half_precision_are_read(params, state, tmp_path):
    halved = {name: array.astype(jnp.bfloat16) for name, array in state.items()}
    save_file(halved, tmp_path / "weights.safetensors")
    back = torch_import.load_torch_weights(tmp_path / "weights.safetensors", MODEL)
    for weight, expected in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        assert weight.dtype == np.float32
        np.testing.assert_allclose(weight, expected, rtol=2**-8)


def test_every_kind_of_mismatch_is_told_with_its_count(state):
    del state["norm.weight"], state["norm.bias"]
    state["extra"] = np.zeros(3)
    state["head.weight"] = np.zeros((6, 16))
    state["head.bias"] = np.full(5, np.nan)
    with pytest.raises(ValueError, match="does not fit the model") as error:
        torch_import.from_torch_state(state, MODEL)
    for part in (
        "2 missing: norm.bias, norm.weight",
        "1 unexpected: extra",
        "1 of another shape: head.weight is (6, 16), expected (5, 16)",
        "1 with NaN or infinite values: head.bias",
    ):
        assert part in str(error.value)


def test_weights_of_another_model_are_named(state):
    wider = create_model("deit_tiny_patch16_224", 6, img_size=8, patch_size=4)
    with pytest.raises(ValueError, match=r"The weights look like vit with .*depth=2"):
        torch_import.from_torch_state(state, wider)
    del state["norm.weight"]
    with pytest.raises(ValueError, match=r"missing: norm\.weight$"):
        torch_import.from_torch_state(state, MODEL)


def test_weights_of_a_named_model_are_called_by_its_name():
    state = constant_weights(create_model("deit_tiny_patch16_224"))
    with pytest.raises(ValueError, match="does not fit the model") as error:
        torch_import.from_torch_state(state, create_model("deit_small_patch16_224"))
    assert "The weights look like deit_tiny_patch16_224" in str(error.value)


@pytest.mark.parametrize("name", ["vit", "deit_distilled", "swin"])
def test_heads_are_left_out_where_the_model_has_none(golden, name):
    arrays = golden(name)
    arguments = arrays.arguments | {"num_classes": 0}
    headless = create_model(arguments.pop("arch"), **arguments)
    params = torch_import.load_torch_weights(arrays.weights, headless)
    stored = load_file(arrays.weights)
    imported = torch_import.to_torch_state(params)
    assert {name.split(".")[0] for name in stored.keys() - imported} <= {"head", "head_dist"}
    assert imported.keys() == constant_weights(headless).keys()
    for name, value in imported.items():
        np.testing.assert_array_equal(value, stored[name])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file .*gone"):
        torch_import.load_torch_weights(tmp_path / "gone.safetensors", MODEL)


def test_a_truncated_file_is_told(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        torch_import.load_torch_weights(path, MODEL)


def test_an_unknown_ending_is_told(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"ending in \.safetensors, \.pth, \.pt or \.bin"):
        torch_import.load_torch_weights(path, MODEL)


def test_an_address_of_the_hub_is_fetched(params, state, tmp_path, monkeypatch):
    save_file(state, tmp_path / "weights.safetensors")
    asked = []

    def fetch(address):
        asked.append(address)
        return tmp_path / "weights.safetensors"

    monkeypatch.setattr(torch_import.hub, "fetch", fetch)
    fetched = torch_import.load_torch_weights("hf://org/vit@v1", MODEL)
    jax.tree.map(np.testing.assert_array_equal, params, fetched)
    assert asked == ["hf://org/vit@v1"]


def original_swin(arrays):
    """A model, its weights, and those as a state dict of the original repository."""
    arguments = {name: value for name, value in arrays.arguments.items() if name != "arch"}
    model = create_model("swin", **arguments)
    expected = torch_import.load_torch_weights(arrays.weights, model)
    # Its merging of patches ends a stage, its classifier has no module around it, and what timm
    # computes is stored.
    original = {"layers.0.blocks.1.attn_mask": np.zeros((4, 49, 49), np.float32)}
    for name, value in load_file(arrays.weights).items():
        name = name.replace("layers.1.downsample", "layers.0.downsample")
        original[name.replace("head.fc.", "head.")] = value
    for stage, block in ((0, 0), (0, 1), (1, 0), (1, 1)):
        index = f"layers.{stage}.blocks.{block}.attn.relative_position_index"
        original[index] = np.zeros((49, 49), np.int64)
    return model, expected, original


def test_a_whole_swin_of_the_original_repository_is_imported(golden):
    model, expected, original = original_swin(golden("swin"))
    imported = torch_import.from_torch_state(original, model)
    jax.tree.map(np.testing.assert_array_equal, imported, expected)


def _bicubic(grid, size):
    """[rows, columns, channels], each channel resized as a picture of floats."""
    channels = [
        Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC)
        for channel in np.moveaxis(grid, -1, 0)
    ]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize(("name", "prefix"), [("vit", 1), ("deit_distilled", 2)])
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_position_embeddings_of_another_size_are_resized_as_pictures(name, prefix, old, new):
    small = {"patch_size": 1, "embed_dim": 3, "depth": 1, "num_heads": 1}
    before, after = (create_model(name, 0, img_size=size, **small) for size in (old, new))
    embedding = np.random.default_rng(0).normal(size=(1, prefix + old**2, 3)).astype(np.float32)
    params = torch_import.from_torch_state(
        constant_weights(before) | {"pos_embed": embedding}, after
    )
    imported = params["pos_embed"]
    np.testing.assert_array_equal(imported[:, :prefix], embedding[:, :prefix])
    expected = _bicubic(embedding[0, prefix:].reshape(old, old, 3), new)
    np.testing.assert_allclose(imported[0, prefix:].reshape(new, new, 3), expected, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_position_embeddings_without_a_prefix_are_resized_as_pictures(old, new):
    grid = np.random.default_rng(0).normal(size=(old, old, 3)).astype(np.float32)
    resampled = positions.resample(grid.reshape(1, -1, 3), new**2, num_prefix_tokens=0)
    np.testing.assert_allclose(resampled.reshape(new, new, 3), _bicubic(grid, new), atol=1e-5)


def test_swin_has_no_position_embeddings_to_resize(golden):
    model, _, original = original_swin(golden("swin"))
    with pytest.raises(ValueError, match=r"1 unexpected: pos_embed$"):
        torch_import.from_torch_state(original | {"pos_embed": np.zeros((1, 9, 16))}, model)


def test_position_embeddings_of_another_rank_are_a_mismatch(state):
    with pytest.raises(ValueError, match="pos_embed"):
        torch_import.from_torch_state(state | {"pos_embed": np.zeros(3, np.float32)}, MODEL)


def test_the_package_that_pickled_weights_need_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"anything")
    with pytest.raises(ValueError, match="pip install torch"):
        torch_import.load_torch_weights(path, MODEL)


class _Tensor:
    """What the importer needs of a PyTorch tensor."""

    def __init__(self, value):
        self.value = value

    def detach(self):
        return self

    def is_floating_point(self):
        return np.issubdtype(self.value.dtype, np.floating)

    def float(self):
        return _Tensor(np.asarray(self.value, np.float32))

    def numpy(self):
        return self.value


@pytest.fixture
def small():
    return create_model("vit", 0, img_size=4, patch_size=4, embed_dim=4, depth=1, num_heads=1)


@pytest.fixture
def small_state(small):
    return constant_weights(small, 1.0)


@pytest.fixture
def read(monkeypatch, tmp_path, small):
    """Imports what a stand-in for PyTorch claims to have read; also its `load`'s arguments."""
    path = tmp_path / "weights.pth"
    path.touch()

    def read(content):
        calls = []

        def load(path, **arguments):
            calls.append(arguments)
            return content

        torch = types.SimpleNamespace(load=load, is_tensor=lambda value: isinstance(value, _Tensor))
        monkeypatch.setitem(sys.modules, "torch", torch)
        return torch_import.load_torch_weights(path, small), calls

    return read


@pytest.mark.parametrize("nested", [False, True])
def test_pickled_weights_are_read_as_tensors_and_nothing_else(read, small_state, nested):
    tensors = {name: _Tensor(value) for name, value in small_state.items()}
    params, calls = read({"model": tensors, "epoch": 300} if nested else tensors)
    assert set(torch_import.to_torch_state(params)) == set(small_state)
    # Anything else in a pickle may run code.
    assert [call["weights_only"] for call in calls] == [True]


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 300}, {"model": {"rate": 0.1}}])
def test_pickles_without_a_state_dict_are_refused(read, content):
    with pytest.raises(ValueError, match="expected a state dict of tensors"):
        read(content)


@pytest.mark.parametrize("outer", ["state_dict", "model"])
def test_the_key_that_a_message_names_is_the_one_that_takes(monkeypatch, tmp_path, small, outer):
    path = tmp_path / "last.PTH"
    path.touch()
    state = {name: _Tensor(value) for name, value in constant_weights(small, 1.0).items()}
    content = {outer: {f"{key}.{name}": state[name] for key in ("model", "ema") for name in state}}
    torch = types.SimpleNamespace(
        load=lambda *_, **__: content, is_tensor=lambda value: isinstance(value, _Tensor)
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(ValueError, match="several models, below 'ema', 'model'"):
        torch_import.load_torch_weights(path, small)
    for key in ("model", "ema"):
        params = torch_import.load_torch_weights(path, small, key)
        assert set(torch_import.to_torch_state(params)) == set(state)
