"""A run that nothing disturbed, in the directory of a file's runs."""

import pytest

from tests.processes import runs


@pytest.fixture(scope="module")
def finished(directory):
    runs.finish(runs.start(directory, directory / "finished"))
    return directory / "finished"
