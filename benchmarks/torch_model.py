"""The models of `models.vit` in eager PyTorch, with weights and quantizers of ours.

All of a model computes in the weights' `dtype`, where ours keeps attention's logits, softmax and
quantizers in float32.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor

from maskaq_jax import torch_import
from maskaq_jax.models.vit import VisionTransformer


@dataclasses.dataclass
class Weights:
    """A model's parameters under timm's names, and Q's activation quantizers.

    Attributes:
      params: name -> parameter.
      quant: name -> (step, zero point, lowest code, highest code, gradient scale of the step);
        empty for P.
      bits: of weights; None where they are P's, or quantized already.
      dtype: that the layers compute in.
    """

    params: dict[str, Tensor]
    quant: dict[str, tuple[Any, ...]]
    bits: int | None
    dtype: torch.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.params["cls_token"].device

    def trainable(self) -> list[Tensor]:
        """Parameters, steps and zero points."""
        return [*self.params.values(), *(leaf for node in self.quant.values() for leaf in node[:2])]


def load(
    params: Any,
    quant: Any,
    bits: int | None,
    is_frozen: bool,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Weights:
    """Weights of ours as PyTorch's.

    Args:
      params: of our model.
      quant: its quantizers; empty for P.
      bits: of weights and activations; None for P.
      is_frozen: leaves gradients out, and quantizes and casts the weights here.
      dtype: that the layers compute in; weights with gradients stay float32.
      device: PyTorch's name of it.
    """
    state = {
        name: torch.tensor(np.array(value), device=device)
        for name, value in torch_import.to_torch_state(params).items()
    }
    if is_frozen and bits is not None:
        state = {name: _quantize_weight(name, value, bits) for name, value in state.items()}
    quantizers = {}
    for path, node in _flatten(quant, ()):
        high = float(2 ** (bits - 1) - 1 if node.signed else 2**bits - 1)  # type: ignore[operator]
        low = high - (2**bits - 1)  # type: ignore[operator]
        scale = 1 / math.sqrt(float(node.size) * high)
        step, zero = (
            torch.tensor(float(value), device=device) for value in (node.step, node.zero_point)
        )
        quantizers[path.replace("blocks_", "blocks.")] = (step, zero, low, high, scale)
    if is_frozen:
        state = {name: value.to(dtype) for name, value in state.items()}
    weights = Weights(state, quantizers, None if is_frozen else bits, dtype)
    if not is_frozen:
        for leaf in weights.trainable():
            leaf.requires_grad_()
    return weights


def forward(
    model: VisionTransformer, weights: Weights, images: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits, attention logits and attention outputs of a ViT; images are [B, C, height, width]."""
    params, heads, patch = weights.params, model.num_heads, model.patch_size
    if weights.bits is not None:
        params = {name: _quantize_weight(name, p, weights.bits) for name, p in params.items()}
    params = {name: p.to(weights.dtype) for name, p in params.items()}

    def dense(name: str, x: Tensor) -> Tensor:
        x = quantize(f"{name}.input", x)
        return F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])

    def quantize(name: str, x: Tensor) -> Tensor:
        return _quantize_activation(x, *weights.quant[name]) if weights.quant else x

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], params[f"{name}.weight"], params[f"{name}.bias"], eps=1e-6
        )

    x = F.conv2d(
        images.to(weights.dtype),
        params["patch_embed.proj.weight"],
        params["patch_embed.proj.bias"],
        stride=patch,
    )
    x = x.flatten(2).transpose(1, 2)
    batch, _, width = x.shape
    x = torch.cat([params["cls_token"].expand(batch, -1, -1), x], dim=1) + params["pos_embed"]
    tokens, head_dim = x.shape[1], width // heads
    all_logits, all_outputs = [], []
    for i in range(model.depth):
        block = f"blocks.{i}"
        qkv = dense(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
        q, k, v = qkv.reshape(batch, tokens, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        q, k = quantize(f"{block}.attn.query", q), quantize(f"{block}.attn.key", k)
        logits = q @ k.transpose(-2, -1)
        probabilities = (logits * head_dim**-0.5).softmax(dim=-1)
        probabilities = quantize(f"{block}.attn.probabilities", probabilities)
        outputs = probabilities @ quantize(f"{block}.attn.value", v)
        merged = outputs.transpose(1, 2).reshape(batch, tokens, width)
        x = x + dense(f"{block}.attn.proj", merged)
        hidden = F.gelu(dense(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + dense(f"{block}.mlp.fc2", hidden)
        all_logits.append(logits.float())
        all_outputs.append(outputs.float())
    return dense("head", norm("norm", x)[:, 0]).float(), all_logits, all_outputs


def _flatten(tree: Any, path: tuple[str, ...]) -> Any:
    for name, node in tree.items():
        if hasattr(node, "items"):
            yield from _flatten(node, (*path, name))
        else:
            yield ".".join((*path, name)), node


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _quantize_weight(name: str, weight: Tensor, bits: int) -> Tensor:
    """Weights of dense layers and of the patch embedding; the others stay."""
    if not name.endswith(".weight") or weight.ndim < 2:
        return weight
    span = weight.detach().flatten(1).abs().amax(1).mul(2).clamp_min(1e-8)
    scale = (span.reciprocal() * (2**bits - 1)).reshape(-1, *[1] * (weight.ndim - 1))
    codes = (weight.detach() * scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return weight + (codes / scale - weight).detach()


def _quantize_activation(
    x: Tensor, step: Tensor, zero: Tensor, low: float, high: float, scale: float
) -> Tensor:
    if step.requires_grad:
        step = step * scale + (step - step * scale).detach()
    zero = _round(zero)
    return (_round((x / step + zero).clamp(low, high)) - zero) * step
