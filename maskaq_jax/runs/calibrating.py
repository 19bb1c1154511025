"""Q's first variables in a run: quantizers chosen, or every layer fitted, on images of it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax import calibration
from maskaq_jax.data.batches import ReadImages
from maskaq_jax.devices import memory, parallel
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.runs.session import Session


def fit(session: Session, read_images: ReadImages) -> dict[str, Any]:
    """Q's variables: every layer fitted to P on the first of these images and views of them.

    Raises:
      Interrupted: the run was asked to stop; there is nothing to save before the end.
    """
    inputs, config = session.inputs, session.inputs.config
    images = _read_first(inputs, read_images)
    views = calibration.add_views(images, config.calibration.num_views, session.key, config.pixels)
    session.progress.message(
        f"fitting every layer to {len(images)} images and {len(views) - len(images)} views of them"
    )
    num_parts = len(inputs.model.parts())
    with session.progress.phase("calibration") as advance:

        def advance_or_stop() -> None:
            advance(config.calibration.num_views / num_parts)
            session.clock.stop_if_asked()

        fitted = calibration.fit(
            inputs.model, inputs.params, views, config.calibration, session.key, advance_or_stop
        )
    # Hosts may round differently, and must not train different models.
    fitted = parallel.take_from_main(fitted)
    memory.return_freed_memory()
    return fitted


def choose_ranges(inputs: RunInputs, read_images: ReadImages) -> dict[str, Any]:
    """Q's variables: P's weights, and quantizers initialised on the first of these images."""
    images = _read_first(inputs, read_images)
    # Hosts may round differently, and must not train different models.
    quant = parallel.take_from_main(calibration.calibrate(inputs.model, inputs.params, images))
    memory.return_freed_memory()
    return {"params": inputs.params, "quant": quant}


def _read_first(inputs: RunInputs, read_images: ReadImages) -> Array:
    """The images that calibrate."""
    samples = inputs.config.samples
    count = min(samples.calibration_size, samples.num_trained)
    return jnp.asarray(read_images(np.arange(count)))
