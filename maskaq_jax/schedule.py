"""When a run does what: its training steps in epochs, and the refreshes between them."""

import dataclasses
from collections.abc import Iterator

from maskaq_jax import finetune
from maskaq_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Plan:
    """The training steps of a run, numbered from 0.

    Attributes:
      epochs: of fine-tuning.
      steps_per_epoch: training steps in each.
      refresh_every: epochs between syntheses; 0 for a single one.
    """

    epochs: int
    steps_per_epoch: int
    refresh_every: int

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

    def rounds(self, first_step: int) -> Iterator[range]:
        """The steps from `first_step` on, in ranges of those that train on the same samples."""
        starts = [first_step, *filter(self.is_refresh, range(first_step + 1, self.num_steps))]
        return map(range, starts, [*starts[1:], self.num_steps])

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is the last of its epoch."""
        return (step + 1) % self.steps_per_epoch == 0


def make_plan(config: Config) -> Plan:
    """The plan of a config."""
    steps_per_epoch = finetune.steps_per_epoch(config.finetuning, config.samples.num_samples)
    return Plan(config.finetuning.epochs, steps_per_epoch, config.samples.refresh_every)
