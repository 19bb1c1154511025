"""What the speed is measured against computes the same: our PyTorch steps against our losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, regions
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.step import FinetuningSettings
from maskaq_jax.models import Quantization, create_model
from maskaq_jax.synthesis import terms as synthesis_terms
from maskaq_jax.synthesis.terms import SynthesisBatch

pytest.importorskip("torch", reason="needs the torch extra")
from benchmarks import torch_losses, torch_model, torch_steps

pytestmark = pytest.mark.torch

# At most 64 patches, so that the entropy draws none.
MODEL = create_model(
    "vit", 5, Quantization(3, 3), img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3
)
VERSIONS = [torch_steps.ORIGINAL, torch_steps.TUNED]
RATIO = 0.3


@pytest.fixture(scope="module")
def problem():
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    params = MODEL.clone(quantization=None).init(jax.random.key(1), images)["params"]
    # Larger weights than the initial ones, so that every term counts.
    params = jax.tree.map(lambda leaf: 2 * leaf, params)
    quant = calibration.calibrate(MODEL, params, images)
    return np.asarray(images), params, {"params": params, "quant": quant}


def _torch_inputs(images, params, variables, version):
    import torch

    pixels = torch.tensor(np.moveaxis(images, -1, 1)).requires_grad_()
    return (
        pixels,
        torch_model.load(params, {}, None, version.is_frozen),
        torch_model.load(params, variables["quant"], 3, version.is_frozen),
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_synthesis_has_the_same_terms_and_gradient(problem, version):
    import torch

    images, params, variables = problem
    labels = np.arange(4) % 5
    weights = synthesis_terms.LossWeights()
    batch = SynthesisBatch(jnp.arange(4), jnp.asarray(labels), params, variables)

    def loss(pixels):
        terms = synthesis_terms.model_terms(
            MODEL, weights, batch, pixels, RATIO, 0.0, jax.random.key(2)
        ) | synthesis_terms.image_terms(weights, pixels)
        return sum(terms.values()), terms

    gradient, expected = jax.grad(loss, has_aux=True)(jnp.asarray(images))
    pixels, p, q = _torch_inputs(images, params, variables, version)
    terms = torch_steps.synthesis_loss(
        MODEL, version, p, q, pixels, pixels, torch.tensor(labels), RATIO, drop_rate=0.0
    )
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        np.testing.assert_allclose(value.detach(), float(expected[name]), rtol=2e-4, err_msg=name)
    sum(terms.values()).backward()
    found = np.moveaxis(pixels.grad.numpy(), 1, -1)
    np.testing.assert_allclose(found, gradient, atol=2e-3 * np.abs(gradient).max())


@pytest.mark.parametrize("version", VERSIONS)
def test_finetuning_has_the_same_terms(problem, version):
    images, params, variables = problem
    moved = variables | {"params": jax.tree.map(lambda leaf: 1.1 * leaf, params)}
    expected = finetuning.loss_terms(MODEL, FinetuningSettings(), params, moved, images)
    pixels, p, _ = _torch_inputs(images, params, variables, version)
    q = torch_model.load(moved["params"], moved["quant"], 3, is_frozen=False)
    terms = torch_steps.finetuning_loss(MODEL, version, p, q, pixels)
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        np.testing.assert_allclose(value.detach(), float(expected[name]), rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("version", VERSIONS)
def test_bfloat16_has_nearly_the_same_terms(problem, version):
    import torch

    images, params, variables = problem
    labels = torch.tensor(np.arange(4) % 5)

    def terms_in(dtype):
        pixels = torch.tensor(np.moveaxis(images, -1, 1))
        p = torch_model.load(params, {}, None, version.is_frozen, dtype)
        q = torch_model.load(params, variables["quant"], 3, version.is_frozen, dtype)
        kept = dtype if version.is_frozen else torch.float32
        assert {leaf.dtype for leaf in p.params.values()} == {kept}
        return torch_steps.synthesis_loss(
            MODEL, version, p, q, pixels, pixels, labels, RATIO, drop_rate=0.0
        )

    exact = terms_in(torch.float32)
    terms = terms_in(torch.bfloat16)
    # A code of 3 bits that is another one moves the coupling by a tenth.
    tolerances = dict.fromkeys(terms, 0.02) | {"coupling": 0.2}
    for name, value in terms.items():
        assert value.dtype == torch.float32
        found, expected = value.item(), exact[name].item()
        assert abs(found - expected) < tolerances[name] * abs(expected), name
        assert found != expected or name == "total_variation"


def test_regions_are_the_same():
    import torch

    scores = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32)
    # Scores of patches are the logits by which the class token reads them.
    logits = jnp.zeros((1, 3, 1, 21, 21)).at[0, :, 0, 0, 1:].set(scores)
    ours = regions.informative_regions(logits, RATIO)
    np.testing.assert_array_equal(torch_losses.regions(torch.tensor(scores), RATIO), ours)
