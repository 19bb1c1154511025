"""Models of timm, with random weights, against ours with the same weights."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from maskaq_jax import torch_import
from maskaq_jax.models import create_model, model_names
from tests import live
from tests.models.test_registry import PARAMETERS

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # PyTorch's and timm's own
]

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
NO_TOKEN = {"class_token": False}
REGISTERS = {"reg_tokens": 3}
VARIANTS = {
    "token": {},
    "avg": {"global_pool": "avg"},
    "avg without fc_norm": {"global_pool": "avg", "fc_norm": False},
    "token with fc_norm": {"fc_norm": True},
    "no class token": {"global_pool": "avg"} | NO_TOKEN,
    "no class token without fc_norm": {"global_pool": "avg", "fc_norm": False} | NO_TOKEN,
    "registers": REGISTERS,
    "registers behind positions": {"no_embed_class": True} | REGISTERS,
    "registers alone": {"global_pool": "avg"} | NO_TOKEN | REGISTERS,
    "averaged behind registers": {"global_pool": "avg"} | REGISTERS,
    "deit3": {"no_embed_class": True, "init_values": 0.1},
    "no bias": {"qkv_bias": False},
    "qk_norm": {"qk_norm": True},
    "qk_norm without bias": {"qk_norm": True, "qkv_bias": False, "init_values": 0.1},
    "clip": {"pre_norm": True, "layer_norm_eps": 1e-5},
    "openai": {"pre_norm": True, "layer_norm_eps": 1e-5, "act_layer": "quick_gelu"},
    "siglip": {"global_pool": "map"} | NO_TOKEN,
    "map behind a class token": {"global_pool": "map", "act_layer": "gelu_tanh"},
    "map of normalised queries": {"global_pool": "map", "qkv_bias": True} | NO_TOKEN | REGISTERS,
    "relu": {"act_layer": "relu"},
    "silu": {"act_layer": "silu"},
    "tanh": {"act_layer": "gelu_tanh"},
    "an epsilon that matters": {"layer_norm_eps": 0.1},
    "patches of 8": {"patch_size": 8},
    "a patch": {"patch_size": 16, "mlp_ratio": 2.5},
}


def _timm(num_classes, **arguments):
    """timm's model of the same arguments, with random weights."""
    timm = live.import_or_skip("timm")
    import torch

    epsilon = arguments.pop("layer_norm_eps", 1e-6)
    name = "vit_tiny_patch16_224"
    norm = timm.layers.LayerNorm
    arguments["norm_layer"] = lambda size, **keywords: norm(size, eps=epsilon, **keywords)
    model = timm.create_model(name, num_classes=num_classes, **arguments)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("num_classes", [3, 0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_are_timms(variant, num_classes, tmp_path):
    arguments = TINY | VARIANTS[variant]
    theirs = _timm(num_classes, **arguments)
    import torch

    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    ours = create_model("vit", num_classes, **arguments)
    params = torch_import.load_torch_weights(tmp_path / "weights.safetensors", ours)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits, out = jax.jit(ours.apply)({"params": params}, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    assert torch_import.to_torch_state(params).keys() == state.keys()
    assert out["features"].shape == (2, 16)


@pytest.mark.parametrize(
    "name",
    [name for name in model_names() if "_patch" in name and "linear_seg" not in name],
)
def test_names_stand_for_what_they_do_in_timm(name):
    timm = live.import_or_skip("timm")
    if "swin" in name:
        pytest.skip("buffers of other sizes")
    import torch

    with torch.device("meta"):
        theirs = timm.create_model(name)
    ours = create_model(name)
    shapes = jax.eval_shape(
        ours.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *ours.input_shape), np.float32)
    )["params"]
    flat = torch_import.to_torch_state(
        jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    )
    expected = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    expected.pop("mask_token", None)
    assert {key: value.shape for key, value in flat.items()} == expected
    assert sum(map(np.prod, expected.values())) == PARAMETERS[name]
    assert ours.num_heads == theirs.blocks[0].attn.num_heads
    assert ours.layer_norm_eps == theirs.blocks[0].norm1.eps
    kind = {"GELU": "gelu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_tanh"}
    assert ours.act_layer == kind[type(theirs.blocks[0].mlp.act).__name__]
    if not ours.distilled:
        assert ours.global_pool == theirs.global_pool
        assert ours.patches.num_before == theirs.num_prefix_tokens
