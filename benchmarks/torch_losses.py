"""The terms of the paper's losses in eager PyTorch, and its informative regions.

What the authors' code does with products of all pairs of heads or in loops over images is here
twice: so, and as fast as eager mode can. Values are float32; B counts images, H heads, n patches
and d the channels of a head.
"""

import math

import torch
from torch import Tensor

_C1, _C2 = 0.01**2, 0.03**2


def head_similarity_of_pairs(logits: Tensor) -> Tensor:
    """`losses.inter_head_similarity_loss` of [B, H, n, n]; each pair a product over all patches."""
    rows = _normalised(logits)
    first, second = rows[:, :, None], rows[:, None]
    mean_1, mean_2 = first.mean(-1), second.mean(-1)
    covariance = (first * second).mean(-1) - mean_1 * mean_2
    variance_1 = (first * first).mean(-1) - mean_1**2
    variance_2 = (second * second).mean(-1) - mean_2**2
    luminance = (2 * mean_1 * mean_2 + _C1) / (mean_1**2 + mean_2**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_1 + variance_2 + _C2)
    return (1 - (luminance * structure) ** 2).mean()


def head_similarity(logits: Tensor) -> Tensor:
    """The same by a Gram matrix of the heads for each query."""
    rows = _normalised(logits).transpose(1, 2)
    mean = rows.mean(-1)
    centred = rows - mean[..., None]
    covariance = centred @ centred.transpose(-2, -1) / rows.shape[-1]
    variance = torch.diagonal(covariance, dim1=-2, dim2=-1)
    mean_1, mean_2 = mean[..., None], mean[..., None, :]
    luminance = (2 * mean_1 * mean_2 + _C1) / (mean_1**2 + mean_2**2 + _C1)
    structure = (2 * covariance + _C2) / (variance[..., None] + variance[..., None, :] + _C2)
    return (1 - (luminance * structure) ** 2).mean()


def entropy(rows: Tensor, max_rows: int = 64) -> Tensor:
    """`-losses.patch_similarity_entropy_loss` of [B, n, n]; all images draw the same rows."""
    if rows.shape[1] > max_rows:
        rows = rows[:, torch.randperm(rows.shape[1], device=rows.device)[:max_rows]]
    rows = rows / (rows.norm(dim=-1, keepdim=True) + 1e-6)
    similarity = rows @ rows.transpose(-2, -1)
    variance = similarity.flatten(1).var(1, unbiased=False)
    return (0.5 * (math.log(2 * math.pi * math.e) + torch.log(variance + 1e-8))).mean()


def entropy_in_loops(rows: Tensor) -> Tensor:
    """The same, an image at a time; each draws rows of its own."""
    return torch.stack([entropy(image[None]) for image in rows]).mean()


def regions(scores: Tensor, ratio: float) -> Tensor:
    """Ones at the share `ratio` of an image's patches that have the highest scores, [B, n]."""
    top = scores.detach().topk(num_informative(scores.shape[-1], ratio), dim=-1).indices
    return torch.zeros_like(scores).scatter_(-1, top, 1.0)


def num_informative(num_patches: int, ratio: float) -> int:
    """Patches in the regions of an image."""
    return max(1, int(num_patches * ratio))


def drop(mask: Tensor, num_kept: int) -> Tensor:
    """Keeps so many patches of each image's regions, at random; [B, n]."""
    kept = (mask * (1 + torch.rand_like(mask))).topk(num_kept, dim=-1).indices
    return torch.zeros_like(mask).scatter_(-1, kept, 1.0)


def drop_in_loops(mask: Tensor, num_kept: int) -> Tensor:
    """The same, an image at a time."""
    return torch.cat([drop(image[None], num_kept) for image in mask])


def total_variation(images: Tensor) -> Tensor:
    """`losses.total_variation_loss` of [B, channels, height, width]."""
    straight = (images[:, :, 1:] - images[:, :, :-1]).norm() + (
        images[:, :, :, 1:] - images[:, :, :, :-1]
    ).norm()
    falling = images[:, :, 1:, 1:] - images[:, :, :-1, :-1]
    rising = images[:, :, :-1, 1:] - images[:, :, 1:, :-1]
    return straight + (falling.norm() + rising.norm()) / math.sqrt(2)


def alignment(target: Tensor, output: Tensor) -> Tensor:
    """1 - SSIM over the patches of [B, H, n, d] each; the most important tenth weighs double."""
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


def alignment_in_loops(target: Tensor, output: Tensor) -> Tensor:
    """The same, an image at a time."""
    pairs = zip(target, output, strict=True)
    return torch.stack([alignment(a[None], b[None]) for a, b in pairs]).mean()


def _normalised(rows: Tensor) -> Tensor:
    rows = rows - rows.amin(-1, keepdim=True)
    return rows / (rows.amax(-1, keepdim=True) + 1e-8)
