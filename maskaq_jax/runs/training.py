"""Fine-tuning in a run: its steps, what is saved of them, and what becomes of one that goes astray.

Source: `docs/method.md` section 3. Along the way Q is compared, without labels, with the calibrated
model that it started from. One that has gone astray goes back to where it was compared before, and
on at lower rates; at the end the better of both is kept.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from maskaq_jax.data.batches import ReadImages
from maskaq_jax.devices import arrays
from maskaq_jax.devices.keys import named_key
from maskaq_jax.evaluation.loop import Measured
from maskaq_jax.finetuning import loop as finetuning_loop
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.step import FinetuningSpec, FinetuningState
from maskaq_jax.runs import checkpoint, workload
from maskaq_jax.runs.measurements import Measurements
from maskaq_jax.runs.session import Session

# A Q that has gone astray is this many times as far from P as the calibrated model, and so far that
# it matters: in nats, or 1 - cosine.
_ASTRAY = 2.0
_LEAST_ASTRAY = 0.1
# Learning rates after it, as a share, and how often they are lowered before training ends.
_LOWER = 0.25
_MAX_RETREATS = 2


class Position(NamedTuple):
    """Where a run stands between two training steps.

    Attributes:
      step: training steps taken.
      state: after them.
      figures: those measured before training, in percent, by the model that they are of; None
        without labelled images.
      epoch_terms: loss terms of each step of an epoch that has begun.
      last_terms: those of the last step; a checkpoint has none.
      distances: how far from P Q was, each time it was compared; the first is the calibrated
        model's.
      retreats: how often learning rates were lowered.
      kept: 'trained', or 'calibrated' where training made Q worse; '' while it isn't decided.
    """

    step: int
    state: FinetuningState
    figures: dict[str, dict[str, float] | None]
    epoch_terms: list[dict[str, float]]
    last_terms: dict[str, float]
    distances: list[dict[str, float]] = []  # noqa: RUF012  # never changed
    retreats: int = 0
    kept: str = ""

    def with_figures(self, name: str, accuracy: Measured | None) -> "Position":
        """With those of one more model."""
        figures = None if accuracy is None else accuracy.figures
        return self._replace(figures=self.figures | {name: figures})

    @property
    def is_compared(self) -> bool:
        """Whether Q was compared at this step."""
        return bool(self.distances) and self.distances[-1]["step"] == self.step

    @property
    def is_comparable(self) -> bool:
        """Whether the calibrated model was; one that an earlier version trained on was not."""
        return bool(self.distances) and self.distances[0]["step"] == 0

    @property
    def is_astray(self) -> bool:
        """Whether Q has become much worse than the calibrated model."""
        if not (self.is_compared and self.is_comparable):
            return False
        first, last = (self.distances[place]["distance"] for place in (0, -1))
        # Not a number is as far as can be.
        return not last <= max(_ASTRAY * first, _LEAST_ASTRAY)


class Training:
    """Trains Q of a session, and keeps where it stands."""

    def __init__(self, session: Session, measurements: Measurements):
        """Compiles nothing yet."""
        self._session, self._measurements = session, measurements
        self._loop = self._make_loop(retreats=0)

    @property
    def state_bytes(self) -> int:
        """Of what a checkpoint holds."""
        leaves = jax.tree.leaves(self._loop.state_template())
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    def start(self, variables: Any, accuracy_of_p: Measured | None) -> Position:
        """Where the first step starts, which is saved.

        Args:
          variables: of Q, calibrated.
          accuracy_of_p: None without labelled images.
        """
        state = self._loop.init_state(variables)
        position = Position(0, state, {}, epoch_terms=[], last_terms={})
        position = position.with_figures("fp", accuracy_of_p)
        self._session.clock.save(functools.partial(self._save, position))
        return position

    def restore(self, has_images: Callable[[int], bool]) -> Position | None:
        """The newest whole state whose images are whole too, or can be made again from it.

        Args:
          has_images: whether all images of a refresh are there.
        """
        plan, checkpoints, progress = (
            self._session.plan,
            self._session.checkpoints,
            self._session.progress,
        )

        def is_usable(step: int) -> bool:
            return plan.is_refresh(step) or has_images(plan.refresh_of(step))

        newest = checkpoints.latest_step()
        template = finetuning.to_trees(self._loop.state_template())
        saved = checkpoint.restore(checkpoints, template, progress.warn, is_usable)
        step = saved.step if saved else 0
        if newest is not None and newest > step:
            progress.warn(
                f"training goes back from step {newest} to {step}, the last that is whole"
            )
        checkpoint.discard_after(checkpoints, saved.step if saved else -1)
        self._session.metrics.forget_finetuning(step // plan.steps_per_epoch)
        if saved is None:
            return None
        progress.resume(workload.before(self._session.inputs, plan, step))
        progress.message(_continues(step, plan.num_steps))
        return self._continue(saved)

    def run(
        self,
        position: Position,
        steps: range,
        read_images: ReadImages,
        read_first: ReadImages | None,
    ) -> Position:
        """Takes steps on the same images; saves along the way and at their end.

        Args:
          position: before them.
          steps: their numbers; the position may be behind the first.
          read_images: the images, by number.
          read_first: those of the first refresh, by which Q is always compared; None where they are
            lost.

        Returns:
          After them; at the end of the run, of the better of the trained and the calibrated model.

        Raises:
          FloatingPointError: it diverged.
          Interrupted: the run was asked to stop, and has saved.
        """
        if not self._session.plan.num_steps or position.kept:  # nothing to train, or it has ended
            return position
        position = self._compare(position, read_first)
        while position.step < steps.stop:
            ahead = range(position.step + 1, steps.stop + 1)
            stop = next(step for step in ahead if self._session.plan.is_compared(step))
            position = self._take(position, range(position.step, stop), read_images)
            position = self._compare(position, read_first)
            if position.is_astray:
                position = self._retreat(position)
        return self._choose(position) if position.step == self._session.plan.num_steps else position

    def _take(self, position: Position, steps: range, read_images: ReadImages) -> Position:
        """Takes steps, between two comparisons."""
        session, params = self._session, self._session.inputs.params
        batch_size = session.inputs.config.finetuning.batch_size
        training = self._loop.run(position.state, steps, read_images, params)
        for step in steps:
            with session.progress.phase("finetuning") as advance:
                trained = next(training)
                advance(batch_size)
            if not all(map(math.isfinite, trained.terms.values())):
                self._give_up(step, trained.terms)
            position = self._after_step(position, trained)
            session.clock.save_if_asked(
                functools.partial(self._save, position), is_last=position.step == steps.stop
            )
        return position

    def _compare(self, position: Position, read_first: ReadImages | None) -> Position:
        """Measures how far Q is from P; its state is saved before."""
        is_due = not position.is_compared and self._session.plan.is_compared(position.step)
        if not is_due or read_first is None:
            return position
        distance = self._measurements.distance(position.state.variables, read_first)
        compared = {"step": position.step, **distance}
        return position._replace(distances=[*position.distances, compared])

    def _retreat(self, position: Position) -> Position:
        """Goes back to where Q was compared before, and on at lower rates; or to the end."""
        session = self._session
        told = (
            f"training went astray: after step {position.step} the model is "
            f"{position.distances[-1]['distance']:.3g} away from full precision, where calibration "
            f"left {position.distances[0]['distance']:.3g}"
        )
        if position.retreats == _MAX_RETREATS:
            session.progress.warn(f"{told}; it ends here")
            return self._end(position)
        good = int(position.distances[-2]["step"])
        saved = self._read(good)
        if saved is None:
            session.progress.warn(f"step {good}, which training would go back to, can't be read")
            return position
        progress = saved.progress | {
            "distances": position.distances[:-1],
            "retreats": position.retreats + 1,
        }
        before = self._continue(saved._replace(progress=progress))
        checkpoint.discard_after(session.checkpoints, good - 1)
        session.metrics.forget_finetuning(good // session.plan.steps_per_epoch)
        session.progress.warn(
            f"{told}; it goes back to step {good}, with learning rates times "
            f"{_LOWER**before.retreats:g}"
        )
        session.clock.save(functools.partial(self._save, before))
        return before

    def _choose(self, position: Position) -> Position:
        """Keeps the better of the trained and the calibrated model."""
        if position.kept:
            return position
        if not (position.is_comparable and position.is_compared):
            return position._replace(kept="trained")
        calibrated, trained = (position.distances[place]["distance"] for place in (0, -1))
        if trained <= calibrated:
            return position._replace(kept="trained")
        self._session.progress.warn(
            f"training left the model {trained:.3g} away from full precision, where calibration "
            f"left {calibrated:.3g}: the calibrated model is kept"
        )
        return self._end(position)

    def _end(self, position: Position) -> Position:
        """Has the calibrated model at the end of the run, if it can be read, and saves that."""
        session, end = self._session, self._session.plan.num_steps
        saved = self._read(0)
        if saved is None:
            session.progress.warn("the calibrated model can't be read: the trained one is kept")
            return position._replace(step=end, kept="trained")
        checkpoint.discard_after(session.checkpoints, end - 1)
        position = position._replace(
            step=end, state=finetuning.from_trees(saved.trees), kept="calibrated"
        )
        session.clock.save(functools.partial(self._save, position))
        return position

    def _read(self, step: int) -> checkpoint.Checkpoint | None:
        """A checkpoint of that very step, if it is whole."""
        session = self._session
        session.checkpoints.wait_until_finished()
        template = finetuning.to_trees(self._loop.state_template())
        return checkpoint.restore(
            session.checkpoints, template, session.progress.warn, lambda saved: saved == step
        )

    def _continue(self, saved: checkpoint.Checkpoint) -> Position:
        """Where a run stood; its learning rates are those of then."""
        state, progress = finetuning.from_trees(saved.trees), dict(saved.progress)
        if "top1" in progress:  # an earlier version's
            progress["figures"] = {
                name: None if top1 is None else {"top1": top1}
                for name, top1 in progress.pop("top1").items()
            }
        position = Position(saved.step, state, **progress, last_terms={})
        if position.retreats:
            self._loop = self._make_loop(position.retreats)
        return position

    def _make_loop(self, retreats: int) -> finetuning_loop.FinetuningLoop:
        """Which trains at the config's rates, or at lower ones."""
        inputs, share = self._session.inputs, _LOWER**retreats
        settings = inputs.config.finetuning
        lower = dataclasses.replace(
            settings,
            learning_rate=settings.learning_rate * share,
            relative_learning_rate=settings.relative_learning_rate * share,
            quantizer_learning_rate=settings.quantizer_learning_rate * share,
            step_learning_rate=settings.step_learning_rate * share,
        )
        return finetuning_loop.FinetuningLoop(
            inputs.model,
            FinetuningSpec(lower, inputs.config.pixels),
            inputs.config.samples.num_trained,
            named_key(self._session.key, "finetune"),
            inputs.mesh,
        )

    def _after_step(self, position: Position, trained: finetuning_loop.Trained) -> Position:
        """Where the run stands after one more step; an epoch that it ends is written down."""
        plan, epoch_terms = self._session.plan, [*position.epoch_terms, trained.terms]
        if plan.ends_epoch(position.step):
            epoch = plan.epoch_of(position.step)
            self._session.metrics.write("finetuning", epoch, _mean(epoch_terms))
            epoch_terms = []
        return position._replace(
            step=position.step + 1,
            state=trained.state,
            epoch_terms=epoch_terms,
            last_terms=trained.terms,
        )

    def _save(self, position: Position) -> None:
        """Saves where the run stands, if that is finite."""
        if not arrays.is_finite(position.state.variables):
            self._give_up(position.step, position.last_terms)
        names = ("figures", "epoch_terms", "distances", "retreats", "kept")
        progress = {name: getattr(position, name) for name in names}
        trees = finetuning.to_trees(position.state)
        checkpoint.save(self._session.checkpoints, position.step, trees, progress)
        self._session.progress.store_seconds(*self._session.progress.seconds)

    def _give_up(self, step: int, terms: dict[str, float]) -> NoReturn:
        """Ends a run that has diverged, and says what to lower."""
        checkpoints = self._session.checkpoints
        # A state that gives no finite loss is not a good one, saved or not.
        checkpoint.discard_after(checkpoints, step - 1)
        losses = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        good = checkpoints.latest_step()
        settings = self._session.inputs.config.finetuning
        rate = "relative_learning_rate" if settings.relative_learning_rate else "learning_rate"
        raise FloatingPointError(
            f"fine-tuning diverged at step {step} of {self._session.plan.num_steps} "
            f"({losses or 'before any step'}): lower config.finetuning.{rate}, "
            "quantizer_learning_rate or step_learning_rate, with another --workdir; "
            "the last good checkpoint is "
            f"{'none' if good is None else checkpoints.directory / str(good)}"
        )


def _continues(step: int, num_steps: int) -> str:
    """Where a run goes on that was started before."""
    if not num_steps:
        return "continuing after calibration: the model is there, and is measured"
    told = f"continuing after step {step} of {num_steps}"
    return told if step < num_steps else f"{told}: training is done, and the model is measured"


def _mean(history: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([terms[name] for terms in history])) for name in history[0]}
