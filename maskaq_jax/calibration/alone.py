"""One tensor's rounding by itself, while all else of the model stays in float."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
from jax import Array

from maskaq_jax import quantizers
from maskaq_jax.calibration import layerwise
from maskaq_jax.calibration.fitter import CalibrationSettings, Rows
from maskaq_jax.models import layers
from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.sites import Site


def calibrate_alone(
    site: Site,
    quantization: Quantization,
    params: Mapping[str, Any],
    rows: Rows,
    settings: CalibrationSettings,
    key: Array,
) -> dict[str, Any]:
    """The variables of a part in which one site alone is rounded, by the method of a run.

    With the paper's ranges the weights become their rounded values, and an activation gets a
    quantizer; with those of least squares the site is fitted as `layerwise.fit` does.

    Args:
      site: of the part; or of the whole model, its embedding or a classifier.
      quantization: the site's own bits; one that keeps grids where layers are fitted.
      params: P's, of the part or of the model.
      rows: of the site in P.
      settings: the method.
      key: as of `layerwise.fit`.

    Returns:
      `params` and `quant`.
    """
    if settings.fits:
        return layerwise.fit_site(site, quantization, params, rows, settings, key)
    flat, quant = dict(flax.traverse_util.flatten_dict(params)), {}
    if site.is_dense and layers.rounds_weights(quantization):
        kernel = (*site.path, "kernel")
        flat[kernel] = quantizers.quantize_weight(flat[kernel], quantization.weight_bits)
    if layers.rounds_activations(quantization):
        bits = quantization.activation_bits
        quant[(*site.path, site.name)] = quantizers.init_activation_quantizer(rows.inputs, bits)
    unflatten = flax.traverse_util.unflatten_dict
    return {"params": unflatten(flat), "quant": unflatten(quant)}
