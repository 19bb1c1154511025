"""A config beside the preset that it is nearest to."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from maskaq_jax import config as config_lib
from maskaq_jax.config import Config, Preset
from maskaq_jax.report.contents import Setting

_PRESETS: tuple[tuple[str, Preset], ...] = (
    ("best, of the embedded models", config_lib.EMBEDDED_PRESETS["best"]),
    ("best, of ImageNet models", config_lib.IMAGENET_PRESETS["best"]),
    ("best, of detectors and segmenters", config_lib.DENSE_PRESETS["best"]),
    ("best, of scenes", config_lib.SCENES_PRESETS["best"]),
    ("paper", config_lib.EMBEDDED_PRESETS["paper"]),
    ("paper", config_lib.IMAGENET_PRESETS["paper"]),
)


def compare(settings: Config) -> tuple[str, list[Setting]]:
    """The name of the nearest preset, and every field beside what it has there.

    Which preset a run was started with is not written down; it is the one that differs from it in
    the smallest share of its fields. What a preset has no value for is compared with the default.

    Args:
      settings: of a run.
    """
    own = dict(_flatten(config_lib.as_dict(settings)))
    candidates = []
    for name, preset in _PRESETS:
        fields, standard = preset.images | preset.training, _standard(preset, settings)
        differing = sum(own[field] != standard[field] for field in fields)
        candidates.append((differing / len(fields), -len(fields), name, fields, standard))
    _, _, nearest, fields, standard = min(candidates, key=lambda candidate: candidate[:2])
    return nearest, [
        _setting(name, value, standard.get(name), name in fields) for name, value in own.items()
    ]


def _standard(preset: Preset, settings: Config) -> dict[str, Any]:
    """Fields of a config that says nothing but its preset and method."""
    values = config_lib.default()
    values.update_from_flattened_dict(preset.images | preset.training)
    standard = dataclasses.replace(config_lib.from_dict(values.to_dict()), method=settings.method)
    return dict(_flatten(config_lib.as_dict(config_lib.settled(standard))))


def _setting(name: str, value: Any, standard: Any, of_preset: bool) -> Setting:
    differs = value != standard
    return Setting(name, _text(value), _text(standard) if differs else None, of_preset)


def _flatten(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; lists for tuples, as JSON has them."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _flatten(value, f"{path}.{name}" if path else name)
    else:
        yield path, list(values) if isinstance(values, tuple) else values


def _text(value: Any) -> str:
    """As JSON, but for text itself; what a config lacks is nothing."""
    if value is None:
        return "not set"
    if isinstance(value, str):
        return value or "empty"
    return json.dumps(value)
