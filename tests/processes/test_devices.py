"""One run on several devices and in several processes."""

import os

import numpy as np
import pytest

from maskaq_jax.synthesis import store
from tests import tiny
from tests.processes import runs

pytestmark = [pytest.mark.slow, tiny.ignore_orbax_warnings]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processes")
    (directory / "compiled").symlink_to(os.environ["JAX_COMPILATION_CACHE_DIR"])
    (directory / "config.py").write_text(runs.CONFIG)
    return directory


# A float32 sum in another order differs by 1e-7 of its size. Adam divides a gradient by its own
# size, so where it is nearly 0 that rounding decides an update of 0.1: few pixels, and the mean
# stays small. At 8 bits and small steps, Q then differs by less than a point.
IMAGE_TOLERANCE, ACCURACY_TOLERANCE = 0.01, 1.0
# Of twelve images.
DISTANCE_TOLERANCE = 0.05


def test_devices_and_processes_change_no_result(directory, finished):
    workdir = directory / "two"
    for process in runs.start_all(directory, workdir, 2, devices=2):
        runs.finish(process)
    for name, value in runs.results(workdir).items():
        expected = runs.results(finished)[name]
        if name.endswith("top1"):
            assert abs(value - expected) <= ACCURACY_TOLERANCE, name
        elif name == "metrics":
            near = pytest.approx(expected["top1"], abs=ACCURACY_TOLERANCE)
            assert value == {"top1": near}
        elif name == "distances":
            for compared, wanted in zip(value, expected, strict=True):
                assert compared["step"] == wanted["step"]
                assert abs(compared["distance"] - wanted["distance"]) <= DISTANCE_TOLERANCE
        elif name != "kept":  # of two models so near one another, rounding may choose
            assert value == expected, name
    for refresh in range(2):
        (images, labels), (expected, expected_labels) = (
            runs.images(directory, refresh) for directory in (workdir, finished)
        )
        np.testing.assert_array_equal(labels, expected_labels)
        assert np.abs(images - expected).mean() <= IMAGE_TOLERANCE
    shards = store.list_shards(store.refresh_folder(workdir / "samples", 0))
    # Six images are three for each of two hosts: a host stores its own.
    assert len(shards) == 2 * 2
