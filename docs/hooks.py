"""What `mkdocs build` generates: the tables of `docs/reference/config.md`, from the dataclasses.

A page is found by a mark that it holds, so that the page itself is in the repository, and links to
it are good there too.
"""

import dataclasses
import inspect
import operator
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from maskaq_jax import schema
from maskaq_jax.config import (
    DENSE_PRESETS,
    EMBEDDED_PRESETS,
    IMAGENET_PRESETS,
    SCENES_PRESETS,
    Config,
    Preset,
)

MARK = "<!-- config fields -->"
_KINDS = {int: "integer", float: "number", str: "text", bool: "`True` or `False`"}
# `name: text` of a Google docstring's attributes, up to the next one.
_ATTRIBUTE = re.compile(r"^ {2}(\w+): ((?:.|\n {4})*)", re.MULTILINE)


def on_page_markdown(markdown: str, **others: Any) -> str:
    """MkDocs calls this with each page."""
    del others
    return markdown.replace(MARK, config_tables()) if MARK in markdown else markdown


def config_tables() -> str:
    """A table in Markdown for each group of fields."""
    return "\n".join(_table(path, kind) for path, kind in _groups("config", Config))


def _table(path: str, kind: type) -> str:
    rows = [_row(f"{path}.{field.name}", field, kind) for field in _leaves(kind)]
    heads = ("field", "values", "default", "`preset=best`", "what")
    # A column that is empty throughout is left out.
    columns = [column for column in zip(heads, *rows, strict=True) if any(column[1:])]
    head, *lines = zip(*columns, strict=True)
    about = (inspect.getdoc(kind) or "").partition("\n\nAttributes:")[0]
    return "\n".join(
        [
            f"## `{path}`",
            "",
            about,
            "",
            _line(head),
            "|---" * len(head) + "|",
            *map(_line, lines),
            "",
        ]
    )


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _groups(path: str, kind: type) -> Iterator[tuple[str, type]]:
    """The dataclass at a path and those inside it."""
    yield path, kind
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from _groups(f"{path}.{name}", typing.cast(type, hint))


def _leaves(kind: Any) -> list[dataclasses.Field[Any]]:
    hints = typing.get_type_hints(kind)
    return [
        field
        for field in dataclasses.fields(kind)
        if not dataclasses.is_dataclass(hints[field.name])
    ]


def _row(path: str, field: dataclasses.Field[Any], kind: type) -> tuple[str, ...]:
    hint = typing.get_type_hints(kind, include_extras=True)[field.name]
    about = _about(kind)[field.name]
    return f"`{field.name}`", _values(hint), _default(path), _best(path), about


def _values(hint: Any) -> str:
    """What a field may be, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of: {_values(arguments[0])}"
    if origin is dict:
        return "group of the model's arguments"
    if origin is typing.Annotated:
        rules = arguments[1:]
        if isinstance(rules[0], schema.Choice):
            return ", ".join(f"`{value}`" for value in rules[0].options)
        said = ", ".join(re.sub(r"^must (not )?be ", r"\1", rule.rule) for rule in rules)
        return f"{_values(arguments[0])}, {said}"
    return _KINDS[hint]


def _default(path: str) -> str:
    """What an experiment has, which may be another value than the class of a group has."""
    return _shown(operator.attrgetter(path.removeprefix("config."))(Config()))


def _best(path: str) -> str:
    """What `preset=best` sets, where that is another value; for each scale if they differ."""
    name = path.removeprefix("config.")
    imagenet, dense, embedded, scenes = (
        _preset(family["best"])
        for family in (IMAGENET_PRESETS, DENSE_PRESETS, EMBEDDED_PRESETS, SCENES_PRESETS)
    )
    if name in imagenet and imagenet[name] == embedded.get(name):
        return _shown(imagenet[name])
    told = [("ImageNet", imagenet), ("embedded", embedded)]
    if dense.get(name) != imagenet.get(name):
        told.append(("detectors and segmenters", dense))
    if scenes.get(name) != dense.get(name):
        told.append(("scenes", scenes))
    return ", ".join(f"{scale} {_shown(values[name])}" for scale, values in told if name in values)


def _preset(preset: Preset) -> Mapping[str, Any]:
    return {**preset.images, **preset.training}


def _shown(value: Any) -> str:
    return f"`{value}`" if value != "" else "empty"


def _about(kind: type) -> dict[str, str]:
    """Descriptions of a dataclass's fields, of its docstring."""
    attributes = (inspect.getdoc(kind) or "").partition("\n\nAttributes:\n")[2]
    return {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(attributes)}
