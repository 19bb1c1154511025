"""Samples as pictures of a page: themselves, with their informative regions, and as both attend."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from maskaq_jax.config import METHODS
from maskaq_jax.report import charts
from maskaq_jax.report.contents import Answer, Contents, Sample
from maskaq_jax.report.markup import Html, figure, grid, join, tag

# Smaller ones are kept to the bit, and shown with their pixels as squares.
_SMALL = 64
_JPEG_QUALITY = 85
# Of samples, those that more is shown of.
_SHOWN_CLOSELY = 4


def samples(contents: Contents) -> Html:
    """Some images beside their informative regions."""
    if contents.looks is None:
        return Html()
    results, looks = contents.results, contents.looks
    method = results["method"]
    made = METHODS[method].samples if method in METHODS else "images"
    told = (
        f"{len(looks.samples)} of {results['num_samples']} {made}. What is dark in the second "
        "picture is outside the informative regions: the "
        f"{100 * looks.ratio:.0f}% of the patches that the full-precision model attends to most."
    )
    if any(shown.answer_p for shown in looks.samples):
        told += " In bold: the low-bit model takes it for another class."
    pairs = (
        _sample(f"sample-{number}", number, shown)
        for number, shown in enumerate(looks.samples, start=1)
    )
    return join([tag("p", told), grid("narrow", pairs)])


def found(contents: Contents) -> Html:
    """Boxes, or classes of pixels, that P and Q find, side by side."""
    samples = contents.looks.samples[:_SHOWN_CLOSELY] if contents.looks else ()
    triples = [
        _triple(
            [f"Sample {number}", f"sample {number}"],
            [f"What full precision finds in sample {number}", "full-precision"],
            [f"What the low-bit model finds in sample {number}", "low-bit"],
            pictures=(shown.pixels, shown.found_p, shown.found_q),
        )
        for number, shown in enumerate(samples, start=1)
        if shown.found_p is not None and shown.found_q is not None
    ]
    if not triples:
        return Html()
    told = "What both models find in some of the samples, each class in a colour of its own."
    return join([tag("p", told), grid("wide", triples)])


def attention(contents: Contents) -> Html:
    """What P and Q attend to, side by side, and how alike that is in each layer."""
    if contents.looks is None:
        return Html()
    looks = contents.looks
    told = (
        "How much attention each patch gets, as the method scores it: logits, averaged over heads "
        "and layers (of a Swin, over the last stage's first block). Bright is much; a sample's two "
        "maps have one scale."
    )
    triples = (
        _attention(number, shown)
        for number, shown in enumerate(looks.samples[:_SHOWN_CLOSELY], start=1)
    )
    points = list(enumerate(looks.correlations))
    finite = [value for _, value in points if math.isfinite(value)]
    by_layer = Html()
    if len(finite) > 1:
        label = (
            "Correlation of both models' attention by layer, from "
            f"{min(finite):.2f} to {max(finite):.2f}"
        )
        chart = charts.lines("correlation", label, {"": points}, "layer", "correlation")
        by_layer = figure(
            chart, f"How alike both models attend, by layer, on {len(looks.samples)} samples"
        )
    return join([tag("p", told), grid("wide", triples), by_layer])


def _sample(name: str, number: int, shown: Sample) -> Html:
    """A sample beside itself, dark outside its informative regions, and its classes.

    Args:
      name: of the picture, unlike any other's of the page.
      number: of the sample, from 1.
      shown: the sample.
    """
    height, width = shown.pixels.shape[:2]
    plain = _image(shown.pixels, width, height, name)
    again = tag("use", href=f"#{name}")
    regions = (
        tag("path", class_="shade", d=_shade(shown.regions, width, height)),
        tag("path", class_="edge", d=_edge(shown.regions, width, height)),
    )
    count = int(shown.regions.sum())
    pair = (
        _frame(f"Sample {number}", width, height, plain),
        _frame(
            f"Sample {number}, dark outside its {count} informative patches of "
            f"{shown.regions.size}",
            *(width, height, again, *regions),
        ),
    )
    return figure(tag("div", *pair, class_="pair"), _answers(number, shown))


def _attention(number: int, shown: Sample) -> Html:
    """A sample, and how informative P and Q find its patches, in the same colours."""
    both = np.stack([shown.attention_p, shown.attention_q])
    low, high = both.min(), both.max()
    scaled = (both - low) / (high - low) if high > low else np.zeros_like(both)
    of_p, of_q = charts.colour_map(scaled)
    triple = _triple(
        [f"Sample {number}", f"sample {number}"],
        *(
            [f"{label} attention to sample {number}, most to {_brightest(scores)}", model]
            for label, model, scores in zip(
                ("Full-precision", "Low-bit"), ("full-precision", "low-bit"), both, strict=True
            )
        ),
        pictures=(shown.pixels, of_p, of_q),
    )
    return figure(triple, f"correlation of the two {correlation(shown):.2f}")


def _triple(*told: Sequence[str], pictures: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Html:
    """Pictures of one place side by side, as large as the first one.

    Args:
      *told: of each, what it shows and what is written below.
      pictures: [rows, columns, 3 or 4] uint8.
    """
    height, width = pictures[0].shape[:2]
    frames = [
        figure(_frame(label, width, height, _image(picture, width, height)), caption)
        for (label, caption), picture in zip(told, pictures, strict=True)
    ]
    return tag("div", *frames, class_="triple")


def correlation(shown: Sample) -> float:
    """Pearson's, of P's and Q's scores of a sample's patches; not a number where one is flat."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(shown.attention_p.ravel(), shown.attention_q.ravel())[0, 1])


def _answers(number: int, shown: Sample) -> Html:
    if shown.answer_p is None or shown.answer_q is None:
        return join([f"{number}"])
    same = shown.answer_p.label == shown.answer_q.label
    return join(
        [
            f"{number}: full precision {_answer(shown.answer_p)}, low-bit ",
            _answer(shown.answer_q) if same else tag("strong", _answer(shown.answer_q)),
        ]
    )


def _answer(answer: Answer) -> str:
    return f"class {answer.label} ({100 * answer.share:.0f}%)"


def _brightest(scores: np.ndarray) -> str:
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    return f"row {int(row) + 1}, column {int(column) + 1} of the patches"


def _image(pixels: np.ndarray, width: int, height: int, name: str | None = None) -> Html:
    """[rows, columns, 3 or 4] uint8 as part of a picture; few pixels stay squares."""
    class_ = "pixels" if max(pixels.shape[:2]) <= _SMALL else None
    uri = _data_uri(pixels)
    # A map may have fewer rows than a square's share.
    options = {"id_": name, "class_": class_, "preserveAspectRatio": "none"}
    return tag("image", href=uri, width=width, height=height, **options)


def _frame(label: str, width: int, height: int, *content: Html) -> Html:
    """A picture that is as wide as its place."""
    return tag(
        "svg",
        *content,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=label,
    )


def _data_uri(pixels: np.ndarray) -> str:
    """[height, width, 3 or 4] uint8 as an address that holds them."""
    picture, written = Image.fromarray(pixels).convert("RGB"), io.BytesIO()
    kind = "png" if max(picture.size) <= _SMALL else "jpeg"
    picture.save(written, kind, optimize=True, quality=_JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def _shade(regions: np.ndarray, width: int, height: int) -> str:
    """A path of the patches that are not informative."""
    x, y = width / regions.shape[1], height / regions.shape[0]
    return "".join(
        f"M{column * x:g} {row * y:g}h{x:g}v{y:g}h{-x:g}z"
        for row, column in np.argwhere(~regions).tolist()
    )


def _edge(regions: np.ndarray, width: int, height: int) -> str:
    """A path between the informative patches and the others, and along the picture's edges."""
    x, y = width / regions.shape[1], height / regions.shape[0]
    padded = np.pad(regions, 1)
    across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]).tolist()
    down = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]).tolist()
    return "".join(
        [
            *(f"M{column * x:g} {row * y:g}h{x:g}" for row, column in across),
            *(f"M{column * x:g} {row * y:g}v{y:g}" for row, column in down),
        ]
    )
