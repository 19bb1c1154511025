"""Turns what config files hold into frozen dataclasses, and mistakes into errors that name them."""

import copy
import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

# Programs count in int32.
_LARGEST = 2**31 - 1
# Marks a field in its metadata.
_ADDED = "added"


class ConfigError(ValueError):
    """A config that can't be run; the message names the field and what was expected."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers.

    Attributes:
      rule: what errors say after the field's name, as 'must be positive'.
      contains: whether a value is one of them.
    """

    rule: str
    contains: Callable[[float], bool]

    def check(self, value: float, path: str) -> None:
        """Raises `ConfigError`, which calls the field by its path, unless it may have the value."""
        if not self.contains(value):
            raise ConfigError(f"{path} {self.rule}, got {value}")


@dataclasses.dataclass(frozen=True)
class Choice:
    """Names, where those that there are stand in a table; a Literal says the same of a few."""

    options: tuple[str, ...]

    def check(self, value: str, path: str) -> None:
        """Raises `ConfigError`, which calls the field by its path, unless it may have the value."""
        choose(path, value, self.options)


_POSITIVE = Range("must be positive", lambda value: value > 0)
_NOT_NEGATIVE = Range("must not be negative", lambda value: value >= 0)
_FRACTION = Range("must be between 0 and 1", lambda value: 0 <= value <= 1)
_BELOW_ONE = Range("must be below 1", lambda value: value < 1)

# Types of fields that say which numbers make sense; to whoever computes with them, plain numbers.
PositiveInt = Annotated[int, _POSITIVE]
PositiveFloat = Annotated[float, _POSITIVE]
NonNegativeInt = Annotated[int, _NOT_NEGATIVE]
NonNegativeFloat = Annotated[float, _NOT_NEGATIVE]
Fraction = Annotated[float, _FRACTION]
PositiveFraction = Annotated[float, _POSITIVE, _FRACTION]
FractionBelowOne = Annotated[float, _FRACTION, _BELOW_ONE]


def build(kind: Any, value: Any, path: str) -> Any:
    """Checks plain values against a type and converts them to it.

    Args:
      kind: a dataclass, or what its fields may be: numbers, strings, tuples, dicts, Literals,
        and types annotated with a `Range` or a `Choice`.
      value: of a ConfigDict or of JSON.
      path: what errors call it, such as 'config.samples'.

    Raises:
      ConfigError: an unknown name, a value of another type or out of its range.
    """
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast(type, kind), value, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        value = build(arguments[0], value, path)
        for rule in arguments[1:]:
            rule.check(value, path)
        return value
    if origin is Literal:
        return choose(path, value, arguments)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(f"{path} must be a list, got {value!r}")
        return tuple(build(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= _LARGEST else math.inf
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{path} must be {_article(kind)}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{path} must be a finite number, got {value}")
    if kind is int and abs(value) > _LARGEST:
        raise ConfigError(f"{path} must be at most {_LARGEST}, got {value}")
    return value


def _build_dataclass(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} must be a group of fields, got {value!r}")
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in value:
        check_known(f"field {path}.{name}", name, hints)
    fields = {name: build(hints[name], item, f"{path}.{name}") for name, item in value.items()}
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def added(default: Any) -> Any:
    """The default of a dataclass's field that was added when results were recorded already.

    `identity` leaves such a field out where it has its default, so that what it was before has the
    same identity as ever::

        momentum: float = schema.added(0.9)
    """
    if isinstance(default, (dict, list)):
        return dataclasses.field(
            default_factory=lambda: copy.deepcopy(default), metadata={_ADDED: True}
        )
    return dataclasses.field(default=default, metadata={_ADDED: True})


def identity(settings: Any) -> Any:
    """What tells settings from others: their plain values, without `added` fields at a default.

    Args:
      settings: a dataclass, whose fields may be dataclasses again; anything else is returned as it
        is.
    """
    if not dataclasses.is_dataclass(settings):
        return settings
    values = {field: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {
        field.name: identity(value)
        for field, value in values.items()
        if not (field.metadata.get(_ADDED) and value == _default(field))
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def parse_arguments(argument: str | None, **defaults: Any) -> ConfigDict:
    """Reads a config file's argument, as in `--config=configs/vit_fashion.py:w=3,method=noise`.

    Args:
      argument: comma-separated `name=value`; None or empty for the defaults.
      **defaults: the names allowed, with default values, whose types the values take.

    Raises:
      ConfigError: a name that is unknown or given twice, or a value of another type.
    """
    values, given = dict(defaults), set[str]()
    for item in filter(None, (argument or "").split(",")):
        name, _, text = item.partition("=")
        check_known(f"config argument {name!r}", name, defaults)
        if name in given:
            raise ConfigError(f"config argument {name} is given twice")
        given.add(name)
        kind = type(defaults[name])
        try:
            values[name] = kind(text)
        except ValueError:
            raise ConfigError(
                f"config argument {name} must be {_article(kind)}, got {text!r}"
            ) from None
    return ConfigDict(values)


def choose(what: str, value: str, options: Iterable[str]) -> str:
    """Returns `value` if it is one of the options, else raises `ConfigError`."""
    check_known(f"{what} {value!r}", value, options)
    return value


def check_known(what: str, name: Any, known: Iterable[str]) -> None:
    """Raises `ConfigError`, with the nearest known name, if `name` is not one of them."""
    options = list(known)
    if name not in options:
        near = difflib.get_close_matches(str(name), options, n=1, cutoff=0)[0]
        named = ", ".join(filter(None, map(str, options)))
        listed = f" Expected one of {named}" if len(options) <= 12 else ""
        raise ConfigError(f"unknown {what}: did you mean {near!r}?{listed}")


def _article(kind: type) -> str:
    return {int: "an integer", float: "a number", str: "a string", bool: "True or False"}.get(
        kind, f"a {kind.__name__}"
    )
