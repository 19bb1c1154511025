"""A directory of runs, and one that nothing disturbed."""

import pytest

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
