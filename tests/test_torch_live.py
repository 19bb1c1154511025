"""Models of Hugging Face transformers, with random weights, against ours with the same weights."""

import jax
import numpy as np
import pytest

from maskaq_jax import torch_import
from maskaq_jax.models import create_model

torch = pytest.importorskip("torch", reason="needs the torch extra", exc_type=ImportError)
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # PyTorch's and transformers' own
]

COMMON = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 3}
COMMON |= {"intermediate_size": 64, "image_size": 16, "patch_size": 4, "hidden_act": "gelu"}
OURS = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]}
SWIN |= {"window_size": 4, "num_labels": 3}
OUR_SWIN = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]}
OUR_SWIN |= {"window_size": 4}


def _vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**COMMON))


def _deit():
    return transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**COMMON))


def _swin():
    return transformers.SwinForImageClassification(transformers.SwinConfig(**SWIN))


def _dinov2():
    config = {name: value for name, value in COMMON.items() if name != "intermediate_size"}
    return transformers.Dinov2Model(transformers.Dinov2Config(**config))


FAMILIES = {
    "vit": (_vit, lambda: create_model("vit", 3, **OURS)),
    "deit": (_deit, lambda: create_model("deit_distilled", 3, **OURS)),
    "swin": (_swin, lambda: create_model("swin", 3, **OUR_SWIN)),
    "dinov2": (_dinov2, lambda: create_model("vit", 0, init_values=1.0, **OURS)),
}


@pytest.fixture(params=FAMILIES)
def models(request):
    torch.manual_seed(0)
    theirs, ours = (make() for make in FAMILIES[request.param])
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return theirs.eval(), ours


def _assert_same_outputs(theirs, ours, params):
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        output = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    expected = output.logits if hasattr(output, "logits") else output.pooler_output
    logits, _ = jax.jit(ours.apply)({"params": params}, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_saved_models_are_imported(models, tmp_path):
    theirs, ours = models
    theirs.save_pretrained(tmp_path)
    params = torch_import.load_torch_weights(tmp_path / "model.safetensors", ours)
    _assert_same_outputs(theirs, ours, params)


def test_pickled_states_are_imported(models, tmp_path):
    theirs, ours = models
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    params = torch_import.load_torch_weights(tmp_path / "pytorch_model.bin", ours)
    _assert_same_outputs(theirs, ours, params)
