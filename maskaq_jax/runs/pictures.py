"""Pictures: as a run prepares them, and as what lies beside the weights says they were prepared."""

from pathlib import Path
from typing import Any

from maskaq_jax import torch_import
from maskaq_jax.config import Config, evaluation_source
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import notes
from maskaq_jax.storage.notes import Tell

# Means, deviations and shares of a picture that are the same up to the digits they are given with.
_TOLERANCE = 5e-3


def check(settings: Config, weights: str | Path, tell: Tell = notes.log) -> None:
    """Compares normalisation, and resizing where pictures are read, with what is said of both.

    Where nothing is said of the normalisation, what is taken for granted is told.

    Args:
      settings: of the run.
      weights: where they are.
      tell: is told what is taken for granted.

    Raises:
      ConfigError: they differ; every field is named, with the value that fits.
    """
    said = torch_import.read_companions(weights, tell)
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
    if said.uncompared and _reads_pictures(settings):
        tell(
            f"{weights}: the {said.files['pictures']} beside them says "
            f"{', '.join(said.uncompared)}, which is not compared: pictures are prepared as the "
            "config says"
        )
    if "mean" not in said.pictures and not settings.model.weights.startswith("embedded:"):
        tell(_assumption(settings, str(weights)))


def _assumption(settings: Config, weights: str) -> str:
    """What nothing says and the config is believed in, beside what is usual."""
    pixels, model = settings.pixels, settings.model
    told = (
        f"{weights}: nothing beside them says how their pictures were normalised, which is taken "
        f"from the config: config.pixels.mean={pixels.mean}, std={pixels.std}"
    )
    usual = torch_import.usual_normalisation(model.name, model.num_classes, weights)
    if usual is None or len(usual.mean) != len(pixels.mean):
        return told
    if _is_same(usual.mean, pixels.mean) and _is_same(usual.std, pixels.std):
        return f"{told}, those of {usual.whose}"
    return f"{told}; {usual.whose} take mean={usual.mean}, std={usual.std}"


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
