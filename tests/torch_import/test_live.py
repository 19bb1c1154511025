"""Models of Hugging Face transformers, with random weights, against ours with the same weights."""

import jax
import numpy as np
import pytest

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from tests import live

torch = pytest.importorskip("torch", reason="needs the torch extra", exc_type=ImportError)
transformers = live.import_or_skip("transformers")

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


def _vit_of_relu():
    config = COMMON | {"hidden_act": "relu", "layer_norm_eps": 0.01, "qkv_bias": False}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**config))


def _registers():
    config = {name: value for name, value in COMMON.items() if name != "intermediate_size"}
    config = transformers.Dinov2WithRegistersConfig(num_register_tokens=3, **config)
    return transformers.Dinov2WithRegistersModel(config)


def _clip():
    config = COMMON | {"hidden_act": "quick_gelu", "projection_dim": 3}
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config))


def _clip_tower():
    config = COMMON | {"hidden_act": "gelu"}
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**config))


def _siglip():
    config = COMMON | {"hidden_act": "gelu_pytorch_tanh"}
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**config))


CLIP = {"pre_norm": True, "layer_norm_eps": 1e-5}
SIGLIP = {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"}
RELU = {"act_layer": "relu", "layer_norm_eps": 0.01, "qkv_bias": False}
REGISTERS = {"reg_tokens": 3, "no_embed_class": True, "init_values": 1.0}
FAMILIES = {
    "vit": (_vit, lambda: create_model("vit", 3, **OURS)),
    "vit of relu": (_vit_of_relu, lambda: create_model("vit", 3, **OURS, **RELU)),
    "registers": (_registers, lambda: create_model("vit", 0, **OURS, **REGISTERS)),
    "clip": (
        _clip,
        lambda: create_model("vit", 3, **OURS, **CLIP, act_layer="quick_gelu"),
    ),
    "clip tower": (_clip_tower, lambda: create_model("vit", 0, **OURS, **CLIP)),
    "siglip": (_siglip, lambda: create_model("vit", 0, **OURS, **SIGLIP)),
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
    names = ("logits", "image_embeds", "pooler_output")
    expected = next(output[name] for name in names if name in output)
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


def test_what_lies_beside_a_saved_model_is_compared(tmp_path):
    _vit_of_relu().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"config\.json beside the weights says otherwise"
    ) as refusal:
        torch_import.load_torch_weights(tmp_path, create_model("vit", 3, **OURS))
    for field in ("hidden_act is 'relu'", "layer_norm_eps is 0.01", "qkv_bias is False"):
        assert field in str(refusal.value)


def test_a_masked_autoencoder_gives_its_encoder(tmp_path):
    """Its encoder shuffles patches, which no output but the class token's is the same for."""
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        **COMMON,
        mask_ratio=0.0,
        decoder_num_hidden_layers=1,
        decoder_hidden_size=8,
        decoder_num_attention_heads=2,
    )
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    ours = create_model("vit", 0, **OURS)
    params = torch_import.load_torch_weights(tmp_path, ours)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        expected = theirs.vit(pixels).last_hidden_state[:, 0]
    features, _ = jax.jit(ours.apply)({"params": params}, images)
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


def test_a_vit_of_torchvision_is_imported():
    torchvision = live.import_or_skip("torchvision")
    torch.manual_seed(0)
    theirs = torchvision.models.VisionTransformer(16, 4, 2, 2, 16, 64, num_classes=3).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    ours = create_model("vit", 3, **OURS)
    params = torch_import.from_torch_state(state, ours)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    logits, _ = jax.jit(ours.apply)({"params": params}, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
