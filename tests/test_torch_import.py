import sys
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from maskaq_jax import torch_import
from maskaq_jax.models import Quantization, create_model

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}


def _describe(tree):
    """Shapes, types and values of a tree, with the path of each leaf."""
    return {
        jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype), leaf.tobytes())
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _architecture(reference):
    return {name: value for name, value in reference.arguments.items() if name != "arch"}


@pytest.fixture(scope="module")
def model():
    return create_model("vit", 5, **TINY)


@pytest.fixture(scope="module")
def params(model):
    image = np.zeros((1, *model.input_shape), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda leaf: draw(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture
def state(params):
    """A state dict the test may spoil."""
    return {name: value.copy() for name, value in torch_import.to_torch_state(params).items()}


@pytest.fixture
def weights(tmp_path, state):
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    return path


def test_parameters_survive_the_way_there_and_back(model, params, state):
    assert _describe(torch_import.from_torch_state(state, model)) == _describe(params)


@pytest.mark.parametrize(
    ("name", "family", "overrides"),
    [
        ("vit", "vit", {}),
        ("deit_distilled", "deit_distilled", {}),
        ("vit_layerscale", "vit", {"init_values": 1.0}),
    ],
)
def test_a_timm_file_survives_the_way_here_and_back(golden, name, family, overrides):
    reference = golden(name)
    model = create_model(family, **_architecture(reference), **overrides)
    here = torch_import.load_torch_weights(reference.weights, model)
    assert _describe(torch_import.to_torch_state(here)) == _describe(load_file(reference.weights))


def test_names_and_layouts_are_timms(params):
    state = torch_import.to_torch_state(params)
    assert state["patch_embed.proj.weight"].shape == (8, 3, 4, 4)  # OIHW
    assert state["blocks.0.attn.qkv.weight"].shape == (24, 8)  # (out, in)
    assert state["blocks.0.norm1.weight"].shape == (8,)
    assert state["head.bias"].shape == (5,)
    # PyTorch and safetensors keep a tensor's memory as it is: a transposed view would be garbled.
    assert all(value.flags.c_contiguous for value in state.values())


def test_a_quantized_model_takes_the_same_file(model, params, weights):
    quantized = model.clone(quantization=Quantization(3, 3))
    loaded = torch_import.load_torch_weights(weights, quantized)
    assert _describe(loaded) == _describe(params)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_another_precision_become_float32(tmp_path, model, state, dtype):
    path = tmp_path / "weights.safetensors"
    save_file({name: value.astype(dtype) for name, value in state.items()}, path)
    leaves = jax.tree.leaves(torch_import.load_torch_weights(path, model))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_missing_weights_are_counted_and_named(model, state):
    for name in ("head.bias", "head.weight"):
        del state[name]
    with pytest.raises(ValueError, match=r"2 missing: head\.bias, head\.weight$"):
        torch_import.from_torch_state(state, model)


def test_unexpected_weights_are_counted_and_only_the_first_are_named(model, state):
    state |= {f"blocks.{i}.norm1.bias": np.zeros(8, np.float32) for i in range(1, 6)}
    named = r"blocks\.1\.norm1\.bias, blocks\.2\.norm1\.bias, blocks\.3\.norm1\.bias, \.\.\.$"
    with pytest.raises(ValueError, match=rf"5 unexpected: {named}"):
        torch_import.from_torch_state(state, model)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("head.weight", (8, 5), (5, 8)),
        ("head.weight", (5, 8, 1, 1), (5, 8)),
        ("patch_embed.proj.weight", (8, 3, 2, 2), (8, 3, 4, 4)),
        ("pos_embed", (1, 17, 8), (1, 5, 8)),
    ],
)
def test_misshapen_weights_are_reported_with_both_shapes(model, state, name, shape, expected):
    state[name] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match="1 of another shape") as error:
        torch_import.from_torch_state(state, model)
    assert f"{name} is {shape}, expected {expected}" in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(model, state, value):
    state["norm.bias"][3] = value
    with pytest.raises(ValueError, match=r"1 with NaN or infinite values: norm\.bias"):
        torch_import.from_torch_state(state, model)


def test_every_kind_of_mismatch_is_reported_at_once(model, state):
    del state["head.bias"]
    state["extra"] = np.zeros(1, np.float32)
    state["norm.weight"] = np.zeros(9, np.float32)
    state["norm.bias"][0] = np.nan
    with pytest.raises(ValueError, match=r"^my file does not fit the model: ") as error:
        torch_import.from_torch_state(state, model, source="my file")
    for part in ("1 missing: head.bias", "1 unexpected: extra", "norm.weight is (9,)", "norm.bias"):
        assert part in str(error.value)


def test_weights_of_another_architecture_name_their_file(golden, model):
    path = golden("vit").weights
    with pytest.raises(ValueError, match="does not fit the model") as error:
        torch_import.load_torch_weights(path, model)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("keep", [0, 5, 100, -1], ids=["empty", "no header", "header cut", "end"])
def test_a_truncated_file_is_refused(model, weights, keep):
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a readable safetensors"):
        torch_import.load_torch_weights(weights, model)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip archive", b"<html>404</html>", b"\0" * 64])
def test_a_file_that_holds_no_weights_is_refused(model, weights, content):
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        torch_import.load_torch_weights(weights, model)


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file .*nowhere\.safetensors"):
        torch_import.load_torch_weights(tmp_path / "nowhere.safetensors", model)


def test_a_directory_is_no_weight_file(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weight file"):
        torch_import.load_torch_weights(tmp_path, model)


def test_an_unknown_suffix_is_refused_with_those_known(model, tmp_path):
    path = tmp_path / "weights.npz"
    path.touch()
    with pytest.raises(ValueError, match=r"expected .* \.safetensors, \.pth, \.pt or \.bin"):
        torch_import.load_torch_weights(path, model)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_without_torch_its_files_say_what_to_install(model, tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / f"weights{suffix}"
    path.touch()
    with pytest.raises(ValueError, match=r"pip install 'maskaq_jax\[torch\]'"):
        torch_import.load_torch_weights(path, model)


class _Tensor:
    """What the importer needs of a PyTorch tensor."""

    def __init__(self, value):
        self.value = value

    def float(self):
        return _Tensor(np.asarray(self.value, np.float32))

    def numpy(self):
        return self.value


@pytest.fixture
def fake_torch(monkeypatch):
    """PyTorch whose file is the value its test puts in `content`."""
    torch = types.SimpleNamespace(content=None, calls=[])

    def load(path, **arguments):
        torch.calls.append(arguments)
        if isinstance(torch.content, Exception):
            raise torch.content
        return torch.content

    torch.load = load
    torch.is_tensor = lambda value: isinstance(value, _Tensor)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


@pytest.fixture
def pickled(tmp_path):
    path = tmp_path / "weights.pth"
    path.touch()
    return path


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "under 'model'"])
def test_a_torch_file_is_read_as_tensors_only(model, params, state, pickled, fake_torch, nested):
    tensors = {name: _Tensor(value) for name, value in state.items()}
    fake_torch.content = {"model": tensors, "epoch": 300} if nested else tensors
    loaded = torch_import.load_torch_weights(pickled, model)
    assert _describe(loaded) == _describe(params)
    # An unpickled file may run any code.
    assert [call["weights_only"] for call in fake_torch.calls] == [True]


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 300}, {"model": {"lr": 0.1}}])
def test_a_torch_file_without_a_state_dict_is_refused(model, pickled, fake_torch, content):
    fake_torch.content = content
    with pytest.raises(ValueError, match="expected a state dict of tensors"):
        torch_import.load_torch_weights(pickled, model)


def test_a_torch_file_that_torch_refuses_is_named(model, pickled, fake_torch):
    fake_torch.content = RuntimeError("invalid magic number")
    with pytest.raises(ValueError, match=r"weights\.pth is not a readable .*invalid magic number"):
        torch_import.load_torch_weights(pickled, model)


def test_pytorchs_own_files_are_read(model, params, state, pickled):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
    torch.save(tensors, pickled)
    assert _describe(torch_import.load_torch_weights(pickled, model)) == _describe(params)
