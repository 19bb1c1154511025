r"""Trains an embedded teacher on Fashion-MNIST's training split.

    python -m maskaq_jax.assets.train_teacher --config=configs/vit_fashion.py --data=DIR \
        --output=vit_fashion.safetensors

The config says which model. `DIR` holds Fashion-MNIST's `*-ubyte.gz` files. The state is saved
every epoch beside the output, in a file that is named by its flags, and the same command continues
from it. Validation accuracy is printed every epoch; the weights are written and test accuracy is
printed once, at the end.
"""

import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax import Array
from ml_collections import config_flags
from safetensors.numpy import save

from maskaq_jax import torch_import
from maskaq_jax.assets import fashion_mnist, training
from maskaq_jax.assets.training import State
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import create_model
from maskaq_jax.storage import whole_files

_WARMUP_EPOCHS = 2
_LABEL_SMOOTHING = 0.1

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment whose model to train.")
_DATA = flags.DEFINE_string("data", None, "Folder of Fashion-MNIST's files.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Weights to write (.safetensors).", required=True)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 30, "Passes over the training images.", lower_bound=_WARMUP_EPOCHS + 1
)
_BATCH = flags.DEFINE_integer("batch", 128, "Images a step.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the initial weights, the order and the views.")


def normalise(images: Array, pixels: Pixels) -> Array:
    """[B, 28, 28] uint8 -> [B, 28, 28, channels] float32, the grey value on every channel."""
    return pixels.from_bytes(images[..., None])


def random_view(key: Array, image: Array) -> Array:
    """Flips one [28, 28] image and shifts it by up to two pixels."""
    flip_key, shift_key = jax.random.split(key)
    image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    shift = jax.random.randint(shift_key, (2,), 0, 5)
    return jax.lax.dynamic_slice(jnp.pad(image, 2), shift, (28, 28))


def training_loss(model: Any, images: Array, labels: Array, params: Any) -> Array:
    """Smoothed cross entropy, mean over images."""
    logits, _ = model.apply({"params": params}, images)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), _LABEL_SMOOTHING)
    return optax.softmax_cross_entropy(logits, targets).mean()


def _accuracy(
    model: Any, params: Any, pixels: Pixels, images: np.ndarray, labels: np.ndarray
) -> float:
    @jax.jit
    def predict(batch: Array) -> Array:
        return model.apply({"params": params}, normalise(batch, pixels))[0].argmax(axis=-1)

    predicted = [predict(batch) for batch in np.array_split(images, 10)]
    return float((np.concatenate(predicted) == labels).mean())


def main(argv: list[str]) -> None:
    del argv
    splits = fashion_mnist.read_splits(Path(_DATA.value))
    images, labels = map(jnp.asarray, splits["training"])
    steps = len(images) // _BATCH.value
    settings = _CONFIG.value.model
    model = create_model(settings.name, settings.num_classes, **settings.arguments)
    pixels = Pixels(**_CONFIG.value.pixels)
    optimizer = training.adamw(_WARMUP_EPOCHS * steps, _EPOCHS.value * steps, peak=2e-3)
    root = jax.random.key(_SEED.value)
    params = model.init(jax.random.fold_in(root, 0), normalise(images[:1], pixels))["params"]
    state = training.first_state(params, optimizer)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_epoch(state: State, key: Array) -> State:
        order = jax.random.permutation(key, len(images))[: steps * _BATCH.value]

        def body(state: State, batch: Array) -> tuple[State, Array]:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch)
            views = normalise(jax.vmap(random_view)(keys, images[batch]), pixels)
            loss = functools.partial(training_loss, model, views, labels[batch])
            return training.step(loss, optimizer, state)

        return jax.lax.scan(body, state, order.reshape(steps, _BATCH.value))[0]

    output = Path(_OUTPUT.value)
    saved = output.with_suffix(f".{_EPOCHS.value}_{_BATCH.value}_{_SEED.value}.state")
    state = training.restore(saved, state)
    for epoch in range(int(state.step) // steps, _EPOCHS.value):
        started = time.perf_counter()
        state = jax.block_until_ready(
            train_epoch(state, jax.random.fold_in(jax.random.fold_in(root, 1), epoch))
        )
        training.save(saved, state)
        accuracy = _accuracy(model, state.average, pixels, *splits["validation"])
        seconds = time.perf_counter() - started
        print(
            json.dumps({"epoch": epoch + 1, "validation": accuracy, "seconds": seconds}), flush=True
        )
    whole_files.write_bytes(output, save(torch_import.to_torch_state(state.average)))
    accuracy = _accuracy(model, state.average, pixels, *splits["test"])
    print(json.dumps({"test": accuracy}), flush=True)


if __name__ == "__main__":
    app.run(main)
