"""Tables with a caption and headers that a screen reader can follow; wide ones scroll in a box of their own."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.report.markup import Content, Markup, element


def table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[Content]]) -> Markup:
    """A table; the first cell of each row is its header."""
    head = element("tr", [element("th", header, scope="col") for header in headers])
    body = [
        element("tr", element("th", row[0], scope="row"), [element("td", cell) for cell in row[1:]]) for row in rows
    ]
    inner = element(
        "table", element("caption", element("span", caption)), element("thead", head), element("tbody", body)
    )
    # What scrolls must be reachable by keyboard.
    return element("div", inner, class_="scroll", role="region", aria_label=caption, tabindex="0")


def facts(rows: Sequence[tuple[str, Content]]) -> Markup:
    """Names and what they stand for, one under the other."""
    return element("dl", [element("div", element("dt", name), element("dd", value)) for name, value in rows])


def numbers(summary: str, *content: Content) -> Markup:
    """The numbers of a figure, folded away."""
    return element("details", element("summary", summary), content)
