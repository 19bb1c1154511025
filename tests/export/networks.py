"""Small low-bit models of every kind, whose channels are of unlike sizes."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax import calibration
from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.export import onnx
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Model, Quantization, create_model, full_precision, shapes

PIXELS = Pixels(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
PREPROCESSING = Preprocessing()
NUM_CLASSES = 5

_VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
# Nothing covers anything: images, windows and mergings are padded, and bins are uneven.
_SWIN_OF_ANY_SIZE = {
    **{"img_size": (22, 27), "patch_size": 2, "embed_dim": 12, "depths": (2, 1)},
    **{"num_heads": (2, 2), "window_size": 4},
}
# Name -> family, arguments; what is one model's in the field, and whatever else there is.
MODELS = {
    "vit": ("vit", _VIT | {"depth": 2}),
    "deit_distilled": ("deit_distilled", _VIT),
    "dinov2": ("vit", _VIT | {"init_values": 0.3, "num_classes": 0}),
    "registers": (
        "vit",
        _VIT | {"reg_tokens": 2, "no_embed_class": True, "qk_norm": True, "act_layer": "silu"},
    ),
    "siglip": (
        "vit",
        _VIT | {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"},
    ),
    "clip": ("vit", _VIT | {"pre_norm": True, "act_layer": "quick_gelu"}),
    "averaged": ("vit", _VIT | {"global_pool": "avg", "qkv_bias": False, "act_layer": "relu"}),
    "normed behind the token": ("vit", _VIT | {"fc_norm": True}),
    "normed before the mean": (
        "vit",
        _VIT | {"global_pool": "avg", "fc_norm": False, "class_token": False},
    ),
    "pooled behind registers": (
        "vit",
        _VIT | {"global_pool": "map", "fc_norm": True, "reg_tokens": 2, "num_classes": 0},
    ),
    "distilled features": ("deit_distilled", _VIT | {"fc_norm": True, "num_classes": 0}),
    "swin": (
        "swin",
        {
            **{"img_size": 16, "patch_size": 2, "embed_dim": 12, "depths": (2, 1)},
            **{"num_heads": (2, 2), "window_size": 4},
        },
    ),
    "swin features": (
        "swin",
        {
            **{"img_size": 16, "patch_size": 2, "embed_dim": 12, "depths": (2,)},
            **{"num_heads": (2,), "window_size": 4, "num_classes": 0},
        },
    ),
    # Patches don't cover its images, which are cut.
    "yolos": ("yolos", _VIT | {"img_size": (18, 13), "depth": 2, "num_detection_tokens": 3}),
    "linear segmenter": ("vit_linear_seg", _VIT | {"img_size": 12, "reg_tokens": 2}),
    "upernet": ("upernet_swin", _SWIN_OF_ANY_SIZE | {"hidden_size": 8}),
    "pyramid": ("swin_fpn", _SWIN_OF_ANY_SIZE | {"out_channels": 8, "num_classes": 0}),
}


class Problem(NamedTuple):
    """A model, its variables, images, and its outputs for them: logits, or several arrays."""

    model: Model
    variables: Any
    images: np.ndarray
    logits: Any

    @property
    def written(self):
        """What a file is written of."""
        return self.model, self.variables, PIXELS, PREPROCESSING


@functools.cache
def problem(name, weight_bits, activation_bits, keeps_grids=False):
    """One whose quantizers are calibrated on its images."""
    family, arguments = MODELS[name]
    quantization = Quantization(weight_bits, activation_bits, keeps_grids=keeps_grids)
    model = create_model(
        family, quantization=quantization, **{"num_classes": NUM_CLASSES} | arguments
    )
    params = random_params(model)
    images = np.random.default_rng(0).normal(size=(12, *model.input_shape)).astype(np.float32)

    @jax.jit
    def calibrated(params, images):
        (logits, _), updates = model.apply({"params": params}, images, mutable=["quant"])
        return logits, updates.get("quant", {})

    logits, quant = calibrated(params, images)
    variables = {"params": params, "quant": quant}
    if keeps_grids:

        def unlike(path, leaf):
            is_factor = getattr(path[-1], "key", "") == "input_factor"
            return leaf * jnp.linspace(0.9, 1.1, leaf.size) if is_factor else leaf

        variables["quant"] = jax.tree_util.tree_map_with_path(unlike, quant)
        logits = outputs(model, variables, images)
    return Problem(model, variables, images, jax.tree.map(np.asarray, logits))


@functools.cache
def onnx_file(*arguments):
    """The ONNX file of a problem."""
    return onnx.build(*problem(*arguments).written)


@functools.cache
def fitted():
    """One that `calibration.fit` has fitted."""
    model, variables, images, _ = problem("clip", 4, 4, keeps_grids=True)
    settings = calibration.CalibrationSettings(ranges="least_squares", num_searched=64)
    params = variables["params"]
    variables = calibration.fit(model, params, images, settings, jax.random.key(7))
    return Problem(model, variables, images, outputs(model, variables, images))


def random_params(model):
    """Drawn by the host, so that nothing is compiled for it."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        match path[-1].key:
            case "kernel":
                values /= np.sqrt(np.prod(leaf.shape[:-1]))
            case "scale" | "gamma":
                values = np.exp(0.7 * values)
            case _:
                values *= 0.3
        return jnp.asarray(values, jnp.float32)

    templates = shapes.variable_shapes(full_precision(model))["params"]
    return jax.tree_util.tree_map_with_path(draw, templates)


def outputs(model, variables, images):
    """What the model makes of images."""
    found = jax.jit(lambda *given: model.apply(*given)[0])(variables, images)
    return jax.tree.map(np.asarray, found)


def assert_same(found, expected, is_rounded=True):
    """Outputs, where a value beside a tie may be rounded to the other side of it."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        # Of images, of what finds objects in them, or of places.
        differences = np.abs(one - other).max(axis=-1) / np.abs(other).max()
        assert np.mean(differences < 1e-5) >= (0.8 if is_rounded else 1)
