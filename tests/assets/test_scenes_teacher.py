"""What the embedded detector and segmenter are trained with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskaq_jax import data
from maskaq_jax.assets import scenes_teacher as teacher
from maskaq_jax.assets import training
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import create_model

PIXELS = Pixels(mean=(0.132,) * 3, std=(0.273,) * 3)
DETECTOR = create_model(
    *("yolos", 10),
    **{"img_size": 96, "patch_size": 24, "embed_dim": 16, "depth": 1, "num_heads": 2},
    **{"num_detection_tokens": 9, "mid_position_embeddings": False},
)
SEGMENTER = create_model(
    *("upernet_swin", 11),
    **{"img_size": 96, "patch_size": 8, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)},
    **{"window_size": 6, "hidden_size": 8},
)


@pytest.fixture(scope="module")
def garments():
    images, labels = data.load_embedded("real", 1)
    return images[..., 0], labels


@pytest.fixture(scope="module")
def batch(garments):
    return jax.tree.map(
        jnp.asarray, next(teacher.read_batches(*garments, batch_size=6, first=3, stop=4))
    )


def test_batches_are_the_same_from_wherever_training_continues(garments, batch):
    *_, again = teacher.read_batches(*garments, batch_size=6, first=1, stop=4)
    for one, other in zip(again, batch, strict=True):
        np.testing.assert_array_equal(one, other)


def test_boxes_hold_their_garments(batch):
    batch = jax.device_get(batch)
    assert batch.valid.any(axis=1).all()
    assert not batch.valid.all()
    for boxes, classes, valid, label_map in zip(
        batch.boxes, batch.classes, batch.valid, batch.label_maps, strict=True
    ):
        covered = np.zeros(label_map.shape, bool)
        for (x, y, width, height), label in zip(boxes[valid], classes[valid], strict=True):
            edges = 96 * np.array([y - height / 2, y + height / 2, x - width / 2, x + width / 2])
            top, bottom, left, right = np.rint(edges).astype(int)
            window = np.s_[top:bottom, left:right]
            assert (label_map[window] == label + 1).any()
            covered[window] = True
        assert (label_map[~covered] == 0).all()


@pytest.fixture(scope="module")
def alone(batch):
    """The same images, of whose garments only the first is to be found."""
    return batch._replace(valid=batch.valid & (np.arange(4) == 0)[None])


def _perfect(alone):
    """Outputs of nine tokens, of which the one in whose place it is finds the garment; its number
    for each image.
    """
    away = np.abs(teacher.token_places(9)[None] - np.asarray(alone.boxes)[:, :1, :2]).sum(axis=-1)
    images, tokens = np.arange(len(away)), away.argmin(axis=1)
    logits = np.zeros((len(away), 9, 11), np.float32)
    logits[..., 10] = 30
    logits[images, tokens] = 30 * np.eye(11)[alone.classes[:, 0]]
    boxes = np.full((len(away), 9, 4), 0.5, np.float32)
    boxes[images, tokens] = alone.boxes[:, 0]
    return {"logits": jnp.asarray(logits), "pred_boxes": jnp.asarray(boxes)}, tokens


def test_the_loss_of_what_finds_everything_is_zero(alone):
    outputs, _ = _perfect(alone)
    assert teacher.set_loss(outputs, alone) == pytest.approx(0, abs=1e-5)


def test_a_garment_that_is_found_twice_costs(alone):
    outputs, tokens = _perfect(alone)
    found = outputs["logits"][np.arange(6), tokens]
    outputs["logits"] = outputs["logits"].at[np.arange(6), (tokens + 4) % 9].set(found)
    assert teacher.set_loss(outputs, alone) > 1


def test_what_no_garment_fills_counts_for_nothing(alone):
    outputs, _ = _perfect(alone)
    outputs["pred_boxes"] = outputs["pred_boxes"] + 0.01
    other = alone._replace(
        boxes=jnp.where(alone.valid[..., None], alone.boxes, 0.2),
        classes=jnp.where(alone.valid, alone.classes, 7),
    )
    np.testing.assert_allclose(
        teacher.set_loss(outputs, other), teacher.set_loss(outputs, alone), rtol=1e-6
    )


def test_of_tokens_that_find_alike_the_one_whose_place_it_is_is_given_a_garment(batch):
    one = batch._replace(
        boxes=np.tile(np.float32([0.8, 0.2, 0.2, 0.2]), (6, 4, 1)),
        classes=np.zeros((6, 4), np.int32),
        valid=np.tile([True, False, False, False], (6, 1)),
    )

    def loss(logits):
        outputs = {"logits": logits, "pred_boxes": jnp.full((6, 9, 4), 0.5)}
        return teacher.set_loss(outputs, one)

    # Only the token that is given the garment is asked for its class: the upper right one's place.
    pushed = jax.grad(loss)(jnp.zeros((6, 9, 11)))[..., 0] < 0
    assert (np.argwhere(pushed)[:, 1] == 2).all()
    assert pushed.sum() == 6


def test_tokens_need_a_square_of_places():
    with pytest.raises(ValueError, match="square grid, which 10 don't fill"):
        teacher.token_places(10)
    positions = teacher.sine_positions(teacher.token_places(64), 128)
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 9 * np.eye(64)
    assert distances.min() > 1


@pytest.mark.parametrize("model", [DETECTOR, SEGMENTER], ids=["detector", "segmenter"])
def test_training_lowers_the_loss(model, batch):
    params = teacher.first_params(model, PIXELS)
    optimizer = training.adamw(warmup_steps=2, steps=40, peak=1e-2)
    loss = jax.jit(functools.partial(teacher.training_loss, model, PIXELS, batch))
    step = jax.jit(functools.partial(training.step, loss, optimizer))
    state = training.first_state(params, optimizer)
    for _ in range(20):
        state, value = step(state)
    assert int(state.step) == 20
    assert value < 0.8 * loss(params)
    # The average lags behind, on the way from the first weights.
    distance = [
        float(optax.tree.norm(optax.tree.sub(a, b)))
        for a, b in ((state.average, params), (state.params, params))
    ]
    assert 0 < distance[0] < distance[1]


def test_a_saved_state_is_the_same_again(tmp_path):
    optimizer = training.adamw(warmup_steps=1, steps=10, peak=1e-2)
    first = training.first_state({"w": jnp.ones(3)}, optimizer)
    path = tmp_path / "teacher.state"
    assert training.restore(path, first) is first
    after, _ = training.step(lambda params: jnp.sum(params["w"] ** 2), optimizer, first)
    training.save(path, after)
    again = training.restore(path, first)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)
