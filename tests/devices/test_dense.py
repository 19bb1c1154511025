"""Passes of detectors and segmenters, forward and back, on several devices, and for other chips."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from maskaq_jax.devices import parallel
from maskaq_jax.devices.global_batch import GlobalBatch
from maskaq_jax.devices.parallel import AXIS, REPLICATED, SHARDED
from maskaq_jax.models import Quantization, create_model
from tests.calibration.test_dense import SIZES
from tests.devices.common import MESHES, TOLERANCE, assert_same

pytestmark = pytest.mark.slow


def _model(name, **arguments):
    num_classes = 0 if "fpn" in name else 3
    return create_model(name, num_classes, Quantization(4, 4), **arguments)


def _pass(model, over):
    """The outputs, and slopes of their squares by parameters and images."""

    def loss(variables, images):
        outputs, out = model.apply(variables, images)
        leaves = [*jax.tree.leaves(outputs), out["features"], *out["attention_logits"]]
        return sum(jnp.mean(jnp.square(leaf)) for leaf in leaves), outputs

    def run(params, quant, images):
        def of_both(params, images):
            return loss({"params": params, "quant": quant}, images)

        both = jax.grad(of_both, argnums=(0, 1), has_aux=True)
        (by_params, by_images), outputs = both(params, images)
        return outputs, over.mean_over_devices(by_params), by_images / over.count(1)

    return run


def _mapped(model, count):
    return parallel.map_over_devices(
        _pass(model, GlobalBatch(AXIS)),
        MESHES[count],
        (REPLICATED, REPLICATED, SHARDED),
        (SHARDED, REPLICATED, SHARDED),
    )


@pytest.mark.parametrize("name", SIZES)
def test_four_devices_give_what_one_gives(name):
    model = _model(name, **SIZES[name])
    images = jax.random.normal(jax.random.key(0), (4, *model.input_shape))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    results = {}
    for count in MESHES:
        results[count] = _mapped(model, count)(variables["params"], variables["quant"], images)
    assert_same(results[4], results[1], TOLERANCE)


NAMED = ["yolos_tiny", "upernet_swin_tiny", "swin_fpn_tiny", "vit_small_patch14_dinov2_linear_seg"]


@pytest.mark.parametrize("name", NAMED)
def test_passes_lower_for_tpu_and_cuda(name):
    model = _model(name)
    image = jax.ShapeDtypeStruct((4, *model.input_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    program = _mapped(model, 4)
    exported = export.export(program, platforms=("tpu", "cuda"))(
        variables["params"], variables["quant"], image
    )
    assert exported.nr_devices == 4
    assert "all_reduce" in exported.mlir_module()
