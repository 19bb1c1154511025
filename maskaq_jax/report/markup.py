"""HTML in which every text is escaped, unless it is HTML already."""

import html
from collections.abc import Iterable, Sequence

# Elements without an end.
VOID = ("br", "image", "img", "meta", "path", "use")


class Html(str):
    """What goes into a page as it is; any other text is escaped."""

    __slots__ = ()


def escape(text: str) -> Html:
    """A text as HTML; HTML is returned as it is."""
    return text if isinstance(text, Html) else Html(html.escape(text))


def join(parts: Iterable[str]) -> Html:
    """Parts one after the other, each escaped unless it is HTML."""
    return Html("".join(map(escape, parts)))


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Html:
    """An element.

        >>> print(tag("p", "a < b ", tag("b", "c"), class_="note", aria_label='"d"'))
        <p class="note" aria-label="&quot;d&quot;">a &lt; b <b>c</b></p>

    Args:
      name: of the element.
      *children: texts, which are escaped, and HTML.
      **attributes: a hyphen for each underscore but the last character; None and False leave one
        out, True gives it no value.
    """
    told = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{told}/>")
    return Html(f"<{name}{told}>{join(children)}</{name}>")


def table(
    label: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Sequence[int] = (),
) -> Html:
    """A table that scrolls by itself where it is wider than the page, by keyboard too.

    Args:
      label: what it is, for those who can't see it.
      header: of the columns.
      rows: a cell for each column; the first names the row.
      numeric: columns of numbers, which are set to the right.
    """

    def style(column: int) -> str | None:
        return "number" if column in numeric else None

    head = [tag("th", cell, scope="col", class_=style(i)) for i, cell in enumerate(header)]
    body = [
        tag(
            "tr",
            tag("th", first, scope="row"),
            *(tag("td", cell, class_=style(i)) for i, cell in enumerate(rest, start=1)),
        )
        for first, *rest in rows
    ]
    whole = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    return scrolling(label, whole)


def scrolling(label: str, content: str) -> Html:
    """Content that may be wider than the page, and then scrolls by itself."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)


def details(summary: str, *children: str, opened: bool = False) -> Html:
    """What is hidden until someone asks for it."""
    return tag("details", tag("summary", summary), *children, open=opened)


def figure(picture: str, caption: str = "") -> Html:
    """A picture with the text below it."""
    return tag("figure", picture, *([tag("figcaption", caption)] if caption else []))


def grid(kind: str, parts: Iterable[str]) -> Html:
    """Parts side by side, as many as there is room for.

    Args:
      kind: of the parts, which says how wide they are: 'tiles', 'wide', 'narrow', 'charts' or
        'tiny'.
      parts: of the grid.
    """
    return tag("div", *parts, class_=f"grid {kind}")


def command(text: str) -> Html:
    """A command that can be selected as a whole, and scrolls where it is long."""
    return tag("pre", tag("code", text), tabindex=0, role="region", aria_label="Command")
