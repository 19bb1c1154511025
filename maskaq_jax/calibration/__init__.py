"""Q's first quantizers, from images: the paper's ranges, or a fit of every layer."""

from maskaq_jax.calibration.alone import calibrate_alone
from maskaq_jax.calibration.first_ranges import calibrate
from maskaq_jax.calibration.fitter import CalibrationSettings, Rows
from maskaq_jax.calibration.layerwise import fit, settings_of_heads
from maskaq_jax.calibration.views import add_views

__all__ = [
    "CalibrationSettings",
    "Rows",
    "add_views",
    "calibrate",
    "calibrate_alone",
    "fit",
    "settings_of_heads",
]
