"""PyTorch's own files, read through a stand-in: PyTorch is no dependency of the tests."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import torch_import
from maskaq_jax.models import create_model


class _Tensor:
    """What the importer needs of a PyTorch tensor."""

    def __init__(self, value):
        self.value = value

    def float(self):
        return _Tensor(np.asarray(self.value, np.float32))

    def numpy(self):
        return self.value


@pytest.fixture
def model():
    return create_model("vit", 0, img_size=4, patch_size=4, embed_dim=4, depth=0, num_heads=1)


@pytest.fixture
def state(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    return torch_import.to_torch_state(jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes))


@pytest.fixture
def read(monkeypatch, tmp_path, model):
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
        return torch_import.load_torch_weights(path, model), calls

    return read


@pytest.mark.parametrize("nested", [False, True])
def test_pickled_weights_are_read_as_tensors_and_nothing_else(read, state, nested):
    tensors = {name: _Tensor(value) for name, value in state.items()}
    params, calls = read({"model": tensors, "epoch": 300} if nested else tensors)
    assert set(torch_import.to_torch_state(params)) == set(state)
    # Anything else in a pickle may run code.
    assert [call["weights_only"] for call in calls] == [True]


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 300}, {"model": {"rate": 0.1}}])
def test_pickles_without_a_state_dict_are_refused(read, content):
    with pytest.raises(ValueError, match="expected a state dict of tensors"):
        read(content)
