"""Programs for chips that aren't here: all of them lower, at the sizes they are meant for."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import export

from configs import deit_t, scenes_upernet, scenes_yolos, swin_t
from maskaq_jax import config
from maskaq_jax.devices import parallel
from maskaq_jax.evaluation.loop import EvaluationLoop
from maskaq_jax.finetuning.loop import FinetuningLoop
from maskaq_jax.finetuning.step import FinetuningSpec
from maskaq_jax.runs.measurements import figures_evaluator
from maskaq_jax.synthesis.loop import SynthesisLoop
from maskaq_jax.synthesis.step import SynthesisSpec

NUM_DEVICES, BATCH = 4, 8
CONFIGS = (Path(__file__).parents[1] / "configs").glob("*.py")


def _evaluation(settings, model, mesh):
    source = config.evaluation_source(settings)
    dataset = source.open(model) if source else None
    loop = EvaluationLoop(figures_evaluator(model.task, dataset), model, mesh)
    return loop.program, loop.argument_shapes(BATCH)


def _synthesis(settings, model, mesh):
    loop = SynthesisLoop(model, SynthesisSpec(settings.synthesis, settings.pixels), mesh)
    return loop.program(), loop.argument_shapes(BATCH)


def _finetuning(settings, model, mesh):
    spec = FinetuningSpec(settings.finetuning, settings.pixels)
    loop = FinetuningLoop(model, spec, BATCH, jax.random.key(0), mesh)
    return loop.program(), loop.argument_shapes(BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("build", [_evaluation, _synthesis, _finetuning])
@pytest.mark.parametrize(
    ("get_config", "dtype"),
    [(one.get_config, "float32") for one in (deit_t, swin_t, scenes_yolos, scenes_upernet)]
    + [(deit_t.get_config, "bfloat16")],
)
def test_programs_lower_for_tpu_and_cuda(get_config, dtype, build):
    settings = config.validated(get_config("preset=paper"))
    model = config.create_model(settings, dtype=dtype)
    mesh = parallel.make_mesh(jax.devices()[:NUM_DEVICES])
    program, shapes = build(settings, model, mesh)
    exported = export.export(program, platforms=("tpu", "cuda"))(*shapes)
    assert exported.nr_devices == NUM_DEVICES
    assert exported.platforms == ("tpu", "cuda")
    assert "all_reduce" in exported.mlir_module()
    assert jax.tree.structure(shapes) == exported.in_tree.children()[0]


def _shapes_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


# Fine-tuning passes through P and Q, forwards and backwards: the other programs hold no more.
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS if path.stem != "common"))
def test_every_config_can_be_traced(name):
    settings = config.validated(importlib.import_module(f"configs.{name}").get_config())
    mesh = parallel.make_mesh(jax.devices()[:NUM_DEVICES])
    program, shapes = _finetuning(settings, config.create_model(settings), mesh)
    state, terms = jax.eval_shape(program, *shapes)
    assert _shapes_of(state) == _shapes_of(shapes[0])
    assert all(term.dtype == jnp.float32 and term.shape == () for term in terms.values())
