"""When a run does what: its training steps in epochs, and the refreshes between them."""

import dataclasses
import math
from collections.abc import Iterator

from maskaq_jax.config import Config
from maskaq_jax.finetuning import step as finetuning

# Of Q with what it started from, between two syntheses.
_COMPARISONS = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """The training steps of a run, numbered from 0.

    Attributes:
      epochs: of fine-tuning.
      steps_per_epoch: training steps in each.
      refresh_every: epochs between syntheses; 0 for a single one.
      num_batches: batches that a synthesis makes its images in.
      batch_size: images of each; no more than are wanted.
    """

    epochs: int
    steps_per_epoch: int
    refresh_every: int
    num_batches: int = 1
    batch_size: int = 1

    @property
    def num_steps(self) -> int:
        """Training steps of the run."""
        return self.epochs * self.steps_per_epoch

    @property
    def steps_per_refresh(self) -> int:
        """Training steps between two syntheses; more than there are, for a single one."""
        if not self.refresh_every:
            return self.num_steps + 1
        return self.refresh_every * self.steps_per_epoch

    def epoch_of(self, step: int) -> int:
        """The epoch a step belongs to; the last one after the end."""
        return max(0, min(step // self.steps_per_epoch, self.epochs - 1))

    def refresh_of(self, step: int) -> int:
        """Which synthesis a step's samples are of."""
        return self.epoch_of(step) // self.refresh_every if self.refresh_every else 0

    @property
    def num_syntheses(self) -> int:
        """Of the whole run, the first one among them."""
        return 1 + self.refresh_of(self.num_steps)

    def is_refresh(self, step: int) -> bool:
        """Whether a step is the first with samples made against the state before it."""
        return 0 < step < self.num_steps and step % self.steps_per_refresh == 0

    @property
    def steps_per_comparison(self) -> int:
        """Training steps between two comparisons of Q with what it started from.

        At most four between two syntheses, the first of them behind each.
        """
        epochs = min(self.refresh_every or self.epochs, self.epochs)
        shares = [share for share in range(1, epochs + 1) if epochs % share == 0]
        return next((s for s in shares if epochs <= _COMPARISONS * s), 1) * self.steps_per_epoch

    def is_compared(self, step: int) -> bool:
        """Whether Q is compared after that many training steps."""
        return step % self.steps_per_comparison == 0 or step == self.num_steps

    def num_comparisons(self, stop: int) -> int:
        """Before that many training steps are taken; none where the run doesn't train."""
        return sum(map(self.is_compared, range(stop))) if self.num_steps else 0

    def rounds(self, first_step: int) -> Iterator[range]:
        """The steps from `first_step` on, in ranges of those that train on the same samples."""
        starts = [first_step, *filter(self.is_refresh, range(first_step + 1, self.num_steps))]
        return map(range, starts, [*starts[1:], self.num_steps])

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is the last of its epoch."""
        return (step + 1) % self.steps_per_epoch == 0


def make_plan(config: Config) -> Plan:
    """The plan of a config."""
    samples = config.samples
    batch_size = min(samples.batch_size, samples.num_samples)
    return Plan(
        epochs=config.finetuning.epochs,
        steps_per_epoch=finetuning.steps_per_epoch(config.finetuning, samples.num_trained),
        refresh_every=samples.refresh_every,
        num_batches=math.ceil(samples.num_samples / batch_size),
        batch_size=batch_size,
    )
