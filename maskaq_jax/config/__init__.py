"""What an experiment is: fields, defaults and checks."""

from maskaq_jax.config.checks import check_returned, check_values, settled, validated
from maskaq_jax.config.datasets import evaluation_source, real_images
from maskaq_jax.config.fields import (
    Config,
    as_dict,
    check_field,
    create_model,
    default,
    fields_of,
    from_dict,
    identity,
    update,
)
from maskaq_jax.config.methods import METHODS, SYNTHESIS_METHODS, Method
from maskaq_jax.config.presets import (
    ABLATIONS,
    DENSE_PRESETS,
    EMBEDDED_PRESETS,
    IMAGENET_PRESETS,
    SCENES_PRESETS,
    Preset,
    presets_of,
)
from maskaq_jax.schema import ConfigError

__all__ = [
    "ABLATIONS",
    "DENSE_PRESETS",
    "EMBEDDED_PRESETS",
    "IMAGENET_PRESETS",
    "METHODS",
    "SCENES_PRESETS",
    "SYNTHESIS_METHODS",
    "Config",
    "ConfigError",
    "Method",
    "Preset",
    "as_dict",
    "check_field",
    "check_returned",
    "check_values",
    "create_model",
    "default",
    "evaluation_source",
    "fields_of",
    "from_dict",
    "identity",
    "presets_of",
    "real_images",
    "settled",
    "update",
    "validated",
]
