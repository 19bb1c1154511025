"""A finished run to export."""

import jax
import pytest

from maskaq_jax import config as config_lib
from maskaq_jax import run
from maskaq_jax.models import create_model
from tests import tiny


@pytest.fixture(scope="module")
def few_evaluated():
    with tiny.few_evaluated():
        yield


@pytest.fixture(scope="module")
def finished(few_evaluated, tmp_path_factory):
    """Directory of a run of a small model, calibrated on noise and hardly trained."""
    directory = tmp_path_factory.mktemp("finished")
    weights = directory / "tiny.safetensors"
    tiny.save_random_weights(create_model("vit", 10, **tiny.ARGUMENTS), weights)
    settings = config_lib.default()
    settings.method = "noise"
    settings.model.name, settings.model.num_classes = "vit", 10
    settings.model.arguments, settings.model.weights = tiny.ARGUMENTS, str(weights)
    settings.quantization.activation_bits = 8
    settings.samples.num_samples = settings.samples.calibration_size = 4
    settings.samples.batch_size = settings.finetuning.batch_size = 4
    settings.finetuning.epochs = 1
    settings.evaluation.dataset, settings.evaluation.split = "fashion_mnist", "test"
    inputs = tiny.prepare(config_lib.validated(settings), directory / "run")
    jax.config.update("jax_disable_most_optimizations", True)
    run.run(inputs)
    jax.config.update("jax_disable_most_optimizations", False)
    yield directory / "run"
    jax.config.update("jax_disable_most_optimizations", True)
