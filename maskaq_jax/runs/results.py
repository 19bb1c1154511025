"""What `results.json` says of a run, and the table of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from maskaq_jax import data
from maskaq_jax.config import METHODS, evaluation_source
from maskaq_jax.devices import parallel
from maskaq_jax.evaluation.loop import Measured
from maskaq_jax.runs import directory
from maskaq_jax.runs.progress import duration
from maskaq_jax.runs.session import Session
from maskaq_jax.runs.training import Position
from maskaq_jax.storage import whole_files


class Title(NamedTuple):
    """What a metric is called: by its usual short name, and in words."""

    short: str
    words: str


# Metrics that are shown, by what `results.json` calls them; all others are in the file alone.
TITLES = {
    "top1": Title("top-1 %", "Top-1 accuracy"),
    "ap": Title("AP %", "Average precision"),
    "ap50": Title("AP50 %", "Average precision at an overlap of half"),
    "miou": Title("mIoU %", "Mean IoU"),
    "pixel_accuracy": Title("pixels %", "Pixels of the right class"),
}


def finish(
    session: Session,
    position: Position,
    accuracy: Measured | None,
    agreement: Measured | None,
) -> dict[str, Any]:
    """Writes `results.json` and prints its table.

    Args:
      session: of the run.
      position: at its end.
      accuracy: of Q at the end, where there are labelled images.
      agreement: of P and Q, where there are none.

    Returns:
      What is written.
    """
    measured = accuracy or agreement
    assert measured is not None
    figures = position.with_figures("quantized", accuracy).figures
    # Without training it is the same model, and was not measured twice.
    figures = {"fp": None, "calibrated": figures["quantized"]} | figures
    summary = summarise(session, figures, measured.num_images) | _compared(position)
    if agreement:
        summary |= {name: round(value, 4) for name, value in agreement.figures.items()}
    if parallel.is_main_process():
        whole_files.write_json(session.inputs.workdir / directory.RESULTS, summary)
        print_results(session.progress.console, summary)
        if lost_accuracy(summary):
            session.progress.warn(
                "fine-tuning left the calibrated model worse than it was: "
                f"{directory.METRICS} has its losses"
            )
    return summary


def summarise(
    session: Session, figures: Mapping[str, Mapping[str, float] | None], num_evaluated: int
) -> dict[str, Any]:
    """The settings that make a run comparable, and what came of them.

    Args:
      session: of the run.
      figures: of each model by its name, in percent; None where there were no labelled images.
      num_evaluated: images that accuracy, or agreement, was measured on.
    """
    inputs, config = session.inputs, session.inputs.config
    source = evaluation_source(config)
    num_images = inputs.num_evaluation_images or num_evaluated
    return {
        **{f"{name}_top1": _figure(of_model, "top1") for name, of_model in figures.items()},
        "metrics": {
            metric: {name: _figure(of_model, metric) for name, of_model in figures.items()}
            for metric in figures["quantized"] or ()
        },
        "weight_bits": config.quantization.weight_bits,
        "activation_bits": config.quantization.activation_bits,
        "rules": config.quantization.rules,
        "method": config.method,
        "seed": config.seed,
        "num_samples": config.samples.num_samples,
        "synthesis_steps": config.synthesis.num_steps,
        "epochs": config.finetuning.epochs,
        "evaluation": "samples" if source is None else source.name,
        **_class_order(source, inputs.is_labelled),
        "num_evaluated": num_evaluated,
        "broken_images": num_images - num_evaluated,
        "redrawn_images": session.store.count_redrawn(),
        "seconds": {name: round(value, 2) for name, value in session.progress.seconds.items()},
        "device": f"{inputs.mesh.size} x {inputs.mesh.devices.flat[0].device_kind}",
        "jax": jax.__version__,
    }


def _figure(of_model: Mapping[str, float] | None, metric: str) -> float | None:
    """None where it was not measured."""
    return None if of_model is None or metric not in of_model else round(of_model[metric], 4)


def _class_order(source: data.DataSource | None, is_labelled: bool) -> dict[str, str]:
    """What numbers class folders, where accuracy depends on it."""
    if is_labelled and isinstance(source, data.Folder) and source.has_class_folders:
        return {"class_order": source.order}
    return {}


def _compared(position: Position) -> dict[str, Any]:
    """Which model was kept, and how far from P, without labels, it and the other one are."""
    if not position.kept:
        return {}
    return {
        "kept": position.kept,
        "retreats": position.retreats,
        "distances": [
            {name: round(value, 6) for name, value in compared.items()}
            for compared in position.distances
        ],
    }


def bits_of(results: Mapping[str, Any]) -> str:
    """As W4A8."""
    return f"W{results['weight_bits']}A{results['activation_bits']}"


def shown_metrics(results: Mapping[str, Any]) -> list[str]:
    """The metrics of a run's table, by what `results.json` calls them, the main one first."""
    return [metric for metric in TITLES if metric in results.get("metrics", ())] or ["top1"]


def figures_by_model(results: Mapping[str, Any], metric: str) -> dict[str, float | None]:
    """A metric of `fp`, `calibrated` and `quantized`, None where it was not measured."""
    if metric in results.get("metrics", ()):
        return dict(results["metrics"][metric])
    return {name: results.get(f"{name}_{metric}") for name in ("fp", "calibrated", "quantized")}


def lost_accuracy(results: dict[str, Any]) -> bool:
    """Whether training left the calibrated model worse than it was, where that was measured."""
    models = figures_by_model(results, shown_metrics(results)[0])
    before, after = models["calibrated"], models["quantized"]
    return before is not None and after is not None and after < before


def training_of(results: Mapping[str, Any]) -> str:
    """What was done with the calibrated model, in a few words."""
    if not results.get("epochs"):
        return "without training"
    if results.get("kept") == "calibrated":
        return "kept as calibrated, since training made it worse"
    method = METHODS.get(results["method"])  # which another version may have had
    return f"fine-tuned with {'real images' if method and method.is_real else 'no data'}"


def print_results(console: Console, results: dict[str, Any]) -> None:
    """The table at the end: the main figures, and the time each phase took."""
    bits = bits_of(results)
    how = training_of(results)
    table = Table(
        title=f"{results['method']} at {bits}, seed {results['seed']}",
        title_justify="left",
    )
    table.add_column("model")
    columns = shown_metrics(results)
    for metric in columns:
        table.add_column(TITLES[metric].short, justify="right")
    for name, model in (
        ("fp", "full precision"),
        ("calibrated", f"{bits}, calibrated only"),
        ("quantized", f"{bits}, {how}"),
    ):
        figures = [figures_by_model(results, metric)[name] for metric in columns]
        table.add_row(
            model, *("not measured" if value is None else f"{value:.2f}" for value in figures)
        )
    if "agreement" in results:
        table.add_row("same class as full precision, %", f"{results['agreement']:.2f}")
    if "box_iou" in results:
        table.add_row("IoU with its boxes, %", f"{results['box_iou']:.2f}")
    if "feature_cosine" in results:
        table.add_row("cosine with its features", f"{results['feature_cosine']:.4f}")
    table.add_section()
    for phase, seconds in results["seconds"].items():
        if not seconds:
            continue
        table.add_row(f"time of {phase}", duration(seconds))
    console.print(table)
    if results["rules"]:
        console.print(f"{bits} but for {results['rules']}", soft_wrap=True)
