"""The steps of `synthesis` and `finetune` in eager PyTorch, to measure ours against.

Two versions of the same mathematics (`docs/method.md`), for ViT and DeiT:

- `ORIGINAL`, organised as the authors' code is: gradients of all weights, every pair of heads as a
  product over all tokens, loops over images, weights quantized at every step;
- `TUNED`, the best we could do in eager mode: weights frozen and quantized once for synthesis, Gram
  matrices, everything batched.

Images and masks are where the weights are. All of a model computes in the weights' `dtype`, where
ours keeps attention's logits, softmax and quantizers in float32; losses are float32.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor

from maskaq_jax import torch_import
from maskaq_jax.models import Model

_C1, _C2 = 0.01**2, 0.03**2


@dataclasses.dataclass(frozen=True)
class Version:
    """How a step is organised.

    Attributes:
      is_frozen: whether synthesis leaves weight gradients out and quantizes weights once.
      is_batched: whether losses avoid products of all pairs, and loops over images.
    """

    is_frozen: bool
    is_batched: bool


ORIGINAL, TUNED = Version(False, False), Version(True, True)


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
    model: Model, weights: Weights, images: Tensor
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


def synthesis_loss(
    model: Model,
    version: Version,
    params: Weights,
    variables: Weights,
    images: Tensor,
    views: Tensor,
    labels: Tensor,
    ratio: float,
    drop_rate: float = 0.3,
) -> dict[str, Tensor]:
    """The weighted terms of the paper's synthesis loss, by the names of ours; [] float32 each.

    Args:
      model: ours, whose sizes these have.
      version: how the step is organised.
      params, variables: weights of P and Q.
      images, views: [B, channels, height, width] float32, as they are and augmented.
      labels: [B] int64.
      ratio: share of patches in the informative regions.
      drop_rate: share of these dropped at random.
    """
    class_logits, logits_p, _ = forward(model, params, views)
    _, logits_q, _ = forward(model, variables, views)
    similarity = _head_similarity if version.is_batched else _head_similarity_of_pairs
    entropy = _entropy if version.is_batched else _entropy_in_loops
    mask = _regions(torch.stack([a[:, :, 0, 1:].mean(1) for a in logits_p]).mean(0), ratio)
    if drop_rate:
        num_kept = max(1, round((1 - drop_rate) * _num_informative(mask.shape[-1], ratio)))
        mask = (_drop if version.is_batched else _drop_in_loops)(mask, num_kept)
    couplings = [
        ((a[:, :, 0, 1:].mean(1) - b[:, :, 0, 1:].mean(1)).abs() * mask).sum() / (mask.sum() + 1e-8)
        for a, b in zip(logits_p, logits_q, strict=True)
    ]
    return {
        "similarity": torch.stack([similarity(a[:, :, 1:, 1:]) for a in logits_p]).mean(),
        "classes": F.cross_entropy(class_logits, labels),
        "total_variation": 2.5e-5 * _total_variation(images),
        "coupling": 0.1 * torch.stack(couplings).mean(),
        "entropy": -torch.stack([entropy(a[:, :, 1:, 1:].mean(1)) for a in logits_p]).mean(),
    }


def finetuning_loss(
    model: Model, version: Version, params: Weights, variables: Weights, views: Tensor
) -> dict[str, Tensor]:
    """The weighted terms of the paper's fine-tuning loss, as `synthesis_loss` has its own."""
    with torch.no_grad():
        teacher, _, outputs_p = forward(model, params, views)
    student, _, outputs_q = forward(model, variables, views)
    temperature = 5.0
    distillation = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, -1),
        F.softmax(teacher / temperature, -1),
        reduction="batchmean",
    )
    align = _alignment if version.is_batched else _alignment_in_loops
    distances = [align(a[:, :, 1:], b[:, :, 1:]) for a, b in zip(outputs_p, outputs_q, strict=True)]
    return {"distillation": distillation, "attention": 10 * torch.stack(distances).mean()}


def make_synthesis_step(
    model: Model,
    version: Version,
    params: Weights,
    variables: Weights,
    images: np.ndarray,
    labels: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    num_steps: int,
) -> Callable[[], None]:
    """A function that takes a step, augmentation and AdamW included.

    Args:
      model: ours, whose sizes these have.
      version: how the step is organised.
      params, variables: weights of P and Q.
      images: [B, height, width, channels] float32, as ours.
      labels: [B] int32.
      bounds: [channels] float32 each, lowest and highest values of pixels.
      num_steps: of the cosine.
    """
    device = params.device
    pixels = _load_images(images, device).requires_grad_()
    optimizer = torch.optim.AdamW([pixels], lr=0.1, betas=(0.9, 0.999), weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps, eta_min=0.001)
    low, high = (torch.tensor(bound, device=device).reshape(1, -1, 1, 1) for bound in bounds)
    classes = torch.tensor(labels, device=device).long()

    def take_step() -> None:
        optimizer.zero_grad()
        for leaf in [*params.trainable(), *variables.trainable()]:
            leaf.grad = None
        views = _synthesis_view(pixels)
        terms = synthesis_loss(model, version, params, variables, pixels, views, classes, 0.3)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            pixels.copy_(torch.minimum(torch.maximum(pixels, low), high))

    return take_step


def make_finetuning_step(
    model: Model, version: Version, params: Weights, variables: Weights, images: np.ndarray
) -> Callable[[], None]:
    """A function that takes a step, augmentation and SGD included; as `make_synthesis_step`."""
    pixels = _load_images(images, params.device)
    optimizer = torch.optim.SGD(variables.trainable(), lr=1e-3, momentum=0.9, nesterov=True)

    def take_step() -> None:
        optimizer.zero_grad()
        terms = finetuning_loss(model, version, params, variables, _finetuning_view(pixels))
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return take_step


def make_evaluation_step(
    model: Model, variables: Weights, images: np.ndarray
) -> Callable[[], None]:
    """A function that classifies the images; as `make_synthesis_step`."""
    pixels = _load_images(images, variables.device)

    def take_step() -> None:
        with torch.no_grad():
            forward(model, variables, pixels)[0].argmax(-1)

    return take_step


def _load_images(images: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(np.ascontiguousarray(np.moveaxis(images, -1, 1)), device=device)


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


def _normalised(rows: Tensor) -> Tensor:
    rows = rows - rows.amin(-1, keepdim=True)
    return rows / (rows.amax(-1, keepdim=True) + 1e-8)


def _head_similarity_of_pairs(logits: Tensor) -> Tensor:
    """[B, H, n, n]; all pairs of heads as products over all tokens."""
    rows = _normalised(logits)
    first, second = rows[:, :, None], rows[:, None]
    mean_1, mean_2 = first.mean(-1), second.mean(-1)
    covariance = (first * second).mean(-1) - mean_1 * mean_2
    variance_1 = (first * first).mean(-1) - mean_1**2
    variance_2 = (second * second).mean(-1) - mean_2**2
    luminance = (2 * mean_1 * mean_2 + _C1) / (mean_1**2 + mean_2**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_1 + variance_2 + _C2)
    return (1 - (luminance * structure) ** 2).mean()


def _head_similarity(logits: Tensor) -> Tensor:
    """[B, H, n, n]; a Gram matrix a query."""
    rows = _normalised(logits).transpose(1, 2)
    mean = rows.mean(-1)
    centred = rows - mean[..., None]
    covariance = centred @ centred.transpose(-2, -1) / rows.shape[-1]
    variance = torch.diagonal(covariance, dim1=-2, dim2=-1)
    mean_1, mean_2 = mean[..., None], mean[..., None, :]
    luminance = (2 * mean_1 * mean_2 + _C1) / (mean_1**2 + mean_2**2 + _C1)
    structure = (2 * covariance + _C2) / (variance[..., None] + variance[..., None, :] + _C2)
    return (1 - (luminance * structure) ** 2).mean()


def _entropy(rows: Tensor, max_rows: int = 64) -> Tensor:
    """[B, n, n]; the same random rows of all images."""
    if rows.shape[1] > max_rows:
        rows = rows[:, torch.randperm(rows.shape[1], device=rows.device)[:max_rows]]
    rows = rows / (rows.norm(dim=-1, keepdim=True) + 1e-6)
    similarity = rows @ rows.transpose(-2, -1)
    variance = similarity.flatten(1).var(1, unbiased=False)
    return (0.5 * (math.log(2 * math.pi * math.e) + torch.log(variance + 1e-8))).mean()


def _entropy_in_loops(rows: Tensor) -> Tensor:
    return torch.stack([_entropy(image[None]) for image in rows]).mean()


def _regions(scores: Tensor, ratio: float) -> Tensor:
    top = scores.detach().topk(_num_informative(scores.shape[-1], ratio), dim=-1).indices
    return torch.zeros_like(scores).scatter_(-1, top, 1.0)


def _num_informative(num_patches: int, ratio: float) -> int:
    return max(1, int(num_patches * ratio))


def _drop(mask: Tensor, num_kept: int) -> Tensor:
    kept = (mask * (1 + torch.rand_like(mask))).topk(num_kept, dim=-1).indices
    return torch.zeros_like(mask).scatter_(-1, kept, 1.0)


def _drop_in_loops(mask: Tensor, num_kept: int) -> Tensor:
    return torch.cat([_drop(image[None], num_kept) for image in mask])


def _total_variation(images: Tensor) -> Tensor:
    straight = (images[:, :, 1:] - images[:, :, :-1]).norm() + (
        images[:, :, :, 1:] - images[:, :, :, :-1]
    ).norm()
    falling = images[:, :, 1:, 1:] - images[:, :, :-1, :-1]
    rising = images[:, :, :-1, 1:] - images[:, :, 1:, :-1]
    return straight + (falling.norm() + rising.norm()) / math.sqrt(2)


def _alignment(target: Tensor, output: Tensor) -> Tensor:
    """[B, H, n, d] each: 1 - SSIM over patches, the most important tenth weighing double."""
    importance = target.abs().mean((1, 3))
    count = max(1, round(0.1 * importance.shape[-1]))
    weight = torch.ones_like(importance).scatter_(-1, importance.topk(count, -1).indices, 2.0)
    weight = weight + 1e-6
    weight = (weight / weight.sum(-1, keepdim=True))[:, None, :, None]
    target = target - (weight * target).sum(2, keepdim=True)
    output = output - (weight * output).sum(2, keepdim=True)
    covariance = (weight * target * output).sum(2)
    variances = (weight * target**2).sum(2) + (weight * output**2).sum(2)
    return (1 - (2 * covariance + _C2) / (variances + _C2 + 1e-6)).mean()


def _alignment_in_loops(target: Tensor, output: Tensor) -> Tensor:
    pairs = zip(target, output, strict=True)
    return torch.stack([_alignment(a[None], b[None]) for a, b in pairs]).mean()


def _synthesis_view(images: Tensor) -> Tensor:
    side = images.shape[-1]
    reach = round(side / 14)
    rolls = torch.randint(-reach, reach + 1, (2,)).tolist()
    views = torch.roll(images, rolls, (2, 3))
    views = views + 0.25 * torch.randn(*images.shape[:2], 1, 1, device=images.device)
    mean, deviation = 2 * torch.rand(2, *images.shape[:2], 1, 1, device=images.device) - 1
    return (views - mean) / torch.exp(deviation)


def _finetuning_view(images: Tensor) -> Tensor:
    """Crop, flip, brightness, contrast and saturation, drawn once a batch as the authors do."""
    side = images.shape[-1]
    size = max(1, int(side * math.sqrt(float(torch.empty(()).uniform_(0.08, 1)))))
    top, left = (int(torch.randint(0, side - size + 1, ())) for _ in range(2))
    views = images[:, :, top : top + size, left : left + size]
    views = F.interpolate(views, (side, side), mode="bilinear", align_corners=False)
    if torch.rand(()) < 0.5:
        views = views.flip(-1)
    brightness, contrast, saturation = torch.empty(3).uniform_(0.2, 1.8)
    views = views * brightness
    views = contrast * views + (1 - contrast) * views.mean((1, 2, 3), keepdim=True)
    return saturation * views + (1 - saturation) * views.mean(1, keepdim=True)
