"""What came of a run: accuracies, which model was kept, losses and time."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from maskaq_jax.report import charts
from maskaq_jax.report.contents import Contents
from maskaq_jax.report.markup import Html, figure, grid, join, table, tag
from maskaq_jax.runs.progress import duration
from maskaq_jax.runs.results import TITLES, bits_of, figures_by_model, training_of

_MODELS = ("fp", "calibrated", "quantized")
# Fewer are written as numbers.
_LEAST_POINTS = 3
_MINUS = "\N{MINUS SIGN}"


def accuracy(contents: Contents) -> Html:
    """Figures of the three models, and which of them training kept."""
    results = contents.results
    metrics = _metrics(results)
    tiles = [_tile(name, value, whole) for name, value, whole in _figures(results, metrics)]
    if "agreement" in results:
        tiles.append(_tile("Same class as full precision", results["agreement"]))
    if "box_iou" in results:
        tiles.append(_tile("IoU with its boxes", results["box_iou"]))
    if "feature_cosine" in results:
        tiles.append(_tile("Cosine with its features", results["feature_cosine"], unit=""))
    return join(
        [
            grid("tiles", filter(None, tiles)),
            tag("p", _measured_on(results, metrics)),
            _metric_table(metrics) if len(metrics) > 1 else "",
            *_kept(results),
        ]
    )


def losses(contents: Contents) -> Html:
    """A chart for each loss term of training and of the images."""
    parts = []
    for phase, title, unit in (
        ("finetuning", "Fine-tuning, by epoch", "epoch"),
        ("synthesis", "Images, by batch", "batch"),
    ):
        terms = _terms(contents.metrics, phase)
        marks = [e - 0.5 for e in contents.refresh_epochs] if phase == "finetuning" else ()
        drawn = {name: points for name, points in terms.items() if len(points) >= _LEAST_POINTS}
        shown = [_loss(phase, name, points, unit, marks) for name, points in drawn.items()]
        if terms:
            parts += [tag("h3", title), grid("charts", shown) if shown else Html()]
        if rest := {name: points for name, points in terms.items() if name not in drawn}:
            parts.append(_loss_table(title, rest))
    if not parts:
        return Html()
    told = (
        "Weighted terms, whose sum is the loss: the mean over an epoch, or at a batch's last step."
    )
    if contents.refresh_epochs:
        told += " Dotted lines are where the images were made again."
    background = [record for record in contents.metrics if record["phase"] == "background"]
    if background:
        scores = {k: v for k, v in background[-1].items() if k not in ("phase", "step")}
        listed = ", ".join(f"{colour} {value:.2f}" for colour, value in scores.items())
        told += f" Log inception scores by which the model chose a background: {listed}."
    return join([tag("p", told), *parts])


def time(contents: Contents) -> Html:
    """The time of each phase."""
    spent = {name: value for name, value in contents.results["seconds"].items() if value >= 0.005}
    if not spent:
        return Html()
    total = sum(spent.values())
    listed = ", ".join(f"{name} {duration(value)}" for name, value in spent.items())
    named = {f"{name}, {duration(value)}": value / total * 100 for name, value in spent.items()}
    chart = charts.bars("seconds", f"Time by phase: {listed}", named, "% of the time")
    told = f"{duration(total)} in all, on {contents.results.get('device', 'an unknown device')}."
    return join([tag("p", told), figure(chart)])


def _metrics(results: Mapping[str, Any]) -> dict[str, Mapping[str, float | None]]:
    """Title of what was measured, the main figure first -> that of each model."""
    found = results.get("metrics") or {"top1": figures_by_model(results, "top1")}
    titled = {
        TITLES[metric].words if metric in TITLES else metric: found[metric]
        for metric in (*TITLES, *found)
        if metric in found
    }
    return {
        title: models for title, models in titled.items() if models.get("quantized") is not None
    }


def _figures(
    results: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float | None]]
) -> Iterator[tuple[str, float | None, float | None]]:
    """Of the main metric: a model's name, its figure, and that of full precision beside others."""
    models: Mapping[str, float | None] = next(iter(metrics.values()), {})
    bits, whole = bits_of(results), models.get("fp")
    yield "Full precision", whole, None
    yield f"{bits}, calibrated only", models.get("calibrated"), whole
    yield f"{bits}, {training_of(results)}", models.get("quantized"), whole


def _metric_table(metrics: Mapping[str, Mapping[str, float | None]]) -> Html:
    rows = [
        (title, *("" if models.get(name) is None else f"{models[name]:.2f}" for name in _MODELS))
        for title, models in metrics.items()
    ]
    header = ("%", "full precision", "calibrated only", "quantized")
    return table("All figures", header, rows, numeric=range(1, 4))


def _tile(name: str, value: float | None, whole: float | None = None, unit: str = "%") -> Html:
    """A figure, and by how much it is below another one; nothing where it was not measured."""
    if value is None:
        return Html()
    told = f"{value:.2f}" if unit else f"{value:.4f}"
    below = (
        [] if whole is None else [tag("small", f"{value - whole:+.2f} points".replace("-", _MINUS))]
    )
    return tag(
        "div",
        tag("span", name, class_="name"),
        tag("strong", told, *([tag("span", unit, class_="unit")] if unit else [])),
        *below,
        class_="tile",
    )


def _measured_on(results: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """On which images, and what went wrong with some of them."""
    count, source = results.get("num_evaluated", 0), results.get("evaluation")
    if metrics:
        told = f"{next(iter(metrics))} on {count:,} images of {source}."
    elif source == "samples":
        told = (
            f"There were no labelled images: the models are compared on {count:,} samples, which "
            "tells how alike they answer, not how often they are right."
        )
    else:
        told = f"The models are compared on {count:,} images of {source}; there are no classes."
    if results.get("class_order"):
        told += f" Class folders are in the order of {results['class_order']!r}."
    if results.get("broken_images"):
        told += f" {results['broken_images']} more could not be read."
    if results.get("redrawn_images"):
        told += f" {results['redrawn_images']} synthetic images had to be drawn again."
    return told


def _kept(results: Mapping[str, Any]) -> Iterator[Html]:
    """Which model training kept, and the distances by which it chose."""
    distances = results.get("distances", [])
    if not results.get("kept"):
        return
    told = {
        "trained": "The trained model was kept.",
        "calibrated": "Training made the model worse: the calibrated one was kept.",
    }.get(results["kept"], "")
    if results.get("retreats"):
        told += (
            f" Training went astray and back {results['retreats']} times, each time on at lower "
            "learning rates."
        )
    if len(distances) < 2:
        yield tag("p", told)
        return
    first, last = distances[0]["distance"], distances[-1]["distance"]
    told += (
        " Along the way the model was compared with full precision, without labels: it started "
        f"{first:.3g} away and ended {last:.3g} away."
    )
    yield tag("h3", "What training kept")
    yield tag("p", told)
    points = [(record["step"], record["distance"]) for record in distances]
    label = f"Distance from full precision by training step, from {first:.3g} to {last:.3g}"
    yield figure(
        charts.lines("distance", label, {"": points}, "training step", "distance"),
        "Divergence of class probabilities in nats, or 1 - cosine where there are no classes",
    )


def _number(value: float) -> str:
    """Three digits, with a minus as wide as a plus."""
    return f"{value:.3g}".replace("-", _MINUS)


def _terms(metrics: Iterable[Mapping[str, Any]], phase: str) -> dict[str, list[Any]]:
    """Points (step, value) of each term of a phase that is finite somewhere and not always 0."""
    terms: dict[str, list[Any]] = {}
    for record in metrics:
        if record["phase"] == phase:
            for name, value in record.items():
                if name not in ("phase", "step") and isinstance(value, int | float):
                    terms.setdefault(name, []).append((record["step"], value))
    return {
        name: points
        for name, points in terms.items()
        if any(math.isfinite(value) and value for _, value in points)
    }


def _loss_table(title: str, terms: Mapping[str, charts.Points]) -> Html:
    """For terms of so few points that a line says nothing."""
    rows = [
        (name.replace("_", " "), _number(points[0][1]), _number(points[-1][1]))
        for name, points in terms.items()
    ]
    return table(title, ("term", "first", "last"), rows, numeric=(1, 2))


def _loss(phase: str, name: str, points: charts.Points, unit: str, marks: Sequence[float]) -> Html:
    first, last = points[0][1], points[-1][1]
    told = _number(first) if len(points) == 1 else f"{_number(first)} to {_number(last)}"
    shown = name.replace("_", " ")
    label = f"{shown} of {phase} by {unit}: {told}"
    chart = charts.lines(f"{phase}-{name}", label, {"": points}, unit, size=(240, 150), marks=marks)
    return figure(chart, join([tag("strong", shown), f" {told}"]))
