"""A problem small enough to be solved on one device and on four, and what the same result is."""

import jax
import numpy as np

from maskaq_jax.devices import parallel
from maskaq_jax.finetuning.step import FinetuningSettings, FinetuningSpec
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.images.views import FinetuningView

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
BATCH = 8
KEY = jax.random.key(3)
MESHES = {count: parallel.make_mesh(jax.devices()[:count]) for count in (1, 4)}

# At learning rate 1 an update is as large as its gradient, and stands out of the weight's rounding.
FINETUNING = FinetuningSpec(
    FinetuningSettings(
        batch_size=BATCH,
        learning_rate=1.0,
        quantizer_learning_rate=1.0,
        view=FinetuningView(jitter=0.0, grey=0.0, blur=0.0),
    ),
    Pixels(),
)

# One float32 sum of 8 images in two orders differs by some 1e-7 of its size; a forward and a
# backward pass make that 1e-5 at most. A gradient taken of the wrong batch is off by more than
# a tenth. (A code that flips at a rounding tie would show, and does not with these numbers.)
TOLERANCE = 1e-4


def assert_same(actual, expected, tolerance):
    """Every leaf's largest error is at most `tolerance` of the largest value in it."""
    expected = jax.tree_util.tree_leaves_with_path(expected)
    for (path, value), found in zip(expected, jax.tree.leaves(actual), strict=True):
        value, found = np.asarray(value, np.float32), np.asarray(found, np.float32)
        error = np.abs(found - value).max()
        assert error <= tolerance * np.abs(value).max() + 1e-6, (jax.tree_util.keystr(path), error)
