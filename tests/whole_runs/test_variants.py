"""Whole runs of ViTs with other pooling, tokens and norms than the first ones had."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import maskaq_jax
from maskaq_jax import run
from maskaq_jax.models import create_model
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings

NO_TOKEN = {"class_token": False}
VARIANTS = {
    "siglip": {"global_pool": "map", "act_layer": "gelu_tanh"} | NO_TOKEN,
    "all at once": {"global_pool": "avg", "qkv_bias": False, "reg_tokens": 2, "qk_norm": True}
    | {"no_embed_class": True, "init_values": 0.1, "pre_norm": True, "act_layer": "quick_gelu"},
}


def _run(settings, arguments, workdir):
    arguments = tiny.ARGUMENTS | arguments
    weights = workdir.parent / "weights.safetensors"
    tiny.save_random_weights(create_model("vit", 10, **arguments), weights)
    settings = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, arguments=arguments, weights=str(weights)),
        samples=dataclasses.replace(settings.samples, num_samples=8, refresh_every=0),
        synthesis=dataclasses.replace(settings.synthesis, num_steps=2),
        finetuning=dataclasses.replace(settings.finetuning, epochs=1),
    )
    return run.run(tiny.prepare(settings, workdir))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_goes_from_weights_to_a_low_bit_model(settings, variant, tmp_path):
    results = _run(settings, VARIANTS[variant], tmp_path / "run")
    assert results["quantized_top1"] is not None
    model, variables = maskaq_jax.load(tmp_path / "run")
    Image.new("RGB", (40, 30), (200, 100, 0)).save(tmp_path / "0.png")
    images = maskaq_jax.read_images(tmp_path / "run", [tmp_path / "0.png"])
    logits, _ = model.apply(variables, images)
    assert logits.shape == (1, 10)
    assert np.isfinite(logits).all()
    # Every dense layer that a site names has its quantizers, and no other.
    sites = {(*site.path, site.name) for site in model.head_sites()}
    sites |= {(*part.path, *site.path, site.name) for part in model.parts() for site in part.sites}
    flat = jax.tree_util.tree_flatten_with_path(
        variables["quant"], is_leaf=lambda leaf: hasattr(leaf, "zero_point")
    )[0]
    found = {tuple(key.key for key in path) for path, leaf in flat if hasattr(leaf, "zero_point")}
    assert found == sites
