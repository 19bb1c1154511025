"""The compiled programs: what one device does in each phase, mapped over a mesh.

`..._shapes` give a program's arguments without their values, to lower it for chips that aren't
there or to ask XLA what it costs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding

from maskaq_jax import (
    evaluate,
    finetune,
    losses,
    microbatches,
    parallel,
    synthesis,
    synthesis_terms,
)
from maskaq_jax.models import Model
from maskaq_jax.parallel import AXIS, REPLICATED, SHARDED


def keep_on_disk(directory: str) -> None:
    """Has programs of every size kept in a directory or bucket: the next start compiles none."""
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def map_evaluation(model: Model, mesh: Mesh) -> jax.stages.Wrapped:
    """`evaluate.count_correct` of (variables, images, labels, valid)."""

    def per_device(variables: Any, images: Array, labels: Array, valid: Array) -> Any:
        return evaluate.count_correct(model, variables, images, labels, valid, AXIS)

    return parallel.map_over_devices(
        per_device, mesh, (REPLICATED, SHARDED, SHARDED, SHARDED), REPLICATED
    )


def map_agreement(model: Model, mesh: Mesh) -> jax.stages.Wrapped:
    """`evaluate.count_agreement` of (params, variables, images, valid)."""

    def per_device(params: Any, variables: Any, images: Array, valid: Array) -> Any:
        return evaluate.count_agreement(model, params, variables, images, valid, AXIS)

    return parallel.map_over_devices(
        per_device, mesh, (REPLICATED, REPLICATED, SHARDED, SHARDED), REPLICATED
    )


def map_synthesis(
    model: Model, spec: synthesis.Spec, mesh: Mesh, is_padded: bool = False
) -> jax.stages.Wrapped:
    """`synthesis.synthesize` of (state, batch, key, num_steps); the state's memory is reused.

    Args:
      model: Q.
      spec: of synthesis.
      mesh: of `parallel.make_mesh`.
      is_padded: whether batches say which images are valid.
    """
    optimizer = synthesis.create_optimizer(spec.settings)

    def per_device(
        state: synthesis.State, batch: synthesis_terms.Batch, key: Array, num_steps: Array
    ) -> tuple[synthesis.State, losses.Terms]:
        num_parts = choose_num_parts(model, len(batch.indices), mesh)
        return synthesis.synthesize(
            model, optimizer, spec, state, batch, key, num_steps, AXIS, num_parts
        )

    state_specs = synthesis_state_specs(model, spec)
    # A tree of specs in a tree of arrays' place, as jax.shard_map wants it.
    batch_specs = synthesis_terms.Batch(
        indices=SHARDED,  # type: ignore[arg-type]
        labels=SHARDED,  # type: ignore[arg-type]
        params=REPLICATED,
        variables=REPLICATED,
        valid=SHARDED if is_padded else None,  # type: ignore[arg-type]
    )
    return parallel.map_over_devices(
        per_device,
        mesh,
        (state_specs, batch_specs, REPLICATED, REPLICATED),
        (state_specs, REPLICATED),
        donate=(0,),
    )


def choose_num_parts(model: Model, num_images: int, mesh: Mesh) -> int:
    """Parts that a device's images of synthesis are seen in; accelerators are best kept full."""
    if mesh.devices.flat[0].platform != "cpu":
        return 1
    values_per_image = (model.img_size // model.patch_size) ** 2 * model.embed_dim
    return microbatches.choose_num_parts(num_images, values_per_image)


def synthesis_state_specs(model: Model, spec: synthesis.Spec) -> Any:
    """How a synthesis state is split: images and what belongs to them, not the counters."""
    return parallel.leading_axis_specs(_synthesis_state_shapes(model, spec, 1))


def map_finetuning(
    model: Model, spec: finetune.Spec, num_steps: int, mesh: Mesh, is_padded: bool = False
) -> jax.stages.Wrapped:
    """`finetune.step` of (state, batch, key); the state's memory is reused.

    Args:
      model: Q.
      spec: of fine-tuning.
      num_steps: of the whole run, for the learning rate.
      mesh: of `parallel.make_mesh`.
      is_padded: whether batches say which images are valid.
    """
    optimizer = finetune.create_optimizer(spec.settings, num_steps)

    def per_device(
        state: finetune.State, batch: finetune.Batch, key: Array
    ) -> tuple[finetune.State, losses.Terms]:
        return finetune.step(model, optimizer, spec, state, batch, key, AXIS)

    batch_specs = finetune.Batch(
        indices=SHARDED,  # type: ignore[arg-type]
        images=SHARDED,  # type: ignore[arg-type]
        params=REPLICATED,
        valid=SHARDED if is_padded else None,  # type: ignore[arg-type]
    )
    return parallel.map_over_devices(
        per_device,
        mesh,
        (REPLICATED, batch_specs, REPLICATED),
        (REPLICATED, REPLICATED),
        donate=(0,),
    )


def synthesis_shapes(model: Model, spec: synthesis.Spec, batch_size: int) -> tuple[Any, ...]:
    """Arguments of `map_synthesis`'s program for a global batch of that many images."""
    numbers: Any = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    variables = variable_shapes(model)
    batch = synthesis_terms.Batch(numbers, numbers, variables["params"], variables)
    state = _synthesis_state_shapes(model, spec, batch_size)
    return state, batch, _key_shape(), jax.ShapeDtypeStruct((), jnp.int32)


def finetuning_shapes(model: Model, spec: finetune.Spec, batch_size: int) -> tuple[Any, ...]:
    """Arguments of `map_finetuning`'s program for a global batch of that many images."""
    state = _finetuning_state_shapes(model, spec)
    numbers: Any = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    images = _image_shapes(model, batch_size)
    return state, finetune.Batch(numbers, images, state.variables["params"]), _key_shape()


def finetuning_state_shapes(model: Model, spec: finetune.Spec, mesh: Mesh) -> finetune.State:
    """The state of fine-tuning on a mesh, without its values."""
    sharding = NamedSharding(mesh, REPLICATED)
    return parallel.shapes_on(sharding, _finetuning_state_shapes(model, spec))


def variable_shapes(model: Model) -> Any:
    """Shapes of Q's calibrated variables, `params` and `quant`."""
    # In full precision there are no quantizers.
    return {"quant": {}} | jax.eval_shape(model.init, _key_shape(), _image_shapes(model, 1))


def _key_shape() -> Any:
    return jax.eval_shape(jax.random.key, 0)


def _image_shapes(model: Model, batch_size: int) -> Any:
    return jax.ShapeDtypeStruct((batch_size, *model.input_shape), jnp.float32)


def _finetuning_state_shapes(model: Model, spec: finetune.Spec) -> finetune.State:
    optimizer = finetune.create_optimizer(spec.settings, num_steps=1)
    return jax.eval_shape(
        lambda variables: finetune.init_state(optimizer, variables), variable_shapes(model)
    )


def _synthesis_state_shapes(model: Model, spec: synthesis.Spec, batch_size: int) -> synthesis.State:
    optimizer = synthesis.create_optimizer(spec.settings)
    return jax.eval_shape(
        lambda images: synthesis.init_state(optimizer, images), _image_shapes(model, batch_size)
    )
