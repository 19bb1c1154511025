"""Damaged files are told, and mended where they can be."""

import errno
import re
import shutil

import numpy as np
import pytest

import maskaq_jax
from maskaq_jax import run
from maskaq_jax.runs import checkpoint
from maskaq_jax.storage import checked_arrays
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


def _damage_newest_checkpoint(workdir):
    newest = tiny.checkpoints(workdir)[-1]
    path = tiny.largest_file(workdir / "checkpoints" / str(newest) / "variables")
    # All along the file: what its last byte belongs to depends on the order of writes.
    content = np.fromfile(path, np.uint8)
    content[::256] ^= 1
    content.tofile(path)
    return f"checkpoints/{newest} is damaged"


def _damage_last_shard(workdir):
    tiny.flip_last_bit(tiny.shard_path(workdir, 1, 1))
    return "images_00000008_00000016.safetensors is damaged"


def _damage_first_shard_and_later_checkpoints(workdir):
    for path in (workdir / "checkpoints").iterdir():
        shutil.rmtree(path)
    tiny.flip_last_bit(tiny.shard_path(workdir, 0, 0))
    return "images_00000000_00000008.safetensors is damaged"


def _remove_every_checkpoint(workdir):
    shutil.rmtree(workdir / "checkpoints")
    return ""


@pytest.mark.parametrize(
    ("damage", "back", "kept"),
    [
        (_damage_newest_checkpoint, ["9 to 8"], tiny.work(120 + 36, 12, 8)),
        pytest.param(
            _damage_last_shard,
            ["9 to 6"],
            tiny.work(120 + 24, 6 + 3, 6),
            marks=pytest.mark.slow,
        ),
        # As many samples are kept as are whole, and no training.
        pytest.param(
            _damage_first_shard_and_later_checkpoints,
            [],
            tiny.work(0, 3 + 6, 0),
            marks=pytest.mark.slow,
        ),
        pytest.param(_remove_every_checkpoint, [], tiny.work(0, 12, 0), marks=pytest.mark.slow),
    ],
)
def test_damage_is_told_and_mended_to_the_same_bits(
    finished, settings, tmp_path, damage, back, kept, capfd, monkeypatch
):
    workdir = tmp_path / "damaged"
    shutil.copytree(finished[0], workdir)
    warning = damage(workdir)
    results, resumed = tiny.run_counting_work(tiny.prepare(settings, workdir), monkeypatch)
    told = capfd.readouterr().err.replace("\n", "")
    assert warning in told
    assert re.findall("warning: training goes back from step (.*?), the last that", told) == back
    assert resumed == kept
    tiny.assert_same_run(workdir, results, finished)
    for refresh, batch in ((0, 0), (1, 1)):
        mended, before = (
            checked_arrays.read_arrays(tiny.shard_path(directory, refresh, batch))
            for directory in (workdir, finished[0])
        )
        np.testing.assert_array_equal(mended["images"], before["images"])


def test_a_truncated_file_of_an_earlier_refresh_stops_no_run(finished, settings, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    path = tiny.shard_path(workdir, 0, 0)
    path.write_bytes(path.read_bytes()[:100])
    tiny.assert_same_run(workdir, run.run(tiny.prepare(settings, workdir)), finished)


def test_a_finished_run_needs_no_image_to_tell_its_results(
    finished, settings, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)

    def fail(path, name):
        raise PermissionError(errno.EACCES, "may not be read", str(path))

    monkeypatch.setattr(checked_arrays, "read_array", fail)
    tiny.assert_same_run(workdir, run.run(tiny.prepare(settings, workdir)), finished)


def test_a_damaged_model_is_not_loaded(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    _damage_newest_checkpoint(tmp_path / "run")
    with pytest.raises(OSError, match="start the run again to repair it"):
        maskaq_jax.load(tmp_path / "run")


def test_a_model_that_went_back_to_a_checkpoint_is_not_loaded(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    newest = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(newest))
    with pytest.raises(FileNotFoundError, match=rf"stands at step \d+ of {newest}: start it again"):
        maskaq_jax.load(tmp_path / "run")


def test_loading_writes_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}
    maskaq_jax.load(finished[0])
    assert {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")} == before


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (MemoryError(), MemoryError, ""),
        (OSError(errno.ESTALE, "stale file handle"), OSError, "stale file handle"),
        # As TensorStore tells it.
        (
            ValueError("NOT_READ: x [os_error_code='5'] [tensorstore_spec='{}']"),
            OSError,
            r"checkpoint .* can't be read: NOT_READ: x \[os_error_code='5'\]$",
        ),
    ],
)
def test_what_the_machine_fails_at_is_no_damage(
    finished, settings, tmp_path, monkeypatch, error, raised, message
):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    before = sorted(path.name for path in (workdir / "checkpoints").iterdir())

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "restore", fail)
    with pytest.raises(raised, match=message):
        run.run(tiny.prepare(settings, workdir))
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == before
