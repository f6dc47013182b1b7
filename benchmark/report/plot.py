"""One panel of a chart as inline SVG. Colours come from the style sheet, so that a panel follows light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmark.report.axes import Axis
from benchmark.report.markup import Markup, element, joined

COLOURS = 7  # c0..c6 of the style sheet
DASHES = (None, "7 3", "2 3", "9 3 2 3")
LEFT, RIGHT, TOP, BOTTOM = 50.0, 16.0, 10.0, 44.0
# Unit shapes around the origin; the star is the oracle's.
SHAPES = {
    "dot": "M-.5 0a.5 .5 0 1 0 1 0a.5 .5 0 1 0-1 0z",
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "square": "M-.9-.9h1.8v1.8h-1.8z",
    "diamond": "M0-1.2l1.2 1.2-1.2 1.2-1.2-1.2z",
    "triangle": "M0-1.15l1.1 2h-2.2z",
    "nabla": "M0 1.15l1.1-2h-2.2z",
    "star": "M0-1.6l.45 1.1 1.2.1-.9.75.3 1.15-1.05-.65-1.05.65.3-1.15-.9-.75 1.2-.1z",
}
RULE_SHAPES = ("circle", "square", "diamond", "triangle", "nabla")

Point = tuple[float, float]


@dataclass
class Plot:
    """A panel that is drawn on from the back to the front, then rendered.

    Args:
        identity: prefix of the ids in it; unique on the page.
        title, description: what a screen reader says.
        x, y: axes; x_label and y_label name them with their units.
        width, height: in the panel's own units, of which the style sheet makes pixels.
    """

    identity: str
    title: str
    description: str
    x: Axis
    y: Axis
    x_label: str
    y_label: str
    width: float = 480.0
    height: float = 320.0
    _marks: list[Markup] = field(default_factory=list, repr=False)

    def at(self, x: float, y: float) -> Point:
        """Where values lie, in the panel's units."""
        return (
            LEFT + self.x.place(x) * (self.width - LEFT - RIGHT),
            self.height - BOTTOM - self.y.place(y) * (self.height - TOP - BOTTOM),
        )

    def line(self, points: Iterable[Point], colour: int, dash: int = 0, kind: str = "line") -> None:
        """A line through points, in their order; those that fall on one spot are drawn once."""
        self._marks.append(
            element(
                "path",
                d=path(thinned([self.at(*point) for point in points])),
                class_=f"{kind} c{colour % COLOURS}",
                stroke_dasharray=DASHES[dash % len(DASHES)],
            )
        )

    def band(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], colour: int) -> None:
        """The area between two lines."""
        lower = thinned([self.at(*point) for point in zip(xs, lows, strict=True)])
        upper = thinned([self.at(*point) for point in zip(xs, highs, strict=True)])
        self._marks.append(element("path", d=path(lower + upper[::-1]) + "z", class_=f"band c{colour % COLOURS}"))

    def mark(self, x: float, y: float, colour: int, shape: str, hollow: bool = False) -> None:
        """A marker."""
        self._marks.append(marker(*self.at(x, y), colour, shape, hollow))

    def whisker(self, start: Point, end: Point, colour: int) -> None:
        """An interval."""
        self._marks.append(
            element("path", d=path([self.at(*start), self.at(*end)]), class_=f"whisker c{colour % COLOURS}")
        )

    def level(self, y: float) -> None:
        """A horizontal reference line through the panel."""
        self._marks.append(element("path", d=path([self.at(self.x.low, y), self.at(self.x.high, y)]), class_="level"))

    def diagonal(self) -> None:
        """The line where both values are equal."""
        low, high = max(self.x.low, self.y.low), min(self.x.high, self.y.high)
        self._marks.append(element("path", d=path([self.at(low, low), self.at(high, high)]), class_="level"))

    def bars(self, bars: Iterable[tuple[float, float, float]], colour: int) -> None:
        """Bars (from, to, height) on the lower axis; one path for them all."""
        parts = []
        for start, end, height in bars:
            if height > self.y.low and math.isfinite(height):
                (left, top), (right, bottom) = self.at(start, height), self.at(end, self.y.low)
                parts.append(f"M{short(left)} {short(bottom)}V{short(top)}H{short(right)}V{short(bottom)}z")
        self._marks.append(element("path", d="".join(parts) or "M0 0", class_=f"bar c{colour % COLOURS}"))

    def picture(self, source: str) -> None:
        """An image (a data URI) that fills the panel; its pixels stay squares."""
        left, top = self.at(self.x.low, self.y.high)
        right, bottom = self.at(self.x.high, self.y.low)
        self._marks.append(
            element(
                "image",
                href=source,
                x=short(left),
                y=short(top),
                width=short(right - left),
                height=short(bottom - top),
                preserveaspectratio="none",
                class_="cells",
            )
        )

    def render(self) -> Markup:
        """The panel as an `<svg>` that is one image to a screen reader."""
        clip = f"{self.identity}-clip"
        left, top = self.at(self.x.low, self.y.high)
        right, bottom = self.at(self.x.high, self.y.low)
        area = element("rect", x=short(left), y=short(top), width=short(right - left), height=short(bottom - top))
        return element(
            "svg",
            element("title", self.title, id=f"{self.identity}-title"),
            element("desc", self.description, id=f"{self.identity}-desc"),
            element("clipPath", area, id=clip),
            self._grid(),
            element("g", self._marks, clip_path=f"url(#{clip})"),
            element("path", d=path([(left, top), (left, bottom), (right, bottom)]), class_="frame"),
            self._labels(),
            class_="plot",
            role="img",
            aria_labelledby=f"{self.identity}-title {self.identity}-desc",
            viewbox=f"0 0 {self.width:g} {self.height:g}",
        )

    def _grid(self) -> Markup:
        parts = []
        for tick in self.x.ticks:
            across = self.at(tick, self.y.low)[0]
            parts.append(f"M{short(across)} {short(TOP)}V{short(self.height - BOTTOM)}")
        for tick in self.y.ticks:
            up = self.at(self.x.low, tick)[1]
            parts.append(f"M{short(LEFT)} {short(up)}H{short(self.width - RIGHT)}")
        return element("path", d="".join(parts) or "M0 0", class_="grid")

    def _labels(self) -> Markup:
        under, beside = self.height - BOTTOM, LEFT - 6
        texts = [
            element("text", tick_text(tick), x=short(self.at(tick, self.y.low)[0]), y=short(under + 17), class_="below")
            for tick in self.x.ticks
        ]
        texts += [
            element("text", tick_text(tick), x=short(beside), y=short(self.at(self.x.low, tick)[1] + 4), class_="left")
            for tick in self.y.ticks
        ]
        middle = (LEFT + self.width - RIGHT) / 2
        texts.append(element("text", self.x_label, x=short(middle), y=short(self.height - 8), class_="below"))
        centre = (TOP + self.height - BOTTOM) / 2
        turn = f"translate(13 {short(centre)}) rotate(-90)"
        texts.append(element("text", self.y_label, transform=turn, class_="below"))
        return joined(texts)


def marker(x: float, y: float, colour: int, shape: str, hollow: bool = False, size: float = 5.0) -> Markup:
    """A marker at a place in the panel's units."""
    return element(
        "path",
        d=SHAPES[shape],
        transform=f"translate({short(x)} {short(y)}) scale({size:g})",
        class_=f"{'hollow' if hollow else 'mark'} c{colour % COLOURS}",
    )


def thinned(points: Sequence[Point], apart: float = 0.8) -> list[Point]:
    """The points without those closer than `apart` to the one before; the last one stays."""
    kept: list[Point] = []
    for point in points:
        if not kept or math.dist(kept[-1], point) >= apart:
            kept.append(point)
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def path(points: Sequence[Point]) -> str:
    """Straight lines through places in the panel's units."""
    if not points:
        return "M0 0"
    return "M" + "L".join(f"{short(x)} {short(y)}" for x, y in points)


def short(value: float) -> str:
    """A coordinate with at most one decimal."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def tick_text(value: float) -> str:
    """A tick with as many digits as it needs."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 10 or (abs(value) >= size and value % (size / 10) == 0):
            return f"{value / size:g}{unit}"
    return f"{value:g}"
