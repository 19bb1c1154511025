"""What readers say of what they took for granted, to whoever asks to be told."""

import logging
from collections.abc import Callable, Sequence

# Is told one line.
Tell = Callable[[str], None]

# Items that a line names.
_SHOWN = 3


def log(line: str) -> None:
    """Tells the package's logger, where nobody else is named."""
    logging.getLogger("maskaq_jax").info(line)


def some(items: Sequence[object], shown: int = _SHOWN) -> str:
    """The first of them, comma-separated, with dots where there are more."""
    return ", ".join(map(str, items[:shown])) + (", ..." if len(items) > shown else "")
