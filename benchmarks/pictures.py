"""The paper's pictures, of runs of `benchmarks.methods`.

    python -m benchmarks.pictures --models=vit_fashion,swin_fashion

For each model, writes into `docs/results/`: `samples_MODEL.png`, images of each method side by
side; `similarity_MODEL.png`, how similar P finds the patches of an image of each; and
`attention_MODEL.png`, where P and Q look in MaskAQ's images, with the informative regions outlined.
All of seed 0 at W3A3, and of the last block. Runs that are not in `--workdir` are made first. The
chart of accuracy against the number of images and of refreshes is drawn again from the rows that
`benchmarks.budgets` has made.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import budgets, charts, methods, runs
from maskaq_jax.models import full_precision
from maskaq_jax.runs import directory, training_images
from maskaq_jax.runs.inputs import RunInputs, load, prepare

_NUM_COLUMNS = 12


def main() -> None:
    """Draws all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="vit_fashion,swin_fashion", help="of configs/")
    parser.add_argument("--workdir", type=Path, default=Path("runs/methods"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for model in options.models.split(","):
        images = {}
        for method in methods.METHODS:
            inputs = open_run(model, method, options.workdir)
            images[method] = training_images.read_newest(inputs, np.arange(_NUM_COLUMNS))
        draw_samples(options.out / f"samples_{model}.png", images, inputs)
        draw_similarity(options.out / f"similarity_{model}.png", images, inputs)
        inputs = open_run(model, "maskaq", options.workdir)
        _, variables = load(inputs.workdir)
        draw_attention(options.out / f"attention_{model}.png", images["maskaq"], variables, inputs)
    budgets.redraw(options.out)


def open_run(model: str, method: str, workdir: Path) -> RunInputs:
    """What a run of the bench read; it is made if it isn't there."""
    run = methods.Cell(model, 3, 3, method, seed=0).run
    runs.finish(run, workdir)
    workdir = run.directory(workdir)
    return prepare(directory.read_settings(workdir), workdir)


def attention_logits(inputs: RunInputs, variables: Any, images: np.ndarray) -> Sequence[jax.Array]:
    """Attention logits of each block; of P where `variables` is its `params`.

    Raises:
      ValueError: the last block's windows are not whole images.
    """
    model = inputs.model if "quant" in variables else full_precision(inputs.model)
    _, out = jax.jit(model.apply)(variables, jnp.asarray(images))
    logits = out["attention_logits"]
    if len(logits[-1]) != len(images):
        raise ValueError("the last block must attend over whole images")
    return logits


def draw_samples(path: Path, images: dict[str, np.ndarray], inputs: RunInputs) -> None:
    """A row of images for each method."""
    figure, axes = charts.new_figure(len(images), _NUM_COLUMNS, (_NUM_COLUMNS, len(images)))
    for row, (method, own) in zip(axes, images.items(), strict=True):
        for axis, picture in zip(row, inputs.config.pixels.denormalise(own), strict=True):
            show(axis, picture)
        row[0].set_ylabel(method, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=100)


def draw_similarity(path: Path, images: dict[str, np.ndarray], inputs: RunInputs) -> None:
    """Cosines between the head-averaged attention rows of an image's patches, for each method."""
    figure, axes = charts.new_figure(2, len(images), (2 * len(images), 4))
    for column, (method, own) in enumerate(images.items()):
        logits = attention_logits(inputs, {"params": inputs.params}, own[:1])[-1]
        rows = inputs.model.patches.logits(logits).mean(axis=1)[0]
        rows = rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
        show(axes[0, column], inputs.config.pixels.denormalise(own)[0])
        axes[0, column].set_title(method)
        show(axes[1, column], rows @ rows.T, vmin=-1, vmax=1, cmap="RdBu_r")
    axes[1, 0].set_ylabel("patch similarity")
    figure.savefig(path, dpi=100)


def draw_attention(path: Path, images: np.ndarray, variables: Any, inputs: RunInputs) -> None:
    """Images, and what P and Q attend to in them; P's informative regions are outlined."""
    model = inputs.model
    logits = {
        "P": attention_logits(inputs, {"params": inputs.params}, images),
        "Q": attention_logits(inputs, variables, images),
    }
    rows = {"image": inputs.config.pixels.denormalise(images)}
    for name, layers in logits.items():
        scores = model.patches.scores(layers[-1])
        rows[name] = np.asarray(scores).reshape(-1, *model.patch_grid)
    masks = model.patch_regions(logits["P"], inputs.config.synthesis.initial_ratio)
    height, width = images.shape[1:3]
    figure, axes = charts.new_figure(len(rows), len(images), (len(images), len(rows)))
    for axis_row, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture, mask in zip(axis_row, pictures, masks, strict=True):
            show(axis, picture, extent=(0, width, height, 0))
            outline(axis, np.asarray(mask).reshape(model.patch_grid), height, width)
        axis_row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=100)


def outline(axis: Any, mask: np.ndarray, height: int, width: int) -> None:
    """Draws the border of the marked patches."""
    patch = height // mask.shape[0], width // mask.shape[1]
    pixels = np.kron(mask, np.ones(patch))
    axis.contour(
        np.arange(width) + 0.5, np.arange(height) + 0.5, pixels, levels=[0.5], colors="orangered"
    )


def show(axis: Any, picture: Any, **options: Any) -> None:
    """An image without ticks."""
    axis.imshow(picture, **options)
    axis.set_xticks([])
    axis.set_yticks([])


if __name__ == "__main__":
    main()
