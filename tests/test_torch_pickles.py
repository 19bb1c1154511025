"""Weights that PyTorch pickled, and what only looks like them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from tests.test_torch_import import original_swin

torch = pytest.importorskip("torch", reason="needs the torch extra", exc_type=ImportError)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]  # PyTorch's own

MODEL = create_model("vit", 3, img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


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
