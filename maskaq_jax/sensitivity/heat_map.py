"""The picture of what tensors lose: a row for each kind of tensor, a column for each block."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from maskaq_jax.sensitivity.tensors import TensorLoss

_CELL = 46, 24
_GAP = 12
_TEXT, _PAPER, _NOTHING = (30, 30, 30), (255, 255, 255), (238, 238, 238)
_WORST = (178, 24, 43)
_FONT_SIZE = 13
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Cell(NamedTuple):
    """What a tensor loses.

    Attributes:
      loss: as it was measured.
      share: of the worst, from 0 to 1, by the root of the divergence: how dark it is.
    """

    loss: TensorLoss
    share: float


class Layout(NamedTuple):
    """Which tensor has which place.

    Attributes:
      rows: kind of layer, and tensor.
      columns: names of blocks.
      cells: by numbers of row and column; places of no tensor are left out.
    """

    rows: list[tuple[str, str]]
    columns: list[str]
    cells: Mapping[tuple[int, int], Cell]


def lay_out(
    losses: Sequence[TensorLoss],
    layers: Sequence[str],
    place: Callable[[str], tuple[str, str]],
) -> Layout:
    """A row for each kind of tensor that is among the losses, a column for each block.

    Args:
      losses: of the tensors, in any order.
      layers: names of all layers, in the order of a pass.
      place: column and row of a layer by its name, as `place_of`.
    """
    places = {layer: place(layer) for layer in (*layers, *(loss.layer for loss in losses))}
    columns = list(dict.fromkeys(column for column, _ in places.values()))
    rows = [
        (row, tensor)
        for row in dict.fromkeys(row for _, row in places.values())
        for tensor in ("weight", "activation")
        if any(loss.tensor == tensor and places[loss.layer][1] == row for loss in losses)
    ]
    worst = max((loss.divergence for loss in losses), default=0.0)
    cells = {}
    for loss in losses:
        column, row = places[loss.layer]
        share = math.sqrt(max(0.0, loss.divergence) / worst) if worst > 0 else 0.0
        cells[rows.index((row, loss.tensor)), columns.index(column)] = Cell(loss, share)
    return Layout(rows, columns, cells)


def draw(path: Path, losses: Sequence[TensorLoss], layers: Sequence[str], title: str) -> None:
    """Draws a map: the darker, the more a tensor's rounding lets Q diverge from P.

    A cell holds how many of a hundred images get another class than P's.

    Args:
      path: of the PNG.
      losses: of the tensors, in any order.
      layers: names of all layers, in the order of a pass.
      title: above it.
    """
    rows, columns, cells = lay_out(losses, layers, place_of)
    font = ImageFont.load_default(_FONT_SIZE)
    labels = [f"{kind} {tensor}".strip() for kind, tensor in rows]
    left = 2 * _GAP + math.ceil(max(font.getlength(label) for label in labels))
    names = math.ceil(max(font.getlength(column) for column in columns))
    top = 3 * _GAP + _FONT_SIZE + names
    width, height = _CELL
    size = left + width * len(columns) + _GAP, top + height * len(rows) + _GAP
    size = max(size[0], 2 * _GAP + math.ceil(font.getlength(title))), size[1]
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), title, _TEXT, font)
    for number, column in enumerate(columns):
        _write_upright(sheet, column, (left + width * number, top), font)
    for y, label in enumerate(labels):
        middle = top + height * y + height // 2
        pen.text((left - _GAP, middle), label, _TEXT, font, anchor="rm")
        for x in range(len(columns)):
            cell = cells.get((y, x))
            corner = left + width * x, top + height * y
            far = corner[0] + width - 2, corner[1] + height - 2
            pen.rectangle((*corner, *far), _mix(cell.share) if cell else _NOTHING)
            if cell and cell.loss.agreement is not None:
                ink = _PAPER if cell.share > 0.6 else _TEXT
                place = corner[0] + width // 2, middle
                pen.text(place, f"{100 - cell.loss.agreement:.0f}", ink, font, anchor="mm")
    sheet.save(path)


def place_of(layer: str) -> tuple[str, str]:
    """Column and row of a layer by its dotted name: its block, and what it is in there."""
    *path, last = layer.split(".")
    numbered = [i for i, name in enumerate(path) if name.rpartition("_")[2].isdecimal()]
    depth = numbered[-1] + 1 if numbered else len(path)
    if not path:
        return last, ""
    return ".".join(path[:depth]), ".".join([*path[depth:], last])


def _mix(share: float) -> tuple[int, ...]:
    """From paper, at 0, to the worst colour, at 1."""
    pairs = zip(_PAPER, _WORST, strict=True)
    return tuple(round(paper + share * (worst - paper)) for paper, worst in pairs)


def _write_upright(sheet: Image.Image, text: str, foot: tuple[int, int], font: _Font) -> None:
    """Text from bottom to top, which ends above a column's upper left corner."""
    length = math.ceil(font.getlength(text))
    label = Image.new("RGB", (length, _CELL[1]), _PAPER)
    ImageDraw.Draw(label).text((0, _CELL[1] // 2), text, _TEXT, font, anchor="lm")
    label = label.rotate(90, expand=True)
    sheet.paste(label, (foot[0] + (_CELL[0] - label.width) // 2, foot[1] - length - 4))
