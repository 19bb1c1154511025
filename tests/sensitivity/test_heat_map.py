"""The picture has a cell for every tensor, the worst darkest."""

import numpy as np
from PIL import Image

from maskaq_jax.models import create_model, layer_names
from maskaq_jax.sensitivity import TensorLoss, heat_map


def _draw(path, worst):
    model = create_model("swin", depths=(2, 1), num_heads=(2, 2), window_size=4, img_size=32)
    names = layer_names(model)
    losses = [
        TensorLoss(name, tensor, 4, None, 1.0 if (name, tensor) == worst else 0.0)
        for name in names
        for tensor in ("weight", "activation")
    ]
    heat_map.draw(path, losses, names, "title")
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), int)


def _dark(pixels):
    """Places of what has the worst colour."""
    return np.argwhere(np.abs(pixels - (178, 24, 43)).sum(axis=-1) == 0)


def test_the_worst_tensor_is_the_darkest_cell(tmp_path):
    early = _dark(_draw(tmp_path / "early.png", ("layers_0.blocks_0.attn.qkv", "weight")))
    late = _dark(_draw(tmp_path / "late.png", ("layers_1.blocks_0.mlp.fc2", "activation")))
    assert len(early) == len(late) > 500
    # Further down, and further right.
    down, right = late.mean(axis=0) - early.mean(axis=0)
    assert down > 100
    assert right > 80


def test_a_picture_without_losses_has_no_dark_cell(tmp_path):
    assert not len(_dark(_draw(tmp_path / "none.png", None)))
