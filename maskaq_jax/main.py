"""Command line: `python -m maskaq_jax.main --config=FILE[:args] [--config.field=value ...]`."""

import contextlib
import dataclasses
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from maskaq_jax.runs import command_line
from maskaq_jax.runs.command_line import FAILURE, end, refuse, tell

if TYPE_CHECKING:
    from maskaq_jax.config import Config
    from maskaq_jax.runs.inputs import RunInputs

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with its arguments after a colon: configs/vit_fashion.py:w=3,a=3."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; a fresh one under runs/ if left out."
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.path.join("~", ".cache", "maskaq_jax"),
    "Directory where compiled programs are kept between runs; empty for none.",
)

_LIST_CONFIGS = flags.DEFINE_bool(
    "list_configs", False, "List the configs that ship with the package, a line each, and end."
)

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "One of several processes, which the environment tells of (TPU pods, Slurm, GKE, Open MPI).",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where the environment doesn't tell."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")

_CONFIG_IS_MISSING = "--config is missing; try --config=configs/vit_fashion.py"
# What Python says of text that is no number, and what was wanted.
_KINDS = {
    r"invalid literal for int\(\) with base 10:": "an integer",
    "could not convert string to float:": "a number",
}


def start() -> None:
    """The program: flags, then `main`; however it ends, no traceback of ours is left."""
    signal.signal(signal.SIGINT, _stop_at_once)
    command_line.start(lambda: app.run(main, flags_parser=_parse_flags))


def _stop_at_once(number: int, frame: object = None) -> NoReturn:
    """Ctrl-C where nothing waits for it, as the second one of a run: what is saved stays."""
    del frame
    line = "stopped at once: what was saved by then stays, and the same --workdir continues from it"
    # Not by Python's streams, which may be in the middle of a line; rich hides the cursor.
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    os.write(sys.stderr.fileno(), f"{show_cursor}\n{line}\n".encode())
    os._exit(command_line.ENDED_BY + number)


def main(argv: list[str]) -> None:
    """Checks everything, then runs."""
    logging.set_verbosity(logging.FATAL)  # Orbax tells every step of a save, and errors twice.
    if len(argv) > 1:
        refuse(f"unexpected argument {argv[1]!r}; flags start with --")
    if _LIST_CONFIGS.value:
        _list_configs()
        return
    if not flags.FLAGS["config"].present:
        refuse(_CONFIG_IS_MISSING)

    # JAX loads when it is needed: --help and a missing --config are answered at once.
    from maskaq_jax import config
    from maskaq_jax.devices import memory, parallel
    from maskaq_jax.runs import interruption

    memory.keep_freed_memory()
    memory.compute_in_32_bits()
    memory.spare_loaded_objects()
    if _CACHE.value:
        try:
            memory.keep_on_disk(os.path.expanduser(_CACHE.value))
        except OSError as error:
            if flags.FLAGS["compilation_cache"].present:
                refuse(f"--compilation_cache: {error}")
            print(f"compiled programs are not kept: {error}", file=sys.stderr)
    try:
        settings = config.validated(_CONFIG.value)
        _check_process_flags()
        if _is_distributed():
            parallel.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    except (ValueError, OSError) as error:
        refuse(str(error))
    with (
        interruption.catch_termination(_stop_at_once) as is_terminated,
        interruption.quiet_about_a_full_disk(),
    ):
        _run(_prepare(settings), is_terminated)


def _prepare(settings: "Config") -> "RunInputs":
    """What `inputs.prepare` does; processes refuse together, or the others would wait."""
    from maskaq_jax.devices import parallel
    from maskaq_jax.runs import directory
    from maskaq_jax.runs.inputs import prepare
    from maskaq_jax.storage import paths

    if _WORKDIR.value:
        workdir = paths.expanded_path(_WORKDIR.value)
    else:
        workdir = directory.fresh(
            Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        )
    try:
        inputs = prepare(settings, workdir)
    except (ValueError, OSError) as error:
        with contextlib.suppress(
            RuntimeError, AssertionError
        ):  # no device, and so no way to tell the others
            parallel.any_host(True)
        refuse(str(error))
    if parallel.any_host(False):
        refuse("another process refuses: its own message says why")
    return dataclasses.replace(inputs, command=_command())


def _command() -> str:
    """What a shell takes to start the run again, without its directory."""
    kept = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        name, has_value, _ = argument.partition("=")
        if name not in ("--workdir", "-workdir"):
            kept.append(argument)
        elif not has_value:
            next(arguments, None)
    return shlex.join(["python", "-m", "maskaq_jax.main", *kept])


def _run(inputs: "RunInputs", is_terminated: Callable[[], bool]) -> None:
    """Runs; whatever ends it early is told in one line, with what to do about it."""
    from maskaq_jax import config, report, run
    from maskaq_jax.devices import parallel
    from maskaq_jax.runs import directory, interruption
    from maskaq_jax.storage import failures

    workdir = inputs.workdir
    say = print if parallel.is_main_process() else _say_nothing
    if parallel.any_host(is_terminated()):
        say("stopped before anything was written", file=sys.stderr)
        sys.exit(interruption.EXIT_STATUS)
    say(f"run directory: {workdir}", flush=True)
    try:
        run.run(inputs, is_terminated, report.write_at_end)
    except BrokenPipeError:
        raise  # `start` knows what it means
    except config.ConfigError as error:
        refuse(str(error))
    except interruption.Interrupted:
        say(f"stopped; start again with --workdir={workdir} to continue", file=sys.stderr)
        sys.exit(interruption.EXIT_STATUS)
    except FloatingPointError as error:
        end(str(error), FAILURE)
    except Exception as error:
        if reason := failures.find_full_disk(error):
            tell(
                f"{reason}: make room and start again with --workdir={workdir}; it continues from "
                "its last whole checkpoint"
            )
            # At once: writers would try the disk again, and tell of it.
            os._exit(FAILURE)
        if isinstance(error, OSError):
            end(str(error), FAILURE)
        if failures.is_out_of_memory(error):
            told = str(error).splitlines()[0].rstrip(".")
            end(
                f"{told}: lower config.samples.batch_size, config.finetuning.batch_size or "
                "config.evaluation.batch_size, with another --workdir",
                FAILURE,
            )
        raise
    say(f"done: {workdir / directory.RESULTS}")
    if (workdir / directory.REPORT).is_file():
        say(f"to look at: {workdir / directory.REPORT}")


def _is_distributed() -> bool:
    """Whether flags say that there are other processes."""
    return _DISTRIBUTED.value or _COORDINATOR.value is not None


def _check_process_flags() -> None:
    """Refuses flags that don't say how processes find one another and where they write."""
    values = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    given = [value is not None for value in values]
    if any(given) and not all(given):
        refuse("--coordinator, --num_processes and --process_id go together")
    if _is_distributed() and not _WORKDIR.value:
        refuse("--workdir is missing: processes of one run share a directory")
    if "://" in (_WORKDIR.value or ""):
        refuse(f"--workdir must be a directory, as a mounted bucket is; got {_WORKDIR.value!r}")
    if _COORDINATOR.value is not None:
        host, _, port = _COORDINATOR.value.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            refuse(f"--coordinator must be HOST:PORT, got {_COORDINATOR.value!r}")


def _say_nothing(*values: object, **options: object) -> None:
    del values, options


def _list_configs() -> None:
    from maskaq_jax.config import files

    for name, told in files.describe_own():
        print(f"{name:<24} {told}")


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; a config file may fail in any way, and so may an override."""
    logging.set_verbosity(logging.FATAL)  # config_flags warns of what is refused in a line
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(f"{__doc__}\n{flags.FLAGS.module_help(_name_of_this_module())}")
        sys.exit(0)
    argv = _with_config_found(argv)
    try:
        return flags.FLAGS(argv)
    except BrokenPipeError:  # of help
        raise
    except Exception as error:  # whatever the config file raises
        refuse(_mistake_in_fields(argv) or _explain(error))


def _name_of_this_module() -> str:
    """As absl has it, which depends on how the program was started."""
    name = flags.FLAGS.find_module_defining_flag("workdir")
    assert name is not None
    return name


def _with_config_found(argv: list[str]) -> list[str]:
    """The arguments with the path of the config's file, given or the package's own.

    They come as `--config=FILE:args` or `--config FILE:args`.
    """
    for place, argument in enumerate(argv):
        if _name_of(argument) != "config":
            continue
        _, has_value, value = argument.partition("=")
        from maskaq_jax.config import files

        following = argv[place + 1 : place + 2]
        path, colon, arguments = (value if has_value else "".join(following)).partition(":")
        if not path:
            refuse(_CONFIG_IS_MISSING)
        try:
            found = files.find(path)
        except OSError as error:
            refuse(f"--config: {error}")
        files.provide_neighbours(found.resolve().parent)
        rest = argv[place + 1 if has_value else place + 2 :]
        return [*argv[:place], f"--config={found}{colon}{arguments}", *rest]
    return argv


def _mistake_in_fields(argv: list[str]) -> str | None:
    """What is wrong with the name of a `--config.field`; config_flags gives its last word alone."""
    from maskaq_jax import config, schema

    fields = [_name_of(argument) for argument in argv if argument.startswith("--config.")]
    if fields and not {"config", "flagfile"} & set(map(_name_of, argv)):
        return _CONFIG_IS_MISSING
    for path in fields:
        try:
            inside = config.fields_of(path)
        except schema.ConfigError as error:
            return str(error)
        if inside:
            return f"{path} is a group of fields: name one of {', '.join(inside)}"
    return None


def _name_of(argument: str) -> str:
    """The flag's name in `--name=value` or `-name`."""
    return argument.lstrip("-").partition("=")[0] if argument.startswith("-") else ""


def _explain(error: Exception) -> str:
    """What a user needs of an error that config_flags has wrapped."""
    if isinstance(error.__context__, KeyError):  # an argument of the model: names not ours
        return f"the config has no field {error.__context__.args[0]}: add it in the config file"
    text = str(error).strip()
    if found := re.search(r"Attribute <class '(\w+)'>\.\w+ does not exist", text):
        return f"get_config returns {found[1]}, not an ml_collections.ConfigDict"
    for told, kind in _KINDS.items():
        if found := re.fullmatch(rf"flag --(config\.[\w.]+)=.*: {told} (.*)", text, re.DOTALL):
            return f"{found[1]} must be {kind}, got {found[2]}"
    if "Traceback" in text:  # a config file's own error, with its name before the colon
        return re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])
    return text


if __name__ == "__main__":
    start()
