"""Whose a directory is, and whether a run can start or continue there."""

import dataclasses
import errno
import json
import shutil

import numpy as np
import pytest

from configs import smoke
from maskaq_jax import config as config_lib
from maskaq_jax.runs import directory
from maskaq_jax.schema import ConfigError

PARAMS = {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}


@pytest.fixture
def settings():
    return config_lib.validated(smoke.get_config())


@pytest.fixture
def started(settings, tmp_path):
    """The directory of a run that has started and ended."""
    with directory.claim(tmp_path / "run", settings, PARAMS):
        pass
    return tmp_path / "run"


def test_a_run_says_what_it_is_and_can_continue(settings, started):
    directory.check(started, settings)
    directory.check_weights(started, settings, PARAMS)
    assert directory.read_settings(started) == settings
    with directory.claim(started, settings, PARAMS):
        pass


def _with_images(settings, path, labels="", real=""):
    evaluation = dataclasses.replace(
        settings.evaluation, dataset="folder", path=path, labels=labels, split=""
    )
    samples = dataclasses.replace(settings.samples, real=real)
    return dataclasses.replace(settings, evaluation=evaluation, samples=samples)


@pytest.mark.parametrize("spelt", ["pics", "./pics", "pics/", "others/../pics", "~/pics", None])
def test_the_same_folder_in_another_spelling_is_the_same(settings, tmp_path, monkeypatch, spelt):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("pics", "others"):
        (tmp_path / name).mkdir()
    spelt = spelt or str(tmp_path / "pics")
    with directory.claim(
        tmp_path / "run", _with_images(settings, "pics", "pics/a", "pics"), PARAMS
    ):
        pass
    directory.check(tmp_path / "run", _with_images(settings, spelt, f"{spelt}/a", spelt))


@pytest.mark.parametrize("field", ["path", "labels", "real"])
def test_data_that_moved_are_told_where_to_say_so(settings, tmp_path, field):
    before = {"path": "pics", "labels": "labels", "real": "own"}
    with directory.claim(tmp_path / "run", _with_images(settings, **before), PARAMS):
        pass
    moved = _with_images(settings, **before | {field: "moved"})
    with pytest.raises(ConfigError, match=r"the same data lie elsewhere by now, say so in .*json"):
        directory.check(tmp_path / "run", moved)
    with pytest.raises(ConfigError, match=r"name another --workdir$"):
        directory.check(tmp_path / "run", dataclasses.replace(moved, seed=7))


def test_a_run_that_ended_before_it_began_can_start(settings, tmp_path):
    for name in ("lock", "weights.json.unfinished", "config.json.unfinished"):
        (tmp_path / name).write_text("")
    with directory.claim(tmp_path, settings, PARAMS):
        pass


def test_two_runs_do_not_share_a_directory(settings, tmp_path):
    with (
        directory.claim(tmp_path / "run", settings, PARAMS),
        pytest.raises(ConfigError, match="another run is at work in"),
        directory.claim(tmp_path / "run", settings, PARAMS),
    ):
        pass
    with directory.claim(tmp_path / "run", settings, PARAMS):  # which is free again
        pass


def test_files_of_others_are_no_run(settings, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="holds files that are no run of ours"):
        directory.check(tmp_path, settings)


def test_other_settings_are_named_three_at_most(settings, started):
    other = dataclasses.replace(settings, seed=1)
    with pytest.raises(ConfigError, match=r"in config\.seed \(0 there, 1 here\): name another"):
        directory.check(started, other)
    samples = dataclasses.replace(settings.samples, num_samples=8, batch_size=8, calibration_size=4)
    other = dataclasses.replace(other, samples=samples)
    with pytest.raises(ConfigError) as refusal:
        directory.check(started, other)
    assert str(refusal.value).count(" here)") == 3
    assert ", ...: name another --workdir" in str(refusal.value)


def test_a_run_made_before_a_field_was_added_continues(settings, started):
    """A field that its file lacks had its default."""
    saved = json.loads((started / "config.json").read_text())
    assert saved["synthesis"].pop("weight_decay") == 1e-6
    assert saved["pixels"].pop("grey")
    (started / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError) as refusal:
        directory.check(started, settings)
    assert "in config.pixels.grey (False there, True here): name" in str(refusal.value)
    pixels = dataclasses.replace(settings.pixels, grey=False)
    directory.check(started, dataclasses.replace(settings, pixels=pixels))


def test_a_field_of_another_version_is_named(settings, started):
    saved = json.loads((started / "config.json").read_text())
    saved["samples"]["num_sample"] = 8
    (started / "config.json").write_text(json.dumps(saved))
    with pytest.raises(
        ConfigError, match=r"unknown field config\.samples\.num_sample.*name another --workdir"
    ):
        directory.check(started, settings)


def test_settings_that_cannot_be_read_are_named(settings, started):
    (started / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is not readable"):
        directory.check(started, settings)


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "No locks")])
def test_a_disk_without_locks_is_named(settings, tmp_path, monkeypatch, error):
    def fail(lock, timeout):
        raise error

    monkeypatch.setattr(directory.filelock.FileLock, "acquire", fail)
    with (
        pytest.raises(ConfigError, match=r"is on a disk that can't lock files"),
        directory.claim(tmp_path / "run", settings, PARAMS),
    ):
        pass


def test_other_weights_of_the_same_name_are_refused(settings, started):
    changed = PARAMS | {"bias": np.ones(3, np.float32)}
    with pytest.raises(
        ConfigError, match=r"of other weights than those that embedded:vit_fashion has"
    ):
        directory.check_weights(started, settings, changed)
    (started / "weights.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"weights\.json is not readable"):
        directory.check_weights(started, settings, PARAMS)


@pytest.mark.parametrize(("name", "place"), [("evaluation", "pics"), ("real", "own")])
def test_a_run_continues_with_the_images_that_it_was_started_with(settings, tmp_path, name, place):
    settings = _with_images(settings, "pics", real="own")
    images = {"evaluation": 1, "real": 2}
    directory.check_images(tmp_path / "run", settings, images)
    with directory.claim(tmp_path / "run", settings, PARAMS, images=images):
        pass
    directory.check_images(tmp_path / "run", settings, images)
    with pytest.raises(ConfigError, match=rf"other {name} images than {place} holds now, by"):
        directory.check_images(tmp_path / "run", settings, images | {name: 3})
    directory.check_images(tmp_path / "run", settings, {})
    (tmp_path / "run" / "images.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"images\.json is not readable"):
        directory.check_images(tmp_path / "run", settings, images)


def test_what_a_killed_start_left_of_images_is_not_compared(settings, tmp_path):
    (tmp_path / "images.json").write_text("{")
    directory.check_images(tmp_path, settings, {"real": 1})
    with directory.claim(tmp_path, settings, PARAMS, images={"real": 1}):
        pass
    directory.check_images(tmp_path, settings, {"real": 1})


def test_a_directory_that_is_removed_under_a_run_is_told(settings, tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="was removed while the run was at work"),
        directory.claim(tmp_path / "run", settings, PARAMS),
    ):
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"seed": 0}'])
def test_results_that_are_none_are_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is not readable"):
        directory.read_results(tmp_path)


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run in .*: there is no config\.json"):
        directory.read_settings(tmp_path)
