"""How methods are told apart on the whole page: colour and shape together, so that neither is needed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmark.records import ResultRecord
from leaderboard.site.markup import Markup, element
from leaderboard.table import Table

COLOURS = 6  # c0..c5 of the style sheet
# Unit shapes around the origin. Their number has no divisor in common with that of the colours: 66 pairs before one recurs.
SHAPES = (
    "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "M-.9-.9h1.8v1.8h-1.8z",
    "M0-1.25l1.25 1.25-1.25 1.25-1.25-1.25z",
    "M0-1.15l1.15 2h-2.3z",
    "M0 1.15l1.15-2h-2.3z",
    "M-.4-1.15h.8v.75h.75v.8h-.75v.75h-.8v-.75h-.75v-.8h.75z",
    "M-.6-1.05h1.2l.6 1.05-.6 1.05h-1.2l-.6-1.05z",
    "M1.2 0l-2-1.15v2.3z",
    "M-1.2 0l2-1.15v2.3z",
    "M-1-1.1h2l-2 2.2h2z",
    "M0-.45l.65-.65.45.45-.65.65.65.65-.45.45-.65-.65-.65.65-.45-.45.65-.65-.65-.65.45-.45z",
)
STAR = "M0-1.6l.45 1.1 1.2.1-.9.75.3 1.15-1.05-.65-1.05.65.3-1.15-.9-.75 1.2-.1z"  # the oracle
CROSS = "M-1-1l2 2M-1 1l2-2"  # published by others
DASHES = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Look:
    """Numbers of a colour and of a shape."""

    colour: int
    shape: int


def looks(tables: Iterable[Table]) -> dict[str, Look]:
    """Method -> look, the same in every table. Those of the first table differ in their colours as long as there are enough."""
    by_table = (sorted({record.spec.method for record in table.records}) for table in tables)
    methods = dict.fromkeys(method for group in by_table for method in group)
    return {method: Look(number % COLOURS, number % len(SHAPES)) for number, method in enumerate(methods)}


def dashes(records: Sequence[ResultRecord]) -> list[int]:
    """For each record the number of its line style, by which records of one method differ."""
    seen: Counter[str] = Counter()
    found = []
    for record in records:
        found.append(seen[record.spec.method] % len(DASHES))
        seen[record.spec.method] += 1
    return found


def shapes() -> Markup:
    """The shapes for `swatch`, once per page."""
    symbols = [
        Markup(f'<symbol id="shape-{number}" viewBox="-1.5 -1.5 3 3"><path d="{shape}"/></symbol>')
        for number, shape in enumerate((*SHAPES, STAR))
    ]
    crossed = Markup(f'<symbol id="shape-cross" viewBox="-1.5 -1.5 3 3"><path d="{CROSS}" class="cross"/></symbol>')
    return element("svg", symbols, crossed, class_="away", width=0, height=0, aria_hidden="true")


def swatch(look: Look, dash: int | None = None) -> Markup:
    """The marker of a method as an inline picture, on the line of a record if its style is given."""
    marker = f'href="#shape-{look.shape}"'
    if dash is None:
        return Markup(f'<svg class="swatch c{look.colour}" aria-hidden="true"><use {marker}/></svg>')
    style = f' stroke-dasharray="{DASHES[dash]}"' if DASHES[dash] else ""
    return Markup(
        f'<svg class="swatch c{look.colour}" viewBox="0 0 30 15" aria-hidden="true"><path class="line"{style} d="M0 7.5H30"/>'
        f'<use {marker} x="7.5" width="15" height="15"/></svg>'
    )
