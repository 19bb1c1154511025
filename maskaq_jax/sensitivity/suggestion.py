"""Rules that give more bits to the few tensors that lose most."""

from collections.abc import Sequence

from maskaq_jax.models import Bits, Quantization, Rule, join_rules
from maskaq_jax.quantizers import MAX_BITS
from maskaq_jax.sensitivity.tensors import TensorLoss

# What a suggestion is to spare: half of the summed divergence, or what a tenth of the tensors has.
_SHARE_OF_LOSS = 0.5
_SHARE_OF_TENSORS = 0.1


def costly_tensors(losses: Sequence[TensorLoss]) -> list[TensorLoss]:
    """The first of those below 8 bits, which make up half of the loss; at most a tenth of all.

    Args:
      losses: of `measure`, those that lose most first.
    """
    most = max(1, round(_SHARE_OF_TENSORS * len(losses)))
    low = [loss for loss in losses if loss.bits < MAX_BITS and loss.divergence > 0]
    total, spared, chosen = sum(loss.divergence for loss in low), 0.0, []
    for loss in low[:most]:
        if spared >= _SHARE_OF_LOSS * total:
            break
        chosen.append(loss)
        spared += loss.divergence
    return chosen


def suggest_rules(losses: Sequence[TensorLoss], quantization: Quantization) -> str:
    """Rules that keep what there are and give 8 bits to the tensors that cost most.

    Args:
      losses: of `measure`, those that lose most first.
      quantization: that they are of, its rules settled.

    Returns:
      The text of rules; empty where nothing has fewer than 8 bits.
    """
    costly = costly_tensors(losses)
    if not costly:
        return ""
    bits = {rule.pattern: rule.bits for rule in quantization.parsed_rules}
    for loss in costly:
        own = quantization.below(*loss.layer.split("."))
        weight, activation = bits.get(loss.layer, Bits(own.weight_bits, own.activation_bits))
        if loss.tensor == "weight":
            weight = MAX_BITS
        else:
            activation = MAX_BITS
        bits[loss.layer] = Bits(weight, activation)
    return join_rules(Rule(layer, own) for layer, own in bits.items())
