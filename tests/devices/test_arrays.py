"""What array functions say of arguments that don't fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.devices import arrays

LAYER = jnp.ones((2, 3, 4))


def test_what_fits_passes():
    arrays.check_axes("x", LAYER, "batch rows columns", "floating")
    arrays.check_same_shape(x=LAYER, y=LAYER.astype(jnp.bfloat16))
    arrays.check_layers("batch rows columns", stacked=jnp.ones((2, 2, 3, 4)), listed=[LAYER] * 2)


def test_axes_of_one_name_have_one_length():
    with pytest.raises(ValueError, match=r"x must be \[batch, side, side\], got shape \(2, 3, 4\)"):
        arrays.check_axes("x", LAYER, "batch side side")


def test_layers_are_named_by_their_number():
    with pytest.raises(ValueError, match=r"x\[1\] must be \[batch, rows, columns\], got shape \(2"):
        arrays.check_layers("batch rows columns", x=[LAYER, jnp.ones(2)])


def test_there_is_a_layer():
    with pytest.raises(ValueError, match="x must have at least one layer, got none"):
        arrays.check_layers("batch rows columns", x=[])


def test_two_models_layers_fit_each_other():
    with pytest.raises(ValueError, match="p and q must have layers of the same shapes, got"):
        arrays.check_layers("batch rows columns", p=[LAYER], q=[LAYER[:1]])


def test_other_axes_may_stand_in_front_and_one_may_have_a_length():
    arrays.check_axes("x", LAYER, "... columns", columns=4)
    arrays.check_axes("x", 1.0, "", "floating")
    with pytest.raises(
        ValueError, match=r"x must be \[\.\.\., rows=2, columns\], got shape \(2, 3"
    ):
        arrays.check_axes("x", LAYER, "... rows columns", rows=2)
    with pytest.raises(ValueError, match=r"x must be a scalar, got shape \(2, 3, 4\)"):
        arrays.check_axes("x", LAYER, "")


def test_a_share_is_0_to_1_and_one_that_is_traced_passes():
    for share in (0, 1, 0.5, np.float32(0.5), LAYER[0, 0, 0]):
        arrays.check_fraction("rate", share)
    jax.eval_shape(lambda share: arrays.check_fraction("rate", share), 3.0)
    for other in (-0.1, 2, np.float32(1.5), float("nan")):
        with pytest.raises(ValueError, match=f"rate must be 0 to 1, got {other}"):
            arrays.check_fraction("rate", other)
