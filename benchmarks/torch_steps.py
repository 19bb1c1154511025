"""The steps of `synthesis` and `finetune` in eager PyTorch, to measure ours against.

Two versions of the same mathematics (`docs/method.md`), for ViT and DeiT:

- `ORIGINAL`, organised as the authors' code is: gradients of all weights, every pair of heads as a
  product over all tokens, loops over images, weights quantized at every step;
- `TUNED`, the best we could do in eager mode: weights frozen and quantized once for synthesis, Gram
  matrices, everything batched.

Images and masks are where the weights are. Losses are float32, whatever the model computes in.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor

from benchmarks import torch_losses, torch_model
from benchmarks.torch_model import Weights
from maskaq_jax.models.vit import VisionTransformer


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


def synthesis_loss(
    model: VisionTransformer,
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
    class_logits, logits_p, _ = torch_model.forward(model, params, views)
    _, logits_q, _ = torch_model.forward(model, variables, views)
    entropy: Callable[[Tensor], Tensor]
    if version.is_batched:
        similarity, drop = torch_losses.head_similarity, torch_losses.drop
        entropy = torch_losses.entropy
    else:
        similarity, drop = torch_losses.head_similarity_of_pairs, torch_losses.drop_in_loops
        entropy = torch_losses.entropy_in_loops
    scores = torch.stack([a[:, :, 0, 1:].mean(1) for a in logits_p]).mean(0)
    mask = torch_losses.regions(scores, ratio)
    if drop_rate:
        num_informative = torch_losses.num_informative(mask.shape[-1], ratio)
        mask = drop(mask, max(1, round((1 - drop_rate) * num_informative)))
    couplings = [
        ((a[:, :, 0, 1:].mean(1) - b[:, :, 0, 1:].mean(1)).abs() * mask).sum() / (mask.sum() + 1e-8)
        for a, b in zip(logits_p, logits_q, strict=True)
    ]
    return {
        "similarity": torch.stack([similarity(a[:, :, 1:, 1:]) for a in logits_p]).mean(),
        "classes": F.cross_entropy(class_logits, labels),
        "total_variation": 2.5e-5 * torch_losses.total_variation(images),
        "coupling": 0.1 * torch.stack(couplings).mean(),
        "entropy": -torch.stack([entropy(a[:, :, 1:, 1:].mean(1)) for a in logits_p]).mean(),
    }


def finetuning_loss(
    model: VisionTransformer, version: Version, params: Weights, variables: Weights, views: Tensor
) -> dict[str, Tensor]:
    """The weighted terms of the paper's fine-tuning loss, as `synthesis_loss` has its own."""
    with torch.no_grad():
        teacher, _, outputs_p = torch_model.forward(model, params, views)
    student, _, outputs_q = torch_model.forward(model, variables, views)
    temperature = 5.0
    distillation = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, -1),
        F.softmax(teacher / temperature, -1),
        reduction="batchmean",
    )
    align = torch_losses.alignment if version.is_batched else torch_losses.alignment_in_loops
    distances = [align(a[:, :, 1:], b[:, :, 1:]) for a, b in zip(outputs_p, outputs_q, strict=True)]
    return {"distillation": distillation, "attention": 10 * torch.stack(distances).mean()}


def make_synthesis_step(
    model: VisionTransformer,
    version: Version,
    params: Weights,
    variables: Weights,
    images: np.ndarray,
    labels: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    num_steps: int,
) -> tuple[Callable[[], None], Tensor]:
    """A function that takes a step, augmentation and AdamW included, and the images it changes.

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
    pixels = load_images(images, device).requires_grad_()
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

    return take_step, pixels


def make_finetuning_step(
    model: VisionTransformer,
    version: Version,
    params: Weights,
    variables: Weights,
    next_images: Callable[[], Tensor],
) -> Callable[[], None]:
    """A function that takes a step, augmentation and SGD included.

    Args:
      model, version, params, variables: as of `make_synthesis_step`.
      next_images: gives a step's, [B, channels, height, width] float32.
    """
    optimizer = torch.optim.SGD(variables.trainable(), lr=1e-3, momentum=0.9, nesterov=True)

    def take_step() -> None:
        optimizer.zero_grad()
        terms = finetuning_loss(model, version, params, variables, _finetuning_view(next_images()))
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return take_step


def classify(model: VisionTransformer, variables: Weights, pixels: Tensor) -> Tensor:
    """[B] int64 classes of [B, channels, height, width] float32 images."""
    with torch.no_grad():
        return torch_model.forward(model, variables, pixels)[0].argmax(-1)


def load_images(images: np.ndarray, device: torch.device) -> Tensor:
    """[B, height, width, channels] float32, as ours -> [B, channels, height, width]."""
    return torch.tensor(np.ascontiguousarray(np.moveaxis(images, -1, 1)), device=device)


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
