"""A run that nothing disturbed, and what its neighbours start from."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from maskaq_jax import config as config_lib
from maskaq_jax import data, programs, run
from maskaq_jax.models import create_model
from tests import tiny


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Lasts when other packages' tests come between."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True, scope="package")
def compiled_quickly_and_once(compiled):
    """Every run makes its programs anew, and most of them are the same."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    programs.keep_on_disk(str(compiled))
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    for name, value in (before | {"jax_disable_most_optimizations": False}).items():
        jax.config.update(name, value)
    # Else it stays in use, whatever its directory is now.
    compilation_cache.reset_cache()


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
    load = data.load_embedded
    with pytest.MonkeyPatch.context() as patch:

        def load_few(split, num_channels):
            images, labels = load(split, num_channels)
            return images[:60], labels[:60]

        patch.setattr(data, "load_embedded", load_few)
        yield


@pytest.fixture(scope="package")
def finished(settings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, run.run(tiny.prepare(settings, workdir))
