"""The fit of layers covers whatever a ViT has beside its blocks."""

import jax
import jax.numpy as jnp
import pytest

from maskaq_jax import calibration
from maskaq_jax.models import Quantization, create_model

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
VARIANTS = {
    "siglip": {"global_pool": "map", "class_token": False},
    "registers": {
        "pre_norm": True,
        "reg_tokens": 2,
        "no_embed_class": True,
        "qk_norm": True,
        "init_values": 0.1,
    },
    "averaged": {"global_pool": "avg", "qkv_bias": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["siglip", "registers", "averaged"])
def test_eight_bits_change_little(variant):
    quantization = Quantization(8, 8, keeps_grids=True)
    model = create_model("vit", 3, quantization, **TINY, **VARIANTS[variant])
    model_p = model.clone(quantization=None)
    images = jax.random.normal(jax.random.key(0), (24, 16, 16, 3))
    params = jax.jit(model_p.init)(jax.random.key(1), images)["params"]
    settings = calibration.CalibrationSettings(ranges="least_squares", num_views=24)
    variables = calibration.fit(model, params, images, settings, jax.random.key(2))
    expected, _ = jax.jit(model_p.apply)({"params": params}, images)
    logits, _ = jax.jit(model.apply)(variables, images)
    assert jnp.abs(logits - expected).mean() < 0.05 * jnp.abs(expected).mean()
