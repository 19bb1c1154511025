"""Whose a directory is, and whether a run can start or continue there."""

import dataclasses
import errno

import numpy as np
import pytest

from configs import smoke
from maskaq_jax import config as config_lib
from maskaq_jax import run_directory
from maskaq_jax.schema import ConfigError

PARAMS = {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}


@pytest.fixture
def settings():
    return config_lib.validated(smoke.get_config())


@pytest.fixture
def started(settings, tmp_path):
    """The directory of a run that has started and ended."""
    with run_directory.claim(tmp_path / "run", settings, PARAMS):
        pass
    return tmp_path / "run"


def test_a_run_says_what_it_is_and_can_continue(settings, started):
    run_directory.check(started, settings)
    run_directory.check_weights(started, settings, PARAMS)
    assert run_directory.read_settings(started) == settings
    with run_directory.claim(started, settings, PARAMS):
        pass


def test_a_run_that_ended_before_it_began_can_start(settings, tmp_path):
    for name in ("lock", "weights.json.unfinished", "config.json.unfinished"):
        (tmp_path / name).write_text("")
    with run_directory.claim(tmp_path, settings, PARAMS):
        pass


def test_two_runs_do_not_share_a_directory(settings, tmp_path):
    with (
        run_directory.claim(tmp_path / "run", settings, PARAMS),
        pytest.raises(ConfigError, match="another run is at work in"),
        run_directory.claim(tmp_path / "run", settings, PARAMS),
    ):
        pass
    with run_directory.claim(tmp_path / "run", settings, PARAMS):  # which is free again
        pass


def test_files_of_others_are_no_run(settings, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="holds files that are no run of ours"):
        run_directory.check(tmp_path, settings)


def test_other_settings_are_named_three_at_most(settings, started):
    other = dataclasses.replace(settings, seed=1)
    with pytest.raises(ConfigError, match=r"in config\.seed \(0 there, 1 here\): name another"):
        run_directory.check(started, other)
    samples = dataclasses.replace(settings.samples, num_samples=8, batch_size=8, calibration_size=4)
    other = dataclasses.replace(other, samples=samples)
    with pytest.raises(ConfigError) as refusal:
        run_directory.check(started, other)
    assert str(refusal.value).count(" here)") == 3
    assert ", ...: name another --workdir" in str(refusal.value)


def test_settings_that_cannot_be_read_are_named(settings, started):
    (started / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not readable"):
        run_directory.check(started, settings)


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "No locks")])
def test_a_disk_without_locks_is_named(settings, tmp_path, monkeypatch, error):
    def fail(lock, timeout):
        raise error

    monkeypatch.setattr(run_directory.filelock.FileLock, "acquire", fail)
    with (
        pytest.raises(ConfigError, match=r"is on a disk that can't lock files"),
        run_directory.claim(tmp_path / "run", settings, PARAMS),
    ):
        pass


def test_other_weights_of_the_same_name_are_refused(settings, started):
    changed = PARAMS | {"bias": np.ones(3, np.float32)}
    with pytest.raises(
        ConfigError, match=r"of other weights than those that embedded:vit_fashion has"
    ):
        run_directory.check_weights(started, settings, changed)
    (started / "weights.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"weights\.json is not readable"):
        run_directory.check_weights(started, settings, PARAMS)
