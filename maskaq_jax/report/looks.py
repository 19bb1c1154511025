"""Some samples as both models see them: their classes, informative regions and attention."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Model, full_precision
from maskaq_jax.report.contents import Answer, Looks, Sample
from maskaq_jax.runs import overlays


def look(
    model: Model, params: Any, variables: Any, images: np.ndarray, ratio: float, pixels: Pixels
) -> Looks:
    """Shows samples to P and Q, by one program.

    Args:
      model: Q.
      params: P's weights.
      variables: Q's `params` and `quant`.
      images: [B, height, width, channels] float32, normalised.
      ratio: share of the patches that count as informative.
      pixels: the normalisation.
    """
    found = jax.device_get(
        jax.jit(functools.partial(_see, model, ratio))(params, variables, jnp.asarray(images))
    )
    shown = np.round(255 * pixels.denormalise(images)).astype(np.uint8)
    shown = np.broadcast_to(shown, (*shown.shape[:-1], 3))
    grid = model.patch_grid
    are_classes = model.task == "classification" and model.num_classes > 1
    drawn = [overlays.draw_outputs(model.task, found[f"outputs_{name}"], shown) for name in "pq"]
    samples = [
        Sample(
            shown[i],
            found["regions"][i].reshape(grid) > 0,
            *(found[f"scores_{name}"][i].reshape(grid) for name in "pq"),
            *(_answer(found[f"outputs_{name}"][i]) if are_classes else None for name in "pq"),
            *(None if pictures is None else pictures[i] for pictures in drawn),
        )
        for i in range(len(images))
    ]
    return Looks(samples, ratio, [float(value) for value in found["correlations"]])


def _see(model: Model, ratio: float, params: Any, variables: Any, images: Array) -> dict[str, Any]:
    """Outputs, scores of patches and regions, by name."""
    outputs_p, out_p = full_precision(model).apply({"params": params}, images)
    outputs_q, out_q = model.apply(variables, images)
    logits_p, logits_q = out_p["attention_logits"], out_q["attention_logits"]
    return {
        "outputs_p": outputs_p,
        "outputs_q": outputs_q,
        "scores_p": model.patch_scores(logits_p).astype(jnp.float32),
        "scores_q": model.patch_scores(logits_q).astype(jnp.float32),
        "regions": model.patch_regions(logits_p, ratio),
        "correlations": jnp.stack(
            [
                _correlation(model.patches.scores(p), model.patches.scores(q))
                for p, q in zip(logits_p, logits_q, strict=True)
            ]
        ),
    }


def _correlation(x: Array, y: Array) -> Array:
    """[] Pearson's, of the scores [B, n] within each image or window, pooled."""
    x, y = (value.astype(jnp.float32) for value in (x, y))
    x, y = (value - value.mean(axis=-1, keepdims=True) for value in (x, y))
    return (x * y).sum() / jnp.sqrt((x * x).sum() * (y * y).sum())


def _answer(outputs: np.ndarray) -> Answer:
    """Of [classes] logits."""
    shares = np.exp(outputs - outputs.max())
    label = int(shares.argmax())
    return Answer(label, float(shares[label] / shares.sum()))
