"""What number a class folder has: the order of its name, of its number, or of a file."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from maskaq_jax.storage import notes

ClassOrder = Literal["name", "number", "file"]
# Folders named by numbers in their order, all others in that of their names.
DEFAULT: ClassOrder = "number"


def by_number(name: str) -> tuple[int, str]:
    """Sorts '2' before '10', and what is no number by its name.

    By the plain names, as torchvision's ImageFolder sorts them, '10' comes first.
    """
    return (int(name) if name.isdecimal() else 0), name


def check_numbers(root: Path, folders: Collection[str], num_classes: int) -> None:
    """Raises ValueError where folders are named by numbers that can't be labels, or some of them.

    Labels are 0 to one less than there are classes, or 1 to as many.

    Args:
      root: their folder.
      folders: names of all class folders.
      num_classes: of the model.
    """
    numbers = sorted(int(name) for name in folders if name.isdecimal())
    if not numbers:
        return
    mend = (
        "move away what is no class, or say by config.evaluation.order='file' and "
        "config.evaluation.labels which folder is which class ('name' counts them in the order of "
        "their names)"
    )
    others = sorted(name for name in folders if not name.isdecimal())
    if others:
        raise ValueError(
            f"{root} holds class folders named by numbers, as {numbers[0]}, and others, as "
            f"{notes.some(others)}: {mend}"
        )
    count = len(numbers)
    if count == num_classes and numbers not in (list(range(count)), list(range(1, count + 1))):
        raise ValueError(
            f"{root}: class folders are numbered {notes.some(numbers, 20)}, but the labels of "
            f"{num_classes} classes are 0 to {num_classes - 1}: {mend}"
        )


def read_labels(file: Path, folders: Collection[str], num_classes: int) -> dict[str, int]:
    """Labels of class folders from a file of all classes.

    Args:
      file: a class a line, in the order of the model's: the folder's name, which may be followed by
        its number, from 0, or by words (`n01440764 tench, Tinca tinca`). Or JSON: a list of names,
        or their numbers by name (torchvision's `class_to_idx`), or names by number (`id2label`).
      folders: names of the folders there are, which may be some of the classes.
      num_classes: of the model.

    Raises:
      ValueError: it is no such file, a folder's name is missing, or a list leaves classes out.
    """
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    if file.suffix.lower() == ".json":
        labels, is_list = _of_json(file, text)
    else:
        labels, is_list = _of_lines(file, text, folders)
    missing = sorted(folder for folder in folders if folder not in labels)
    if missing:
        raise ValueError(f"{file} names no class folder {missing[0]!r}")
    outside = sorted(name for name, label in labels.items() if not 0 <= label < num_classes)
    if outside:
        raise ValueError(
            f"{file}: class {outside[0]!r} has number {labels[outside[0]]}, but the model has "
            f"{num_classes} classes, from 0"
        )
    if len(set(labels.values())) < len(labels):
        raise ValueError(f"{file}: two classes have the same number")
    if is_list and len(labels) < num_classes:
        raise ValueError(
            f"{file} lists {len(labels)} classes in their order, but the model has {num_classes}: "
            "it takes all of them, or those there are with their numbers from 0, as `NAME NUMBER` "
            "a line or {name: number} in JSON"
        )
    return labels


def _of_lines(file: Path, text: str, folders: Collection[str]) -> tuple[dict[str, int], bool]:
    """Numbers by name, and whether they are those of the lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = [line.replace(",", " ").rpartition(" ") for line in lines]
    # All of them end in numbers, and no folder's name does it by itself.
    is_numbered = all(name and label.isdecimal() for name, _, label in pairs)
    if is_numbered and not set(lines) & set(folders):
        return {name.strip(): int(label) for name, _, label in pairs}, False
    names = [line if line in folders else line.split()[0] for line in lines]
    if len(set(names)) < len(names):
        # Words that don't begin with a folder's name: whole lines tell classes apart.
        names = lines
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: two lines name the same class")
    return {name: number for number, name in enumerate(names)}, True


def _of_json(file: Path, text: str) -> tuple[dict[str, int], bool]:
    """Numbers by name, and whether they are those of a list."""
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not readable: {error}") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return {name: number for number, name in enumerate(content)}, True
    if isinstance(content, dict):
        if all(type(number) is int for number in content.values()):
            return dict(content), False
        if all(key.isdecimal() and isinstance(content[key], str) for key in content):
            return {name: int(number) for number, name in content.items()}, False
    raise ValueError(f"{file}: expected a list of class names, or their numbers by name")
