"""More bits for what costs most, and for nothing else."""

from maskaq_jax import sensitivity
from maskaq_jax.models import Quantization
from maskaq_jax.sensitivity import TensorLoss


def _losses(*costly, bits=4, num_cheap=40):
    cheap = [TensorLoss(f"cheap_{i}", "weight", bits, 100.0, 1e-4) for i in range(num_cheap)]
    return [TensorLoss(layer, tensor, bits, 50.0, loss) for layer, tensor, loss in costly] + cheap


def test_the_first_that_make_up_half_of_the_loss_get_eight_bits():
    losses = _losses(
        ("blocks_2.mlp.fc2", "activation", 0.4), ("head", "weight", 0.3), ("x", "weight", 0.2)
    )
    suggested = sensitivity.suggest_rules(losses, Quantization(4, 3))
    assert suggested == "blocks_2.mlp.fc2=4x8,head=8x3"


def test_both_tensors_of_a_layer_go_into_one_rule():
    losses = _losses(("head", "activation", 0.4), ("head", "weight", 0.4), ("x", "weight", 0.1))
    assert sensitivity.suggest_rules(losses, Quantization(4, 4)) == "head=8x8"


def test_no_more_than_a_tenth_of_the_tensors():
    losses = [TensorLoss(f"layer_{i}", "weight", 4, 90.0, 0.1) for i in range(20)]
    assert sensitivity.suggest_rules(losses, Quantization(4, 4)) == "layer_0=8x4,layer_1=8x4"


def test_rules_there_are_stay():
    quantization = Quantization(4, 4, rules="head=6x6,neck=32x32")
    losses = _losses(("head", "weight", 0.4))
    assert sensitivity.suggest_rules(losses, quantization) == "head=8x6,neck=32x32"


def test_nothing_is_suggested_at_eight_bits():
    losses = _losses(("head", "weight", 0.4), bits=8)
    assert sensitivity.suggest_rules(losses, Quantization(8, 8)) == ""
