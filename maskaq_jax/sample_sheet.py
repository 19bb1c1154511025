"""The picture of a run's samples, each beside its informative regions."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from maskaq_jax.pixels import Pixels


def draw(
    path: Path, images: np.ndarray, masks: np.ndarray, grid: tuple[int, int], pixels: Pixels
) -> None:
    """Draws images, each beside itself with its informative regions lit and outlined.

    Args:
      path: of the PNG.
      images: [B, height, width, channels] float32, normalised; 1 or 3 channels.
      masks: [B, rows * columns] of 0 and 1.
      grid: rows and columns of patches.
      pixels: the normalisation.
    """
    height, width, channels = images.shape[1:]
    zoom = max(1, round(112 / height))
    gap = 8
    pairs_per_row = min(4, len(images))
    cell_width, cell_height = 2 * width * zoom + gap // 2, height * zoom
    num_rows = math.ceil(len(images) / pairs_per_row)
    sheet = Image.new(
        "RGB",
        (pairs_per_row * (cell_width + 2 * gap) + gap, num_rows * (cell_height + gap) + gap),
        "white",
    )
    values = pixels.denormalise(images)
    values = np.broadcast_to(values, (*values.shape[:-1], 3)) if channels == 1 else values
    for i, (value, mask) in enumerate(zip(values, masks, strict=True)):
        picture = Image.fromarray((255 * value).astype(np.uint8)).resize(
            (width * zoom, cell_height), Image.Resampling.NEAREST
        )
        row, column = divmod(i, pairs_per_row)
        left = gap + column * (cell_width + 2 * gap)
        top = gap + row * (cell_height + gap)
        sheet.paste(picture, (left, top))
        lit = _light_regions(picture, mask.reshape(grid).astype(bool))
        sheet.paste(lit, (left + width * zoom + gap // 2, top))
    sheet.save(path)


def _light_regions(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """Darkens what lies outside the marked patches and outlines them."""
    rows, columns = mask.shape
    size = picture.width // columns, picture.height // rows
    shade = np.kron(np.where(mask, 1.0, 0.3), np.ones((size[1], size[0])))
    lit = np.asarray(picture) * shade[..., None]
    result = Image.fromarray(lit.astype(np.uint8))
    draw = ImageDraw.Draw(result)
    padded = np.pad(mask, 1)
    for row, column in zip(*np.nonzero(mask), strict=True):
        left, top = column * size[0], row * size[1]
        right, bottom = left + size[0] - 1, top + size[1] - 1
        edges = (
            (padded[row, column + 1], (left, top, right, top)),
            (padded[row + 2, column + 1], (left, bottom, right, bottom)),
            (padded[row + 1, column], (left, top, left, bottom)),
            (padded[row + 1, column + 2], (right, top, right, bottom)),
        )
        for neighbour_marked, line in edges:
            if not neighbour_marked:
                draw.line(line, fill=(255, 80, 0), width=2)
    return result
