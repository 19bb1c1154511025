"""What the low-bit model is inside: steps and codes by layer, and what each tensor loses alone."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from maskaq_jax.models.sites import EMBEDDING
from maskaq_jax.report import charts, housekeeping
from maskaq_jax.report.contents import Contents, Layer
from maskaq_jax.report.markup import (
    Html,
    command,
    details,
    figure,
    grid,
    join,
    scrolling,
    table,
    tag,
)
from maskaq_jax.sensitivity import TensorLoss, heat_map

_TENSORS_SHOWN = 10
_FULL = 32


def layers(contents: Contents) -> Html:
    """Step sizes by layer, and how often each code of the weights is used."""
    rounded = [layer for layer in contents.layers if layer.weight_steps or layer.activation_step]
    if not rounded:
        return Html(tag("p", "Nothing is rounded at 32 bits."))
    parts = [
        tag(
            "p",
            "A step is the distance between neighbouring values of a grid: of a weight's, the "
            "median over its output channels.",
        ),
        grid("wide", filter(None, (_steps(contents.layers, kind) for kind in _STEPS))),
        tag("h3", "Weights by code"),
        tag(
            "p",
            "How often each integer code is used, from the lowest to the highest, by block. What "
            "is high at its ends has a small step for its weights; what is narrow, a large one.",
        ),
        *_histograms(contents.layers),
        details("Every layer in numbers", _layer_table(rounded)),
    ]
    return join(parts)


def sensitivity(contents: Contents) -> Html:
    """What each tensor loses alone, where that was measured."""
    found = contents.sensitivity
    if found is None:
        return join(
            [
                tag(
                    "p",
                    "Not measured. This tells which layers lose most when they alone are "
                    "rounded, and adds it here:",
                ),
                command(
                    f"python -m maskaq_jax.sensitivity --workdir={housekeeping.quoted(contents)}"
                ),
                command(housekeeping.report_command(contents)),
            ]
        )
    bits = f"W{found.weight_bits}A{found.activation_bits}"
    told = (
        f"Each tensor alone at {bits}, the rest in full precision, on {found.num_images} images: "
        "how far the outputs are from full precision, and of how many images in a hundred the "
        "class is another one."
    )
    shown = found.losses[:_TENSORS_SHOWN]
    rows = [
        (
            loss.layer,
            loss.tensor,
            str(loss.bits),
            "" if loss.agreement is None else f"{100 - loss.agreement:.1f}",
            f"{loss.divergence:.4f}",
        )
        for loss in shown
    ]
    header = ("layer", "tensor", "bits", "other class, %", "divergence")
    label = f"The {len(shown)} tensors that lose most, of {len(found.losses)}"
    rules = (
        [
            tag("p", "8 bits for what costs most:"),
            command(f"--config.quantization.rules={shlex.quote(found.suggested_rules)}"),
        ]
        if found.suggested_rules
        else []
    )
    names = [layer.name for layer in contents.layers]
    return join(
        [
            tag("p", told),
            _heat_map(found.losses, names) if found.losses else "",
            tag("h3", label),
            table(label, header, rows, numeric=(2, 3, 4)),
            *rules,
        ]
    )


# What is drawn of steps -> the figure of a layer.
_STEPS: Mapping[str, Callable[[Layer], float | None]] = {
    "weights": lambda layer: layer.weight_steps and layer.weight_steps[1],
    "activations": lambda layer: layer.activation_step,
}


def _steps(described: Sequence[Layer], kind: str) -> Html:
    """A line for each kind of layer, along the blocks."""
    step_of = _STEPS[kind]
    columns = list(dict.fromkeys(_place(layer.name)[0] for layer in described))
    series: dict[str, list[tuple[float, float]]] = {}
    for layer in described:
        step = step_of(layer)
        if step is not None:
            column, kind_of_layer = _place(layer.name)
            series.setdefault(kind_of_layer, []).append((columns.index(column), step))
    if not series:
        return Html()
    label = f"Steps of {kind} by block: " + "; ".join(
        f"{name} {min(y for _, y in points):.3g} to {max(y for _, y in points):.3g}"
        for name, points in series.items()
    )
    chart = charts.lines(
        f"steps-{kind}",
        *(label, series, "block", "step"),
        size=(360, 270),
        ticks=[_short(column) for column in columns],
    )
    return figure(chart, f"Steps of {kind}")


def _place(layer: str) -> tuple[str, str]:
    """A layer's block, and its kind: what it is in there, or the block itself."""
    block, kind = heat_map.place_of(layer)
    return block, kind or block


def _short(column: str) -> str:
    """`3` for blocks_3, `1.0` for layers_1.blocks_0, `patch` for patch_embed."""
    parts = [part.rpartition("_") for part in column.split(".")]
    if all(digits.isdecimal() for _, _, digits in parts):
        return ".".join(digits for _, _, digits in parts)
    return "patch" if column == EMBEDDING[0] else column


def _histograms(described: Sequence[Layer]) -> Iterator[Html]:
    """Those of each kind of layer, along the blocks; kinds that are there once come together."""
    kinds: dict[str, list[Layer]] = {}
    for layer in described:
        if layer.code_shares is not None:
            kinds.setdefault(_place(layer.name)[1], []).append(layer)
    single = [layer for layers in kinds.values() if len(layers) == 1 for layer in layers]
    for kind, layers in kinds.items():
        if len(layers) > 1:
            shown = [_histogram(layer, _short(_place(layer.name)[0])) for layer in layers]
            yield details(kind, grid("tiny", shown), opened=True)
    if single:
        shown = [_histogram(layer, layer.name) for layer in single]
        yield details("all else", grid("tiny", shown), opened=True)


def _histogram(layer: Layer, name: str) -> Html:
    shares, bits = layer.code_shares, layer.weight_bits
    assert shares is not None
    assert bits is not None
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    ends = f"{low} at {shares[0]:.1%}, {high} at {shares[-1]:.1%}, most {shares.max():.1%}"
    chart = charts.histogram(
        f"codes-{layer.name.replace('.', '-')}", f"Codes of {layer.name}: {ends}", shares
    )
    return figure(chart, join([tag("strong", name), f" {bits} bits"]))


def _layer_table(described: Sequence[Layer]) -> Html:
    header = (
        "layer",
        "bits of weights",
        "step",
        "bits of activations",
        "step",
        "zero point, a code",
    )
    rows = [
        (
            layer.name,
            _bits(layer.weight_bits),
            "" if layer.weight_steps is None else f"{layer.weight_steps[1]:.3g}",
            _bits(layer.activation_bits),
            "" if layer.activation_step is None else f"{layer.activation_step:.3g}",
            "" if layer.zero_point is None else f"{layer.zero_point:.1f}",
        )
        for layer in described
    ]
    return table("Every layer", header, rows, numeric=range(1, 6))


def _bits(bits: int | None) -> str:
    return "" if bits is None else ("none" if bits == _FULL else str(bits))


def _heat_map(found: Sequence[TensorLoss], names: Sequence[str]) -> Html:
    """A row for each kind of tensor, a column for each block."""
    rows, columns, cells = heat_map.lay_out(found, names, _place)
    shares = np.full((len(rows), len(columns)), np.nan)
    texts = [["" for _ in columns] for _ in rows]
    for (row, column), cell in cells.items():
        shares[row, column] = cell.share
        if cell.loss.agreement is not None:
            texts[row][column] = f"{100 - cell.loss.agreement:.0f}"
    label = "What each tensor loses alone; the table below has those that lose most"
    labels = [f"{kind} {tensor}" for kind, tensor in rows]
    chart = charts.heat_map(
        "sensitivity", label, shares, texts, labels, [_short(column) for column in columns]
    )
    return figure(
        scrolling(label, chart),
        "The darker, the further from full precision; numbers are images of a hundred that get "
        "another class",
    )
