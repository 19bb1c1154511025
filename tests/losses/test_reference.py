"""Losses against the numbers of the reference implementation, in `tests/golden/`."""

import jax
import jax.numpy as jnp
import pytest

from maskaq_jax import losses


@pytest.fixture(scope="module")
def vit(golden):
    arrays = golden("losses_vit").arrays
    return {name: jnp.asarray(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize(
    ("loss", "expected", "gradient"),
    [
        (losses.inter_head_similarity_loss, "inter_head_ssim_loss", "inter_head_ssim_grad"),
        (losses.patch_similarity_entropy_loss, "entropy_loss", "entropy_grad"),
    ],
)
def test_losses_of_attention_agree_with_the_reference(vit, close, loss, expected, gradient):
    value, slope = jax.value_and_grad(loss)(vit["logits_p"])
    close(value, vit[expected])
    close(slope, vit[gradient], 1e-3)


@pytest.mark.parametrize("ratio", ["0.5", "0.3", "0.1"])
def test_coupling_agrees_with_the_reference(vit, close, ratio):
    value, (slope_p, slope_q) = jax.value_and_grad(losses.masked_attention_loss, (0, 1))(
        vit["logits_p"], vit["logits_q"], vit[f"mask_{ratio}"]
    )
    close(value, vit[f"coupling_loss_{ratio}"])
    close(slope_p, vit[f"coupling_grad_p_{ratio}"], 1e-3)
    close(slope_q, vit[f"coupling_grad_q_{ratio}"], 1e-3)


def test_total_variation_agrees_with_the_reference(vit, close):
    value, slope = jax.value_and_grad(losses.total_variation_loss)(vit["images"])
    close(value, vit["tv_loss"])
    close(slope, vit["tv_grad"], 1e-3)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_distillation_agrees_with_the_reference(vit, close, temperature):
    value, slope = jax.value_and_grad(losses.distillation_loss)(
        vit["kd_student"], vit["kd_teacher"], temperature
    )
    close(value, vit[f"kd_loss_T{temperature}"])
    close(slope, vit[f"kd_grad_T{temperature}"], 1e-3)


def test_attention_distillation_agrees_with_the_reference(vit, close):
    loss = losses.masked_attention_distillation_loss
    value, slope = jax.value_and_grad(loss, 1)(vit["attn_out_p"], vit["attn_out_q"])
    close(value, vit["distill_ssim_loss"])
    close(slope, vit["distill_ssim_grad_q"], 1e-3)
    for distance in ("mse", "l1", "kl"):
        close(
            loss(vit["attn_out_p"], vit["attn_out_q"], distance=distance),
            vit[f"distill_{distance}_loss"],
        )


def test_important_patches_agree_with_the_reference(vit):
    # With weight on the important patches alone, the others' outputs don't matter.
    important = vit["distill_mask"][:, :, None, :, None]
    loss = losses.masked_attention_distillation_loss
    target = vit["attn_out_p"]
    noise = jnp.pad(1 - important, [(0, 0)] * 3 + [(1, 0), (0, 0)])
    assert loss(target, target + noise, high=1.0, low=0.0, distance="l1") < 1e-5
    assert loss(target, target + 1 - noise, high=1.0, low=0.0, distance="l1") > 0.5


def test_losses_of_windows_agree_with_the_reference(golden, close):
    arrays = golden("losses_swin")

    def layers(name):
        return [jnp.asarray(arrays[f"{name}_{i}"]) for i in range(2)]

    value, slopes = jax.value_and_grad(losses.inter_head_similarity_loss)(layers("logits_p"), 0)
    close(value, arrays["inter_head_ssim_loss"])
    for slope, expected in zip(slopes, layers("inter_head_ssim_grad"), strict=True):
        close(slope, expected, 1e-3)

    value, slopes = jax.value_and_grad(losses.masked_attention_distillation_loss, 1)(
        layers("attn_out_p"), layers("attn_out_q"), 0
    )
    close(value, arrays["distill_ssim_loss"])
    for slope, expected in zip(slopes, layers("distill_ssim_grad_q"), strict=True):
        close(slope, expected, 1e-3)
