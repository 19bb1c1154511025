"""The methods: where the samples come from, and what each of them does its own way.

All that depends on a method reads this table. `config.validated` applies it to a config, so that
`config.method` alone chooses one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

from maskaq_jax import schema
from maskaq_jax.synthesis.terms import LossWeights


@dataclasses.dataclass(frozen=True)
class Method:
    """What a method does its own way.

    Attributes:
      description: what its samples are, in a line.
      terms: the loss terms of its images, fields of `LossWeights`, with the weights that they were
        published with; empty where no images are optimised.
      refreshes: whether images are made again, every `config.samples.refresh_every` epochs.
      samples: what its samples are called.
      is_real: whether they are training images, or others of a user's own.
      masks: whether the informative patches weigh more in fine-tuning, by
        `config.finetuning.important_weight`.
    """

    description: str
    terms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    refreshes: bool = True
    masks: bool = True
    samples: str = "synthetic images"
    is_real: bool = False

    @property
    def synthesizes(self) -> bool:
        """Whether its samples are images that are optimised."""
        return bool(self.terms)


def _published(*names: str) -> dict[str, float]:
    """Loss terms with MaskAQ's weights, which are the defaults."""
    return {name: getattr(LossWeights(), name) for name in names}


METHODS: Mapping[str, Method] = {
    "maskaq": Method(
        "images of MaskAQ's loss terms",
        _published("similarity", "classes", "total_variation", "coupling", "entropy"),
    ),
    "mimiq": Method(
        "images of its forerunner's loss terms",
        _published("similarity", "classes", "total_variation"),
        refreshes=False,
        masks=False,
    ),
    "psaq": Method(
        "images of PSAQ-ViT's loss terms",
        _published("classes") | {"density": 1.0, "variation_gap": 0.05},
        refreshes=False,
        masks=False,
    ),
    "noise": Method("Gaussian images, the floor", samples="Gaussian noise"),
    "real": Method(
        "training images, the ceiling: the embedded models' own, or a folder",
        samples="real images",
        is_real=True,
    ),
}
SYNTHESIS_METHODS = tuple(name for name, method in METHODS.items() if method.synthesizes)
# The type of `config.method`.
MethodName = Annotated[str, schema.Choice(tuple(METHODS))]
