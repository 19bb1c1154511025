"""Rules that give layers other bits than their model's: patterns of layers' names, and bits.

They are one line of text, which a command line, a config and a notebook write alike::

    blocks_0.*=8x8,blocks_*.mlp.fc2=4x8,head=8x8

A pattern is matched as a shell does, `*` over dots too, with the dotted names of
`sites.layer_names`; `WxA` are the bits of weights and of activations.
"""

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from maskaq_jax import quantizers

# What makes more of a pattern than a name.
_WILD = re.compile(r"[*?\[]")
_NUMBER = re.compile(r"\d+")


class Bits(NamedTuple):
    """Bits of weights and of activations, 2 to 8 or 32 each; written as 4x8."""

    weight: int
    activation: int

    def __str__(self) -> str:
        return f"{self.weight}x{self.activation}"


class Rule(NamedTuple):
    """Bits of the layers whose name fits a pattern."""

    pattern: str
    bits: Bits

    def __str__(self) -> str:
        return f"{self.pattern}={self.bits}"


def check_bits(weight_bits: int, activation_bits: int) -> None:
    """Raises ValueError unless each is 2 to 8, or 32 for none."""
    for name, bits in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
        if bits != quantizers.FULL_PRECISION_BITS and not (
            quantizers.MIN_BITS <= bits <= quantizers.MAX_BITS
        ):
            raise ValueError(
                f"{name} must be {quantizers.MIN_BITS} to {quantizers.MAX_BITS}, or "
                f"{quantizers.FULL_PRECISION_BITS} for none, got {bits}"
            )


def parse_bits(text: str) -> Bits:
    """Reads `4x8`.

    Raises:
      ValueError: it is no such pair, or the bits are not 2 to 8 or 32.
    """
    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text.strip())
    if not found:
        raise ValueError(f"bits of weights and activations read like 4x8, got {text!r}")
    bits = Bits(int(found[1]), int(found[2]))
    check_bits(*bits)
    return bits


def parse(text: str) -> tuple[Rule, ...]:
    """Reads rules; none of an empty text.

    Raises:
      ValueError: a rule is not PATTERN=WxA, or its bits are not 2 to 8 or 32.
    """
    return tuple(_parse_rule(item.strip()) for item in text.split(",")) if text.strip() else ()


def join(rules: Iterable[Rule]) -> str:
    """The text of rules."""
    return ",".join(map(str, rules))


def settle(rules: Iterable[Rule], names: Collection[str]) -> tuple[Rule, ...]:
    """The rules with a name for each pattern: one for each layer that is matched, in names' order.

    Args:
      rules: with patterns.
      names: of all layers.

    Raises:
      ValueError: a rule matches no layer, or two give one layer different bits.
    """
    by_name: dict[str, Rule] = {}
    for rule in rules:
        matched = [name for name in names if fnmatch.fnmatchcase(name, rule.pattern)]
        if not matched:
            raise ValueError(f"rule {str(rule)!r} matches no layer{_hint(rule.pattern, names)}")
        for name in matched:
            other = by_name.setdefault(name, rule)
            if other.bits != rule.bits:
                raise ValueError(
                    f"rules {str(other)!r} and {str(rule)!r} contradict each other: both match "
                    f"{name}{_kinds(names)}"
                )
    return tuple(Rule(name, by_name[name].bits) for name in names if name in by_name)


def below(rules: Iterable[Rule], name: str) -> tuple[Rule, ...]:
    """Settled rules of what lies in a module of that name, as seen from there; '' is the module.

    Raises:
      ValueError: rules have patterns.
    """
    inside = []
    for rule in rules:
        if _WILD.search(rule.pattern):
            raise ValueError(f"rule {str(rule)!r} has a pattern, which `create_model` settles")
        first, _, rest = rule.pattern.partition(".")
        if first == name:
            inside.append(Rule(rest, rule.bits))
    return tuple(inside)


def _parse_rule(text: str) -> Rule:
    pattern, _, bits = text.rpartition("=")
    if not pattern:
        raise ValueError(f"rule {text!r} must read PATTERN=WxA, as blocks_*.mlp.fc2=4x8")
    try:
        return Rule(pattern.strip(), parse_bits(bits))
    except ValueError as error:
        raise ValueError(f"rule {text!r}: {error}") from None


def _hint(pattern: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(pattern, names, n=1)
    return (f": did you mean {near[0]!r}?" if near else "") + _kinds(names)


def _kinds(names: Collection[str]) -> str:
    """All names, with `*` for their numbers: a model has hundreds."""
    kinds = dict.fromkeys(_NUMBER.sub("*", name) if "." in name else name for name in names)
    return f"; there are {', '.join(kinds)}"
