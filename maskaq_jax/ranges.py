"""Types of config fields that say which numbers make sense, as `learning_rate: PositiveFloat`.

To whoever computes with them they are plain numbers; `schema.build` checks them.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Range:
    """Which values a field may have.

    Attributes:
      rule: what errors say after the field's name, as 'must be positive'.
      contains: whether a value is one of them.
    """

    rule: str
    contains: Callable[[float], bool]


_POSITIVE = Range("must be positive", lambda value: value > 0)
_NOT_NEGATIVE = Range("must not be negative", lambda value: value >= 0)
_SHARE = Range("must be between 0 and 1", lambda value: 0 <= value <= 1)
_BELOW_ONE = Range("must be below 1", lambda value: value < 1)

PositiveInt = Annotated[int, _POSITIVE]
PositiveFloat = Annotated[float, _POSITIVE]
NonNegativeInt = Annotated[int, _NOT_NEGATIVE]
NonNegativeFloat = Annotated[float, _NOT_NEGATIVE]
Share = Annotated[float, _SHARE]
PositiveShare = Annotated[float, _POSITIVE, _SHARE]
ShareBelowOne = Annotated[float, _SHARE, _BELOW_ONE]
