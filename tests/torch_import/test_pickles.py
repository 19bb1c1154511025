"""Weights that PyTorch pickled, and what only looks like them."""

import json

import jax
import numpy as np
import pytest

from maskaq_jax import torch_import
from tests.torch_import.conftest import MODEL
from tests.torch_import.test_convert import original_swin

torch = pytest.importorskip("torch", reason="needs the torch extra", exc_type=ImportError)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # PyTorch's own


@pytest.fixture
def tensors(params):
    state = torch_import.to_torch_state(params)
    return {name: torch.tensor(array) for name, array in state.items()}


@pytest.fixture
def load(tmp_path):
    """Saves by PyTorch, changes the file's bytes, and imports it."""

    def load(content, model=MODEL, change=lambda written: written):
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        path.write_bytes(change(path.read_bytes()))
        return torch_import.load_torch_weights(path, model)

    return load


def test_parameters_are_read_as_tensors(params, tensors, load):
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    jax.tree.map(np.testing.assert_array_equal, load(parameters), params)


def test_a_whole_swin_of_the_original_repository_is_read(golden, load):
    model, expected, original = original_swin(golden("swin"))
    state = {name: torch.tensor(array) for name, array in original.items()}
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}
    imported = load({"model": state, "epoch": 300}, model)
    jax.tree.map(np.testing.assert_array_equal, imported, expected)


OTHERS = {"optimizer": {"state": {0: {"step": torch.ones(1)}}}, "epoch": 3}


def _shifted(tensors):
    return {name: tensor + 1 for name, tensor in tensors.items()}


@pytest.mark.parametrize("content", ["teacher", "model_ema", "ema.state_dict", "state_dict_ema"])
def test_keys_that_are_there_are_named_and_one_can_be_taken(params, tensors, tmp_path, content):
    outer, _, inner = content.partition(".")
    stored = OTHERS | {outer: {inner: tensors} if inner else tensors}
    path = tmp_path / "checkpoint.pth"
    torch.save(stored, path)
    with pytest.raises(ValueError, match="expected a state dict of tensors") as refusal:
        torch_import.load_torch_weights(path, MODEL)
    assert f"name one by config.model.weights_key, of '{content}'" in str(refusal.value)
    imported = torch_import.load_torch_weights(path, MODEL, content)
    jax.tree.map(np.testing.assert_array_equal, imported, params)
    with pytest.raises(ValueError, match=r"nothing under config\.model\.weights_key 'student'"):
        torch_import.load_torch_weights(path, MODEL, "student")


def test_of_usual_keys_and_others_the_usual_one_is_taken_and_that_is_said(
    params, tensors, tmp_path
):
    path, told = tmp_path / "last.ckpt", []
    torch.save(OTHERS | {"model": tensors, "model_ema": _shifted(tensors)}, path)
    imported = torch_import.load_torch_weights(path, MODEL, tell=told.append)
    jax.tree.map(np.testing.assert_array_equal, imported, params)
    assert any("config.model.weights_key can name 'model_ema' instead" in line for line in told)
    imported = torch_import.load_torch_weights(path, MODEL, "model_ema")
    np.testing.assert_array_equal(imported["head"]["bias"], params["head"]["bias"] + 1)


def test_a_checkpoint_of_lightning_is_read(params, tensors, tmp_path):
    path = tmp_path / "epoch=3.ckpt"
    state = {f"model.{name}": tensor for name, tensor in tensors.items()}
    torch.save(OTHERS | {"state_dict": state, "pytorch-lightning_version": "2.0"}, path)
    imported = torch_import.load_torch_weights(path, MODEL)
    jax.tree.map(np.testing.assert_array_equal, imported, params)


def test_weights_in_several_pickles_are_read_by_their_index(params, tensors, tmp_path):
    names = sorted(tensors)
    parts = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, part in parts.items():
        torch.save({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    imported = torch_import.load_torch_weights(tmp_path, MODEL)
    jax.tree.map(np.testing.assert_array_equal, imported, params)


class _Attack:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_would_run_code_does_not(load, tmp_path):
    with pytest.raises(ValueError, match=r"weights\.pth is no file of tensors alone") as refusal:
        load({"head.weight": _Attack(str(tmp_path / "attacked"))})
    assert "could run code" in str(refusal.value)
    assert "weights_only" not in str(refusal.value)  # as PyTorch advises to switch off
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda written: b"",
        lambda written: written[:10],
        lambda written: written[: len(written) // 2],
        lambda written: written[:-10],
        lambda written: b"no weights at all",
        lambda written: bytes(256),
        lambda written: b"PK\x03\x04" + bytes(256),
    ],
    ids=["empty", "start", "half", "end missing", "text", "zeros", "no archive"],
)
def test_a_file_that_is_broken_is_named(tensors, load, change):
    with pytest.raises(ValueError, match=r"weights\.pth is ") as refusal:
        load(tensors, change=change)
    assert "weights_only" not in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_codes_without_their_scales_are_no_weights(tensors, load, dtype):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"1 that are no real numbers.*: head\.weight is {name}"):
        load(tensors | {"head.weight": tensors["head.weight"].to(dtype)})
