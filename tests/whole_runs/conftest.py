"""A run that nothing disturbed, and what its neighbours start from."""

import pytest

from maskaq_jax import config as config_lib
from maskaq_jax import run
from maskaq_jax.models import create_model
from tests import tiny


@pytest.fixture(scope="package")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = create_model("vit", 10, **tiny.ARGUMENTS)
    tiny.save_random_weights(model, path)
    return path


@pytest.fixture(scope="package")
def settings(weights):
    settings = config_lib.default()
    settings.model.name, settings.model.num_classes = "vit", 10
    settings.model.arguments = tiny.ARGUMENTS
    settings.model.weights = str(weights)
    settings.samples.num_samples = 12
    settings.samples.batch_size = 8
    settings.samples.refresh_every = 2
    settings.samples.calibration_size = 8
    settings.synthesis.num_steps = 3
    settings.finetuning.epochs = 3
    settings.finetuning.batch_size = 4
    settings.evaluation.dataset, settings.evaluation.split = "fashion_mnist", "test"
    settings.checkpoint_seconds = 0.0
    return config_lib.validated(settings)


@pytest.fixture(autouse=True, scope="package")
def few_evaluated():
    with tiny.few_evaluated():
        yield


@pytest.fixture(scope="package")
def finished(settings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, run.run(tiny.prepare(settings, workdir))
