"""Programs for chips that aren't here: all of them lower, at the sizes they are meant for."""

import dataclasses
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import export

from configs import deit_t, swin_t
from maskaq_jax import config, finetune, parallel, programs, synthesis

NUM_DEVICES, BATCH = 4, 8
CONFIGS = (Path(__file__).parents[1] / "configs").glob("*.py")


def _evaluation(settings, model, mesh):
    images = jax.ShapeDtypeStruct((BATCH, *model.input_shape), jnp.float32)
    labels, valid = (jax.ShapeDtypeStruct((BATCH,), dtype) for dtype in (jnp.int32, jnp.bool_))
    shapes = programs.variable_shapes(model), images, labels, valid
    return programs.map_evaluation(model, mesh), shapes


def _synthesis(settings, model, mesh):
    spec = synthesis.Spec(settings.synthesis, settings.pixels)
    program = programs.map_synthesis(model, spec, mesh)
    return program, programs.synthesis_shapes(model, spec, BATCH)


def _finetuning(settings, model, mesh):
    spec = finetune.Spec(settings.finetuning, settings.pixels)
    program = programs.map_finetuning(model, spec, 100, mesh)
    return program, programs.finetuning_shapes(model, spec, BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("build", [_evaluation, _synthesis, _finetuning])
@pytest.mark.parametrize(
    ("get_config", "dtype"),
    [(get_config, "float32") for get_config in (deit_t.get_config, swin_t.get_config)]
    + [(deit_t.get_config, "bfloat16")],
)
def test_programs_lower_for_tpu_and_cuda(get_config, dtype, build):
    settings = config.validated(get_config())
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


@pytest.mark.slow
@pytest.mark.parametrize("build", [_evaluation, _synthesis, _finetuning])
@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS if path.stem != "common"))
def test_programs_of_every_config_can_be_traced(name, build):
    settings = config.validated(importlib.import_module(f"configs.{name}").get_config())
    if settings.synthesis.background == "auto":  # which a run decides before
        chosen = dataclasses.replace(settings.synthesis, background="black")
        settings = dataclasses.replace(settings, synthesis=chosen)
    mesh = parallel.make_mesh(jax.devices()[:NUM_DEVICES])
    program, shapes = build(settings, config.create_model(settings), mesh)
    result = jax.eval_shape(program, *shapes)
    if build is not _evaluation:
        state, terms = result
        assert _shapes_of(state) == _shapes_of(shapes[0])
        assert all(term.dtype == jnp.float32 and term.shape == () for term in terms.values())


def test_an_unknown_operation_would_be_noticed():
    """What the lowering guards against: an operation that a chip has no rule for."""

    def only_here(images):
        return jax.lax.linalg.eig(images)[0]

    image = jax.ShapeDtypeStruct((4, 4), "float32")
    with pytest.raises(NotImplementedError, match="tpu"):
        export.export(jax.jit(only_here), platforms=("tpu",))(image)
