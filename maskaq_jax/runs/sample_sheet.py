"""The picture of a run's samples, each beside its informative regions."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from maskaq_jax.images.pixels import Pixels


def draw(
    path: Path,
    images: np.ndarray,
    masks: np.ndarray,
    grid: tuple[int, int],
    pixels: Pixels,
    found: np.ndarray | None = None,
) -> None:
    """Draws images, each beside itself with its informative regions lit and outlined.

    Args:
      path: of the PNG.
      images: [B, height, width, channels] float32, normalised; 1 or 3 channels.
      masks: [B, rows * columns] of 0 and 1.
      grid: rows and columns of patches.
      pixels: the normalisation.
      found: [B, height, width, 3] uint8, the same with what the model finds drawn in, which stand
        on the right of them; None for none.
    """
    pictures = to_pictures(images, pixels)
    height, width = pictures.shape[1:3]
    zoom = max(1, round(112 / height))
    gap = 8
    step = width * zoom + gap // 2
    cells_per_row = min(4, len(pictures))
    cell_width, cell_height = (2 if found is None else 3) * step - gap // 2, height * zoom
    num_rows = math.ceil(len(pictures) / cells_per_row)
    sheet = Image.new(
        "RGB",
        (cells_per_row * (cell_width + 2 * gap) + gap, num_rows * (cell_height + gap) + gap),
        "white",
    )
    for i, mask in enumerate(masks):
        picture = _enlarge(pictures[i], zoom)
        cell = [picture, _light_regions(picture, mask.reshape(grid).astype(bool))]
        if found is not None:
            cell.append(_enlarge(found[i], zoom))
        row, column = divmod(i, cells_per_row)
        left = gap + column * (cell_width + 2 * gap)
        for place, one in enumerate(cell):
            sheet.paste(one, (left + place * step, gap + row * (cell_height + gap)))
    sheet.save(path)


def to_pictures(images: np.ndarray, pixels: Pixels) -> np.ndarray:
    """[B, height, width, 1 or 3] float32, normalised by `pixels` -> [B, height, width, 3] uint8."""
    values = (255 * pixels.denormalise(images)).astype(np.uint8)
    return np.broadcast_to(values, (*values.shape[:-1], 3))


def _enlarge(picture: np.ndarray, zoom: int) -> Image.Image:
    height, width, _ = picture.shape
    return Image.fromarray(picture).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)


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
