r"""Trains an embedded detector or segmenter on scenes of Fashion-MNIST's training images.

    python -m maskaq_jax.assets.train_scenes_teacher --config=configs/scenes_yolos.py --data=DIR \
        --output=yolos_scenes.safetensors

The config says which model. `DIR` holds Fashion-MNIST's `*-ubyte.gz` files. No scene is seen twice.
The state is saved now and then beside the output, in a file that is named by its flags, and the
same command continues from it. Figures on scenes of the validation images are printed with it; the
weights are written, as float16, and figures of the test scenes are printed once, at the end.
"""

import functools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import Array
from ml_collections import config_flags
from safetensors.numpy import save

from maskaq_jax import torch_import
from maskaq_jax.assets import fashion_mnist, scenes_teacher, training
from maskaq_jax.assets.scenes_teacher import Batch
from maskaq_jax.assets.training import State
from maskaq_jax.data import scenes
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import create_model
from maskaq_jax.storage import whole_files

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment whose model to train.")
flags.mark_flag_as_required("config")
_DATA = flags.DEFINE_string("data", None, "Folder of Fashion-MNIST's files.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Weights to write (.safetensors).", required=True)
_STEPS = flags.DEFINE_integer("steps", 9000, "Steps of training.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 32, "Scenes a step.", lower_bound=1)
_RATE = flags.DEFINE_float("rate", 1e-3, "Highest learning rate.")
_WARMUP = flags.DEFINE_integer("warmup", 300, "Steps until the learning rate is at its highest.")
_EVERY = flags.DEFINE_integer("every", 500, "Steps between two saved states.", lower_bound=1)


def main(argv: list[str]) -> None:
    del argv
    settings, steps = _CONFIG.value.model, _STEPS.value
    model = create_model(settings.name, settings.num_classes, **settings.arguments)
    scenes.Scenes("validation").check(model)
    pixels = Pixels(**_CONFIG.value.pixels)
    optimizer = training.adamw(_WARMUP.value, steps, _RATE.value)
    state = training.first_state(scenes_teacher.first_params(model, pixels), optimizer)
    output = Path(_OUTPUT.value)
    told = f"{settings.name}_{steps}_{_BATCH.value}_{_RATE.value}_{_WARMUP.value}"
    saved = output.with_suffix(f".{told}.state")
    state = training.restore(saved, state)

    @functools.partial(jax.jit, donate_argnums=0)
    def train(state: State, batch: Batch) -> tuple[State, Array]:
        return training.step(
            functools.partial(scenes_teacher.training_loss, model, pixels, batch), optimizer, state
        )

    garments = fashion_mnist.read_splits(Path(_DATA.value))["training"]
    validation = scenes_teacher.Figures("validation", model, pixels)
    losses: list[Array] = []
    started, done = time.perf_counter(), int(state.step)
    for batch in scenes_teacher.read_batches(*garments, _BATCH.value, done, steps):
        state, loss = train(state, batch)
        losses.append(loss)
        done += 1
        if done % _EVERY.value == 0 or done == steps:
            training.save(saved, state)
            row = {"step": done, "loss": float(jnp.mean(jnp.stack(losses)))}
            row["seconds"] = time.perf_counter() - started
            print(json.dumps(row | validation(state.average["model"])), flush=True)
            losses.clear()
    weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), state.average["model"])
    whole_files.write_bytes(output, save(torch_import.to_torch_state(weights)))
    shipped = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), weights)
    print(json.dumps({"test": scenes_teacher.Figures("test", model, pixels)(shipped)}), flush=True)


if __name__ == "__main__":
    app.run(main)
