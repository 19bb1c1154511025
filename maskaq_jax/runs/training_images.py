"""The images that a run trains on: synthesised, Gaussian noise, or real ones."""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax.config import METHODS
from maskaq_jax.data.batches import ReadImages
from maskaq_jax.devices import memory, parallel
from maskaq_jax.devices.keys import named_key
from maskaq_jax.devices.parallel import HostRows
from maskaq_jax.images import noise
from maskaq_jax.models import full_precision
from maskaq_jax.runs import directory, overlays, sample_sheet
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.runs.session import Session
from maskaq_jax.synthesis import background_choice
from maskaq_jax.synthesis.loop import BatchProgress, SavedProgress, SynthesisLoop
from maskaq_jax.synthesis.step import SynthesisSpec
from maskaq_jax.synthesis.store import read_newest_refresh

# Images in samples.png.
_SAMPLES_SHOWN = 24


class TrainingImages:
    """The images of each refresh, by the run's method; `samples.png` shows some of them."""

    def __init__(self, session: Session):
        """Makes none yet."""
        self._session = session
        self._source = _choose_source(session)
        self._refresh = -1
        self._read_images: ReadImages = _read_none

    def of_refresh(self, refresh: int, variables: Any) -> ReadImages:
        """The images of a refresh, by number; they are made where they are not there.

        Args:
          refresh: its number.
          variables: of Q as it is by then, which images are made against.
        """
        if refresh != self._refresh:
            self._read_images = self._source.of_refresh(refresh, variables)
            self._refresh = refresh
            if parallel.is_main_process():
                self._draw_sheet()
        return self._read_images

    @property
    def newest(self) -> ReadImages:
        """The images that were asked for last, by number."""
        return self._read_images

    def has(self, refresh: int) -> bool:
        """Whether all images of a refresh are there. Every host must ask."""
        return self._source.has(refresh)

    def read_first(self) -> ReadImages | None:
        """The images of the first refresh; None where some are lost. Every host must ask."""
        return self._source.read(0) if self.has(0) else None

    def _draw_sheet(self) -> None:
        """Images, the regions that P finds most informative, and what it finds in places."""
        inputs = self._session.inputs
        shown = min(_SAMPLES_SHOWN, inputs.config.samples.num_samples)
        images = self._read_images(np.arange(shown))
        outputs, masks = jax.device_get(self._look(inputs.params, images))
        path, pixels = inputs.workdir / directory.SAMPLE_SHEET, inputs.config.pixels
        pictures = sample_sheet.to_pictures(images, pixels)
        found = overlays.draw_outputs(inputs.model.task, outputs, pictures)
        sample_sheet.draw(path, images, masks, inputs.model.patch_grid, pixels, found)

    @functools.cached_property
    def _look(self) -> jax.stages.Wrapped:
        model = self._session.inputs.model
        ratio = self._session.inputs.config.synthesis.initial_ratio

        def look(params: Any, images: Array) -> tuple[Any, Array]:
            outputs, out = full_precision(model).apply({"params": params}, images)
            return outputs, model.patch_regions(out["attention_logits"], ratio)

        return jax.jit(look)


def read_noise(inputs: RunInputs, key: Array) -> ReadImages:
    """Gaussian images of the model's shape, drawn as they are read.

    Args:
      inputs: of the run.
      key: of its seed.
    """
    shape, pixels = inputs.model.input_shape, inputs.config.pixels
    noise_key = named_key(key, "noise samples")

    @jax.jit
    def draw(indices: Array) -> Array:
        return noise.draw_noise(noise_key, indices, shape, pixels)

    return lambda indices: np.asarray(draw(jnp.asarray(indices)))


def _read_given(inputs: RunInputs) -> ReadImages | None:
    """The images of a method that makes none, the same in every refresh; None for the others."""
    if inputs.real is not None:
        return inputs.real.__getitem__
    if METHODS[inputs.config.method].synthesizes:
        return None
    return read_noise(inputs, jax.random.key(inputs.config.seed))


def read_newest(inputs: RunInputs, indices: np.ndarray) -> np.ndarray:
    """[B, height, width, channels] images of these numbers as a run has them by now: of its newest
    refresh that has them all.

    Raises:
      FileNotFoundError: no refresh has them.
      OSError: a file can't be read.
    """
    if read_given := _read_given(inputs):
        return read_given(indices)
    return read_newest_refresh(inputs.workdir / directory.SAMPLES, indices)


class _Source(Protocol):
    """Where images come from."""

    def of_refresh(self, refresh: int, variables: Any) -> ReadImages: ...

    def read(self, refresh: int) -> ReadImages: ...

    def has(self, refresh: int) -> bool: ...


class _Given:
    """The same images in every refresh."""

    def __init__(self, read_images: ReadImages):
        self._read_images = read_images

    def of_refresh(self, refresh: int, variables: Any) -> ReadImages:
        del variables
        return self.read(refresh)

    def read(self, refresh: int) -> ReadImages:
        del refresh
        return self._read_images

    def has(self, refresh: int) -> bool:
        del refresh
        return True


class _Synthesis:
    """Images that are made against Q, batch by batch; batches that the store has are kept."""

    def __init__(self, session: Session):
        self._session = session
        self._key = named_key(session.key, "synthesize")

    def of_refresh(self, refresh: int, variables: Any) -> ReadImages:
        session, store = self._session, self._session.store
        missing = store.missing(refresh)
        num_steps = session.inputs.config.synthesis.num_steps
        kept = store.num_batches - len(missing)
        if kept and missing:
            session.progress.message(
                f"continuing with the images of refresh {refresh}: {kept} of {store.num_batches} "
                "batches are there"
            )
        session.progress.keep("synthesis", kept * store.batch_size * num_steps)
        for number in missing:
            self._make_batch(refresh, number, variables)
        memory.return_freed_memory()
        return self.read(refresh)

    def read(self, refresh: int) -> ReadImages:
        return self._session.store.read(refresh)

    def has(self, refresh: int) -> bool:
        return not self._session.store.missing(refresh)

    @functools.cached_property
    def _loop(self) -> SynthesisLoop:
        """Made for the first batch, so that a finished run chooses no background."""
        inputs = self._session.inputs
        spec = SynthesisSpec(inputs.config.synthesis, inputs.config.pixels)
        if spec.settings.background == "auto":
            key = named_key(self._key, "background")
            spec, scores = background_choice.choose_background(
                inputs.model, inputs.params, key, spec
            )
            self._session.metrics.write("background", 0, scores)
            told = ", ".join(f"{colour} {score:.2f}" for colour, score in scores.items())
            self._session.progress.message(
                f"images get a {spec.settings.background} background; log inception scores: {told}"
            )
        return SynthesisLoop(inputs.model, spec, inputs.mesh)

    def _make_batch(self, refresh: int, number: int, variables: Any) -> None:
        """Makes a batch, or what is missing of it; saves along the way.

        Raises:
          Interrupted: the run was asked to stop, and has saved.
        """
        session, store = self._session, self._session.store
        inputs, progress = session.inputs, session.progress
        rows = store.rows(number, inputs.mesh)
        num_steps = inputs.config.synthesis.num_steps
        with progress.phase("synthesis") as advance:
            loop = self._loop
            saved = store.read_progress(refresh, rows, loop.state_shapes(len(rows.indices)))
            progress.keep("synthesis", store.batch_size * saved.step if saved else 0)
            if saved and saved.step:
                progress.message(
                    f"continuing images {rows.first} to {rows.stop - 1} of refresh {refresh} after "
                    f"step {saved.step} of {num_steps}"
                )
            done = _Done(saved)
            key = jax.random.fold_in(self._key, refresh)
            for reached in loop.run(key, rows, inputs.params, variables, saved):
                advance(store.batch_size * done.new_steps(reached))
                if done.is_redrawn(reached):
                    progress.warn(_redrawn(rows, refresh))
                if reached.step < num_steps:  # else it is finished, or to be drawn again
                    session.clock.save_if_asked(
                        functools.partial(self._save_progress, refresh, rows, reached)
                    )
        store.write(refresh, rows, reached)
        progress.store_seconds("synthesis")
        session.metrics.write(
            "synthesis",
            refresh * store.num_batches + number,
            reached.terms | {"redraws": float(reached.attempt)},
        )
        session.clock.stop_if_asked()

    def _save_progress(self, refresh: int, rows: HostRows, reached: BatchProgress) -> None:
        self._session.store.write_progress(refresh, rows, reached)
        self._session.progress.store_seconds("synthesis")


class _Done:
    """What is counted of a batch: steps that are taken again, as images are redrawn, count once."""

    def __init__(self, saved: SavedProgress | None):
        self._attempt, self._step = (saved.attempt, saved.step) if saved else (0, 0)

    def new_steps(self, reached: BatchProgress) -> int:
        """Steps that were never taken before."""
        count = max(0, reached.step - self._step)
        self._step = max(self._step, reached.step)
        return count

    def is_redrawn(self, reached: BatchProgress) -> bool:
        """Whether the images have been drawn again since the last question."""
        is_redrawn = reached.attempt > self._attempt
        self._attempt = max(self._attempt, reached.attempt)
        return is_redrawn


def _choose_source(session: Session) -> _Source:
    read_given = _read_given(session.inputs)
    return _Given(read_given) if read_given else _Synthesis(session)


def _redrawn(rows: HostRows, refresh: int) -> str:
    return (
        f"images {rows.first} to {rows.stop - 1} of refresh {refresh} came out with NaN or "
        "infinite values: drawn again"
    )


def _read_none(indices: np.ndarray) -> np.ndarray:
    raise LookupError(f"no images are made yet; asked for {indices}")
