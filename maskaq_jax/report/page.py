"""The page of a run: one file that fetches nothing and runs nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from maskaq_jax.report import housekeeping, insides, outcome, pictures
from maskaq_jax.report.contents import Contents
from maskaq_jax.report.markup import Html, tag
from maskaq_jax.runs.results import bits_of

# Browsers keep to it: no script, nothing from elsewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = Path(__file__).with_name("style.css")

_MAKERS: tuple[tuple[str, str, Callable[[Contents], Html]], ...] = (
    ("accuracy", "Accuracy", outcome.accuracy),
    ("samples", "Samples", pictures.samples),
    ("found", "What is found", pictures.found),
    ("attention", "Attention", pictures.attention),
    ("losses", "Losses", outcome.losses),
    ("layers", "Layers", insides.layers),
    ("sensitivity", "Sensitivity", insides.sensitivity),
    ("time", "Time", outcome.time),
    ("files", "Files", housekeeping.files),
    ("settings", "Settings", housekeeping.settings),
    ("commands", "Commands", housekeeping.commands),
)


class _Section(NamedTuple):
    """A part of the page, by the name in its address."""

    name: str
    title: str
    body: Html


def render(contents: Contents) -> str:
    """The whole page, a text of HTML.

    Args:
      contents: all that it tells.
    """
    sections = list(_sections(contents))
    title = f"{contents.model} at {bits_of(contents.results)}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title}: report of a run"),
        tag("style", Html(_STYLE.read_text(encoding="utf-8"))),
    )
    links = [tag("li", tag("a", one.title, href=f"#{one.name}")) for one in sections]
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#main", class_="skip"),
        _header(contents, title),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *_notes(contents), *map(_show, sections), id_="main"),
        tag("footer", tag("p", f"Written by maskaq_jax {contents.version}.")),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _sections(contents: Contents) -> Iterator[_Section]:
    """Those alone that the run has something to tell in."""
    for name, title, make in _MAKERS:
        if body := make(contents):
            yield _Section(name, title, body)


def _header(contents: Contents, title: str) -> Html:
    results = contents.results
    told = [
        ("method", results["method"]),
        ("seed", str(results["seed"])),
        ("device", str(results.get("device", "not written down"))),
        ("finished", contents.finished),
        ("directory", contents.workdir),
    ]
    if results.get("rules"):
        told.insert(0, ("other bits", results["rules"]))
    facts = [tag("div", tag("dt", name), tag("dd", value)) for name, value in told]
    return tag(
        "header",
        tag("p", "maskaq_jax: report of a run", class_="kind"),
        tag("h1", title),
        tag("dl", *facts),
    )


def _notes(contents: Contents) -> Iterator[Html]:
    """What could not be read."""
    if contents.notes:
        yield tag("ul", *(tag("li", note) for note in contents.notes), class_="notes")


def _show(section: _Section) -> Html:
    heading = f"{section.name}-title"
    return tag(
        "section",
        tag("h2", section.title, id_=heading),
        section.body,
        id_=section.name,
        aria_labelledby=heading,
    )
