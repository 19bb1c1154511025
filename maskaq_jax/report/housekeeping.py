"""What lies where, by which settings it came, and what to type next."""

import shlex
from collections.abc import Sequence

from maskaq_jax.report.contents import Contents, Setting
from maskaq_jax.report.markup import Html, command, details, join, table, tag

_ENTRIES = {
    "checkpoints": "states of training, to continue from; the last one is the low-bit model",
    "command.json": "the command that started the run",
    "config.json": "the experiment, every field",
    "images.json": "checksums of the names of one's own images that the run started with",
    "metrics.jsonl": "loss terms, a line for each batch of images and each epoch of training",
    "results.json": "accuracies, times and all else that is told here first",
    "samples": "the synthetic images",
    "samples.png": "some of them with their informative regions",
    "seconds.json": "the time spent up to the last save",
    "sensitivity.json": "what each tensor loses alone",
    "sensitivity.png": "the same as a picture",
    "weights.json": "the checksum of the weights that the run started from",
}


def files(contents: Contents) -> Html:
    """What lies in the run's directory, and how large the model is as integers."""
    whole, packed = contents.float_bytes, contents.packed_bytes
    told = (
        f"The model takes {size_of(whole)} in float32, and {size_of(packed)} with its weights "
        f"packed to their bits, {packed / whole:.0%} of it."
    )
    rows = [
        (
            entry.name,
            size_of(entry.size),
            str(entry.num_files),
            _ENTRIES.get(entry.name, _kind_of(entry.name)),
        )
        for entry in contents.entries
    ]
    header = ("name", "size", "files", "what it is")
    return join([tag("p", told), table("Files of the run", header, rows, numeric=(1, 2))])


def settings(contents: Contents) -> Html:
    """The config: first what differs from the nearest preset, then every field."""
    differing = [setting for setting in contents.settings if setting.standard is not None]
    told = (
        f"The nearest preset is {contents.preset!r}. {len(differing)} of "
        f"{len(contents.settings)} fields differ from it or, where it has none, from the default."
    )
    return join(
        [
            tag("p", told),
            table(
                "Fields that differ",
                ("field", "value", "instead of"),
                [(setting.name, setting.value, _standard(setting)) for setting in differing],
            ),
            details("Every field", _setting_table(contents.settings)),
        ]
    )


def commands(contents: Contents) -> Html:
    """What to type to repeat the run, and to use what it made."""
    workdir = quoted(contents)
    parts = []
    if contents.command.startswith("maskaq_jax."):
        parts += [
            tag(
                "p",
                "The call that made this run; with another ",
                tag("code", "workdir"),
                " it makes it again, and with the same one it continues a run that was stopped:",
            ),
            command(contents.command),
        ]
    elif contents.command:
        parts += [
            tag("p", "Repeat this run in a fresh directory:"),
            command(contents.command),
            tag("p", "Continue it, if it is ever stopped or damaged:"),
            command(f"{contents.command} --workdir={workdir}"),
        ]
    else:
        parts.append(
            tag(
                "p",
                "The command that started this run was not written down; ",
                tag("code", "config.json"),
                " has every field.",
            )
        )
    use = (
        ("Write it as integers:", f"python -m maskaq_jax.export --workdir={workdir}"),
        (
            "Find the layers that lose most:",
            f"python -m maskaq_jax.sensitivity --workdir={workdir}",
        ),
        ("Write this page again:", report_command(contents)),
    )
    for told, line in use:
        parts += [tag("p", told), command(line)]
    return join(parts)


def size_of(count: int) -> str:
    """Bytes as a person says them."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            value = count / 10**power
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    return f"{count} B"


def _setting_table(shown: Sequence[Setting]) -> Html:
    rows = [
        (
            setting.name,
            setting.value
            if setting.standard is None
            else join([tag("mark", setting.value), " differs"]),
            _standard(setting),
        )
        for setting in shown
    ]
    return table("Every field", ("field", "value", "instead of"), rows)


def _standard(setting: Setting) -> str:
    if setting.standard is None:
        return ""
    return f"{setting.standard} ({'preset' if setting.of_preset else 'default'})"


def _kind_of(name: str) -> str:
    if name.startswith("events."):
        return "the metrics for TensorBoard"
    if name.endswith((".onnx", ".safetensors")):
        return "the model as integers"
    return ""


def quoted(contents: Contents) -> str:
    return shlex.quote(contents.workdir)


def report_command(contents: Contents) -> str:
    return f"python -m maskaq_jax.report --workdir={quoted(contents)}"
