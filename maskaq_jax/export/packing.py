"""Codes of any number of bits in bytes without gaps, taken apart by shifts of whole arrays.

A code of k bits is cut into fields of 4, 2 and 1 bits, its lowest bits first: 7 = 4 + 2 + 1. Bytes
hold one field of several codes: of n codes (with zeros behind them, a multiple of 8) and fields of
f bits there are `m = n f / 8` bytes, and byte j has code j in its lowest f bits, then code `m + j`,
and so on. The bytes of the fields follow one another.
"""

from collections.abc import Iterator

import numpy as np

_WIDTHS = (4, 2, 1)


def fields(bits: int) -> Iterator[tuple[int, int]]:
    """Width of each field of a code, and how many lower bits there are."""
    lower = 0
    while lower < bits:
        width = next(width for width in _WIDTHS if width <= bits - lower)
        yield width, lower
        lower += width


def pack_fields(codes: np.ndarray, bits: int) -> list[np.ndarray]:
    """[...] int8 codes in `[-2^(k-1), 2^(k-1) - 1]` -> the bytes of each field, [m] uint8.

    The fields are those of the code's two's complement.
    """
    unsigned = np.pad(codes.reshape(-1), (0, -codes.size % 8)).view(np.uint8)
    packed = []
    for width, lower in fields(bits):
        slots = (unsigned >> lower & 2**width - 1).reshape(8 // width, -1)
        packed.append(np.bitwise_or.reduce(slots << _shifts(width), axis=0))
    return packed


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """[...] int8 codes in `[-2^(k-1), 2^(k-1) - 1]` -> bytes, [k ceil(size / 8)] uint8."""
    return np.concatenate(pack_fields(codes, bits))


def unpack(packed: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes of `pack` -> int8 codes of a shape.

    Raises:
      ValueError: they hold another number of codes.
    """
    size = int(np.prod(shape))
    eighths = -(-size // 8)
    if packed.shape != (bits * eighths,):
        raise ValueError(f"bytes of shape {packed.shape} do not hold {bits}-bit codes of {shape}")
    unsigned = np.zeros(8 * eighths, np.uint8)
    for width, lower in fields(bits):
        own = packed[lower * eighths : (lower + width) * eighths]
        slots = own[None] >> _shifts(width) & 2**width - 1
        unsigned |= slots.reshape(-1) << lower
    # Shifts to the left and back give all higher bits the sign's.
    codes = (unsigned[:size] << 8 - bits).view(np.int8) >> 8 - bits
    return codes.reshape(shape)


def _shifts(width: int) -> np.ndarray:
    """[8 / f, 1] of a byte's slots."""
    return np.arange(0, 8, width, dtype=np.uint8)[:, None]
