"""Figures: panels with a legend, a caption, and their numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.report.markup import Content, Markup, element
from benchmark.report.plot import COLOURS, DASHES, marker, path


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a label with a line, a marker, or both. `kind` is a class of the style sheet."""

    label: str
    colour: int = 0
    dash: int | None = None
    shape: str | None = None
    hollow: bool = False
    kind: str = "line"

    def render(self) -> Markup:
        """As a list item."""
        parts = []
        if self.dash is not None:
            parts.append(
                element(
                    "path",
                    d=path([(1, 7), (33, 7)]),
                    class_=f"{self.kind} c{self.colour % COLOURS}",
                    stroke_dasharray=DASHES[self.dash % len(DASHES)],
                )
            )
        if self.shape is not None:
            parts.append(marker(17, 7, self.colour, self.shape, self.hollow))
        swatch = element("svg", parts, class_="key", viewbox="0 0 34 14", aria_hidden="true")
        return element("li", swatch, element("span", self.label))


def figure(
    identity: str,
    caption: Content,
    *panels: Markup,
    keys: Sequence[Key] = (),
    numbers: Content = (),
    kind: str | None = None,
) -> Markup:
    """Panels with their legend, caption and numbers. `kind` is a class of the style sheet."""
    return element(
        "figure",
        element("div", panels, class_="panels"),
        element("ul", [key.render() for key in keys], class_="legend") if keys else (),
        element("figcaption", caption),
        numbers,
        id=identity,
        class_=kind,
    )
