"""Pictures: as a run prepares them, and as what lies beside the weights says they were prepared."""

from pathlib import Path
from typing import Any

from maskaq_jax import torch_import
from maskaq_jax.config import Config, evaluation_source
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import notes

# Means, deviations and shares of a picture that are the same up to the digits they are given with.
_TOLERANCE = 5e-3


def check(settings: Config, weights: str | Path) -> None:
    """Compares normalisation, and resizing where pictures are read, with what is said of both.

    Args:
      settings: of the run.
      weights: where they are.

    Raises:
      ConfigError: they differ; every field is named, with the value that fits.
    """
    said = torch_import.read_companions(weights, notes.log)
    wanted = {
        f"config.pixels.{name}": (value, getattr(settings.pixels, name))
        for name, value in said.pictures.items()
        if name in ("mean", "std")
    }
    if _reads_pictures(settings):
        preprocessing = settings.evaluation.preprocessing
        wanted |= {
            f"config.evaluation.preprocessing.{name}": (value, getattr(preprocessing, name))
            for name, value in said.pictures.items()
            if name not in ("mean", "std")
        }
    differences = [
        f"{field} is {has!r}, should be {value!r}"
        for field, (value, has) in wanted.items()
        if not _is_same(value, has)
    ]
    if differences:
        raise ConfigError(
            f"the {said.files['pictures']} beside the weights {weights} says how their pictures "
            f"were prepared: {'; '.join(differences)} (a file of weights without it beside is "
            "taken as the config says)"
        )


def _reads_pictures(settings: Config) -> bool:
    """Whether pictures of any size are made to the model's."""
    source = evaluation_source(settings)
    return hasattr(source, "preprocessing") or bool(settings.samples.real)


def _is_same(value: Any, has: Any) -> bool:
    if isinstance(value, str):
        return bool(value == has)
    values, others = (one if isinstance(one, tuple) else (one,) for one in (value, has))
    return len(values) == len(others) and all(
        abs(first - second) <= _TOLERANCE for first, second in zip(values, others, strict=True)
    )
