"""The directory of a run: whether it can start or continue there, and that it is alone there."""

import contextlib
import datetime
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import jax

from maskaq_jax import config
from maskaq_jax.config import Config
from maskaq_jax.devices import parallel
from maskaq_jax.runs import checkpoint
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import paths, whole_files

# The run's settings.
CONFIG = "config.json"
# The checksum of the weights it was started with.
WEIGHTS = "weights.json"
# The fingerprints of a user's images that it read.
IMAGES = "images.json"
# Loss terms, and all else that is measured on the way.
METRICS = "metrics.jsonl"
# The time each phase has taken so far.
SECONDS = "seconds.json"
# What the run tells at its end.
RESULTS = "results.json"
# The state of training, kept by Orbax.
CHECKPOINTS = "checkpoints"
# The synthetic images, kept by `synthesis.store`.
SAMPLES = "samples"
# A picture of some of them.
SAMPLE_SHEET = "samples.png"
# What started the run, to start it again.
COMMAND = "command.json"
# A page to look at, of `report`.
REPORT = "report.html"
# What each tensor loses alone, of `sensitivity`.
SENSITIVITY = "sensitivity.json"
# Held while the run is at work.
LOCK = "lock"

# Fields that say where weights are, which may be elsewhere when a run continues.
_OF_WEIGHTS = ("config.model.weights ", "config.model.weights_key ")
# Fields that are paths, which may be spelt in several ways.
_OF_PLACES = ("config.evaluation.path ", "config.evaluation.labels ", "config.samples.real ")
# What the results of every run have.
_ALWAYS_TOLD = {"method", "seed", "weight_bits", "activation_bits", "epochs", "seconds"}
# Files of a start that was killed before it wrote its settings.
_REMAINS = (
    LOCK,
    WEIGHTS,
    IMAGES,
    *(whole_files.unfinished(Path(name)).name for name in (WEIGHTS, IMAGES, CONFIG)),
)
# What a file system without `flock` says.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def fresh(name: str) -> Path:
    """runs/NAME-TIME-PROCESS: several runs may start in one second."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{name}-{stamp}-{os.getpid()}"


def check(workdir: Path, settings: Config) -> None:
    """Raises `ConfigError` unless a run of these settings can start or continue there.

    A field that the run there knows nothing of, as it was added since, had its default. Where its
    weights come from is not compared: their checksum is, by `check_weights`.
    """
    if "\0" in str(workdir):
        raise ConfigError(f"workdir {str(workdir)!r} is no name of a directory")
    # A link to nothing counts as something there.
    there = next(filter(os.path.lexists, (workdir.absolute(), *workdir.absolute().parents)))
    if not there.is_dir():
        raise ConfigError(f"workdir {workdir}: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"workdir {workdir}: {there} can't be written to")
    if not workdir.exists():
        return
    saved = workdir / CONFIG
    if not saved.is_file():
        if any(path.name not in _REMAINS for path in workdir.iterdir()):
            raise ConfigError(
                f"workdir {workdir} holds files that are no run of ours: name another --workdir"
            )
        return
    before = read_settings(workdir)
    differences = _differences(_as_stored(before), _as_stored(settings), "config")
    if (workdir / WEIGHTS).is_file():
        differences = [line for line in differences if not line.startswith(_OF_WEIGHTS)]
    if differences:
        are_places = [line.startswith(_OF_PLACES) for line in differences]
        moved = f", or, where the same data lie elsewhere by now, say so in {saved}"
        raise ConfigError(
            f"workdir {workdir} holds another run, which differs in {', '.join(differences[:3])}"
            f"{', ...' if len(differences) > 3 else ''}: name another --workdir"
            f"{moved if all(are_places) else ''}"
        )


def read_settings(workdir: Path) -> Config:
    """The settings of the run that was started there.

    Raises:
      FileNotFoundError: there is none.
      ConfigError: they are damaged, or a field is not of this version's.
    """
    saved = workdir / CONFIG
    if not saved.is_file():
        raise FileNotFoundError(f"no run in {workdir}: there is no {CONFIG}")
    try:
        return config.from_dict(json.loads(saved.read_text(encoding="utf-8")))
    except ConfigError as error:
        raise ConfigError(
            f"workdir {workdir} holds a run of another version: {error}: name another --workdir"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{saved} is not readable: {error}: take it from a copy of the directory, or start "
            "anew with another --workdir"
        ) from error


def check_finished(workdir: Path) -> None:
    """Raises FileNotFoundError unless there is a finished run."""
    if not (workdir / RESULTS).is_file():
        raise FileNotFoundError(
            f"no finished run in {workdir}: there is no {RESULTS} (a stopped run continues when it "
            "is started again with the same config and workdir)"
        )


def read_results(workdir: Path) -> dict[str, Any]:
    """What a finished run told at its end.

    Raises:
      FileNotFoundError: it isn't finished.
      ValueError: the file is damaged.
    """
    check_finished(workdir)
    saved = workdir / RESULTS
    try:
        results = json.loads(saved.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{saved} is not readable: {error}") from error
    if not isinstance(results, dict) or not results.keys() >= _ALWAYS_TOLD:
        raise ValueError(f"{saved} is not readable: it holds no results of a run")
    return results


def check_weights(workdir: Path, settings: Config, params: Any) -> None:
    """Raises `ConfigError` if a run was started there with other weights."""
    saved = workdir / WEIGHTS
    if not saved.is_file():
        return
    try:
        before = json.loads(saved.read_text(encoding="utf-8"))["crc32"]
    except (ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"{saved} is not readable: {error}") from error
    if before != checkpoint.checksum(params):
        raise ConfigError(
            f"workdir {workdir} holds a run of other weights than those that "
            f"{settings.model.weights} has now: name another --workdir"
        )


def check_images(workdir: Path, settings: Config, images: Mapping[str, int]) -> None:
    """Raises `ConfigError` if a run was started there with other images than there are now.

    Args:
      workdir: the directory.
      settings: of the run.
      images: fingerprints of a user's own images, by 'evaluation' and 'real'; those that the run
        has not written down are not compared.
    """
    if not (workdir / CONFIG).is_file():  # what is there is left of a start that was killed
        return
    try:
        before = dict(json.loads((workdir / IMAGES).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{workdir / IMAGES} is not readable: {error}") from error
    places = {"evaluation": settings.evaluation.path, "real": settings.samples.real}
    for name, value in images.items():
        if before.get(name, value) != value:
            raise ConfigError(
                f"workdir {workdir} holds a run that was started with other {name} images than "
                f"{places[name]} holds now, by their files' names, sizes and labels: bring back "
                "those, or name another --workdir"
            )


@contextlib.contextmanager
def claim(
    workdir: Path,
    settings: Config,
    params: Any,
    command: str = "",
    images: Mapping[str, int] | None = None,
) -> Iterator[None]:
    """Makes the directory this run's alone, until it ends in whatever way.

    Args:
      workdir: the directory; it is made if it isn't there.
      settings: of the run.
      params: P's weights.
      command: which starts the run, without the directory; empty where there is none.
      images: as of `check_images`.

    Raises:
      ConfigError: another run is at work there, or the hosts don't share it.
      OSError: it can't be written to, or was removed meanwhile.
    """
    lock = filelock.FileLock(workdir / LOCK)
    refusal: Exception | None = None
    if parallel.is_main_process():
        try:
            _write_start(workdir, settings, params, images or {}, lock)
            if command:
                whole_files.write_json(workdir / COMMAND, {"command": command})
        except (ConfigError, OSError) as error:
            refusal = error
    if parallel.take_from_main(refusal is not None):
        lock.release()
        raise refusal or ConfigError(f"process 0 refuses {workdir}: its own message says why")
    is_shared = (workdir / CONFIG).is_file() and os.access(workdir, os.W_OK | os.X_OK)
    if parallel.any_host(not is_shared):
        lock.release()
        raise ConfigError(
            f"process {jax.process_index()} {'sees' if is_shared else 'lacks'} {workdir}, but all "
            "must see it and write there: name a --workdir that all hosts share"
        )
    try:
        yield
        if not (workdir / CONFIG).is_file():
            raise FileNotFoundError(
                f"{workdir} was removed while the run was at work: what it had written is lost"
            )
    finally:
        lock.release()


def _write_start(
    workdir: Path,
    settings: Config,
    params: Any,
    images: Mapping[str, int],
    lock: filelock.BaseFileLock,
) -> None:
    """Takes the directory and says in it what the run is."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"workdir {workdir} can't be made: {error.strerror}") from error
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(
            f"another run is at work in {workdir}: name another --workdir (if none is, remove "
            f"{lock.lock_file})"
        ) from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        raise ConfigError(
            f"workdir {workdir} is on a disk that can't lock files, which keeps two runs apart: "
            "name one on another disk, or have it mounted with flock"
        ) from error
    check(workdir, settings)
    whole_files.write_json(workdir / WEIGHTS, {"crc32": checkpoint.checksum(params)})
    if images:
        whole_files.write_json(workdir / IMAGES, dict(images))
    whole_files.write_json(workdir / CONFIG, config.as_dict(settings))


def _as_stored(settings: Config) -> Any:
    """Through JSON, so that tuples compare equal to the lists they are stored as."""
    return json.loads(json.dumps(config.as_dict(settings)))


def _differences(before: Any, now: Any, path: str) -> list[str]:
    """Dotted names of the fields that differ, with both values; places do where they are others."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for name in sorted(before.keys() | now.keys())
            for difference in _differences(before.get(name), now.get(name), f"{path}.{name}")
        ]
    if before and now and f"{path} " in _OF_PLACES and _is_same_place(before, now):
        return []
    return [] if before == now else [f"{path} ({before!r} there, {now!r} here)"]


def _is_same_place(one: str, other: str) -> bool:
    """Whether two paths lead to one place, as `pics`, `./pics` and `~/pics` may."""
    return paths.expanded_path(one).resolve() == paths.expanded_path(other).resolve()
