"""From plain values to dataclasses, and what tells one from another as fields are added."""

import dataclasses

import pytest

from maskaq_jax import schema
from maskaq_jax.schema import ConfigError


def test_arguments_take_the_types_of_their_defaults():
    arguments = schema.parse_arguments("w=4,method=noise", w=3, a=3, method="maskaq")
    assert arguments.to_dict() == {"w": 4, "a": 3, "method": "noise"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [("bits=4", "unknown config argument 'bits'"), ("w=four", "w must be an integer, got 'four'")],
)
def test_wrong_arguments_are_named(argument, message):
    with pytest.raises(ConfigError, match=message):
        schema.parse_arguments(argument, w=3)


@dataclasses.dataclass(frozen=True)
class Before:
    """As results were recorded with it."""

    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Decay:
    power: float = 2.0


@dataclasses.dataclass(frozen=True)
class After:
    """As it is now."""

    rate: float = 0.5
    momentum: float = schema.added(0.9)
    rules: dict[str, int] = schema.added({"head": 8})
    decay: Decay = schema.added(Decay())


def test_an_added_field_at_its_default_leaves_the_identity_as_it_was():
    for rate in (0.5, 0.1):
        assert schema.identity(After(rate)) == schema.identity(Before(rate)) == {"rate": rate}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"momentum": 0.8}, {"momentum": 0.8}),
        ({"rules": {}}, {"rules": {}}),
        ({"decay": Decay(3.0)}, {"decay": {"power": 3.0}}),
    ],
)
def test_an_added_field_of_another_value_is_another_identity(change, told):
    assert schema.identity(After(**change)) == {"rate": 0.5} | told


def test_what_was_stored_before_a_field_was_added_has_its_default():
    assert schema.build(After, {"rate": 0.1}, "config") == After(0.1)


def test_defaults_that_can_change_are_shared_by_nobody():
    After().rules["head"] = 4
    assert After().rules == {"head": 8}


@dataclasses.dataclass(frozen=True)
class Whole:
    part: After = After()


def test_an_identity_reaches_into_groups_of_fields():
    assert schema.identity(Whole()) == {"part": {"rate": 0.5}}


@dataclasses.dataclass(frozen=True)
class Typed:
    fraction: schema.Fraction = 0.5
    above_zero: schema.PositiveFraction = 0.5
    below_one: schema.FractionBelowOne = 0.5


@pytest.mark.parametrize(
    ("field", "values"),
    [("fraction", (0, 1)), ("above_zero", (1e-9, 1)), ("below_one", (0, 0.999))],
)
def test_fractions_have_the_ends_that_their_names_say(field, values):
    for value in values:
        schema.build(Typed, {field: value}, "config")
    beyond = {"fraction": (-0.1, 1.1), "above_zero": (0.0, 1.1), "below_one": (-0.1, 1.0)}[field]
    for value in beyond:
        with pytest.raises(ConfigError, match=f"config.{field} must be"):
            schema.build(Typed, {field: value}, "config")
