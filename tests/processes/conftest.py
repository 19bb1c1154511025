"""Directories of runs, each with one that nothing disturbed: of the embedded teacher and of a tiny
model.
"""

import pytest

from maskaq_jax.models import create_model
from tests import tiny
from tests.processes import runs


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processes")
    (directory / "config.py").write_text(runs.CONFIG)
    return directory


@pytest.fixture(scope="session")
def finished(directory):
    runs.finish(runs.start(directory, directory / "finished"))
    return directory / "finished"


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny_processes")
    weights = directory / "tiny.safetensors"
    tiny.save_random_weights(create_model("vit", 10, **tiny.ARGUMENTS), weights)
    (directory / "config.py").write_text(runs.TINY_CONFIG.replace("WEIGHTS", str(weights)))
    return directory


@pytest.fixture(scope="session")
def tiny_finished(tiny_directory):
    runs.finish(runs.start(tiny_directory, tiny_directory / "finished"))
    return tiny_directory / "finished"
