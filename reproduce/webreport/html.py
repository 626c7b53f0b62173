"""HTML by construction: text is escaped, data cannot end their script element, and the page asks no one for anything."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "assets"
VOID = {"br", "hr", "img", "link", "meta"}
STYLES, SCRIPTS = ("report.css", "viewer.css"), ("report.js", "viewer.js")  # beside this module


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element: ``tag("td", "a < b", class_="number")`` is ``<td class="number">a &lt; b</td>``.

    Args:
        name: of the element.
        children: what it holds; None is left out, and everything but ``Markup`` is escaped.
        attributes: ``class_`` is class, ``aria_label`` is aria-label; None and False are left out, True stands alone.
    """
    written = ""
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written += f" {key}"
        elif value is not None and value is not False:
            written += f' {key}="{escape(str(value))}"'
    return Markup(f"<{name}{written}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


def join(parts: Iterable[object]) -> Markup:
    """Several pieces after one another; None is left out."""
    return Markup("".join(part if isinstance(part, Markup) else escape(str(part)) for part in parts if part is not None))


def table(head: Iterable[object], rows: Iterable[object], caption: str, class_: str = "") -> Markup:
    """A table in a box of its own, which scrolls where the window is narrow.

    Args:
        head: texts or ``th`` elements.
        rows: lists of texts or ``td`` elements, of which the first becomes the row's heading, or ``tr`` elements.
        caption: what the table shows, for who cannot see it.
        class_: of the table.
    """

    def cell(kind: str, child: object, scope: str | None) -> Markup:
        return child if isinstance(child, Markup) and child.startswith(("<th", "<td")) else tag(kind, child, scope=scope)

    def line(cells: Any) -> Markup:
        if isinstance(cells, Markup):
            return cells
        first, *rest = cells
        return tag("tr", cell("th", first, "row"), *(cell("td", child, None) for child in rest))

    inside = tag(
        "table",
        tag("caption", caption, class_="unseen"),
        tag("thead", tag("tr", *(cell("th", child, "col") for child in head))),
        tag("tbody", *map(line, rows)),
        class_=class_ or None,
    )
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=caption)


def missing(sentence: str, command: str) -> Markup:
    """In place of a part that no runs are there for: why, and the command that makes such runs."""
    return tag("p", sentence, " The command for it: ", tag("code", command), class_="missing")


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, and an entry in the table of contents.

    Args:
        anchor: its id.
        title: its heading.
        body: what comes first.
        parts: the sections below it.
    """

    anchor: str
    title: str
    body: Markup
    parts: tuple[Section, ...] = ()

    def html(self, level: int = 2) -> Markup:
        """The section with those below it."""
        heading = tag(f"h{level}", self.title, tag("a", "#", href=f"#{self.anchor}", aria_label=f"Link to {self.title}"))
        return tag("section", heading, self.body, *(part.html(level + 1) for part in self.parts), id=self.anchor)

    def entry(self) -> Markup:
        """Its line of the table of contents."""
        link = tag("a", self.title, href=f"#{self.anchor}")
        return tag("li", link, tag("ul", *(part.entry() for part in self.parts)) if self.parts else None)


def page(
    title: str, header: Markup, sections: Iterable[Section], footer: Markup, data: dict[str, Any], clips: dict[str, Any]
) -> str:
    """The whole file.

    A content security policy forbids every request, and every script but ``SCRIPTS`` as they stand beside this module.

    Args:
        title: of the window.
        header: what stands on top.
        sections: below it.
        footer: at the end.
        data: for the charts, by name.
        clips: for the attention viewers, by name.
    """
    sections = list(sections)
    style, script = (Markup("\n".join((HERE / name).read_text("utf-8") for name in names)) for names in (STYLES, SCRIPTS))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", style),
    )
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#main", class_="skip"),
        tag("nav", tag("ul", *(section.entry() for section in sections)), aria_label="Contents"),
        tag("div", header, tag("main", *(section.html() for section in sections), id="main"), footer, class_="page"),
        tag("div", id="tip", hidden=True),
        tag("div", id="live", class_="unseen", aria_live="polite"),
        tag("script", embedded(data), type="application/json", id="data"),
        tag("script", embedded(clips), type="application/json", id="clips"),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def embedded(data: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
