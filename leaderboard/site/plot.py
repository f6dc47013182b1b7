"""The chart as it stands before a script runs: accuracy against latency as inline SVG, coloured by the style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.records import ResultRecord
from leaderboard.site.axes import Axis, accuracy_axis, latency_axis
from leaderboard.site.entries import Entry
from leaderboard.site.looks import DASHES, SHAPES, STAR, Look, dashes
from leaderboard.site.markup import Markup, element
from leaderboard.table import Table

WIDTH, HEIGHT = 640.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 14.0, 10.0, 42.0
FIRST = 1e-9  # no answer comes before a positive time, and a logarithm needs one
SIZE = 5.0


@dataclass(frozen=True)
class Panel:
    """Where values lie, in units of the picture."""

    x: Axis
    y: Axis

    def across(self, latency: float) -> str:
        """The coordinate of timesteps."""
        return short(LEFT + self.x.place(max(latency, FIRST)) * (WIDTH - LEFT - RIGHT))

    def up(self, accuracy: float) -> str:
        """The coordinate of a share."""
        return short(HEIGHT - BOTTOM - self.y.place(accuracy) * (HEIGHT - TOP - BOTTOM))


def plot(table: Table, rows: Sequence[Entry], looks: Mapping[str, Look]) -> Markup:
    """The `<svg>`, one image to a screen reader; its numbers are those of the table."""
    panel = _panel(table.records, rows)
    style = dashes(table.records)
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    parts = [
        f'<clipPath id="{table.slug}-clip"><rect x="{left:g}" y="{top:g}" width="{right - left:g}" '
        f'height="{bottom - top:g}"/></clipPath>',
        _grid(panel),
        f'<g clip-path="url(#{table.slug}-clip)">',
    ]
    for value in dict.fromkeys(record.ann.accuracy.value for record in table.records if record.ann):
        parts.append(f'<path class="level" d="M{left:g} {panel.up(value)}H{right:g}"/>')
    for record, dash in zip(table.records, style, strict=True):
        parts.append(_curve(panel, record, looks[record.spec.method], DASHES[dash]))
    for record in table.records:
        parts.append(_oracle(panel, record, looks[record.spec.method]))
    parts += [_point(panel, entry, looks[entry.record.spec.method]) for entry in rows]
    parts += ["</g>", f'<path class="frame" d="M{left:g} {top:g}V{bottom:g}H{right:g}"/>', _labels(panel)]
    title = f"Accuracy against latency, {table.title}. The numbers are in the table below."
    head = f'<svg class="plot" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-labelledby="{table.slug}-chart">'
    return Markup(f"{head}{element('title', title, id=f'{table.slug}-chart')}{''.join(parts)}</svg>")


def _panel(records: Sequence[ResultRecord], rows: Sequence[Entry]) -> Panel:
    """Limits around every rule with its intervals, the oracles and the ANN; curves are cut where they fall below."""
    heights, widths = [], []
    for entry in rows:
        heights += [entry.shown.accuracy.value, *entry.shown.accuracy.ci95]
        if entry.policy:
            widths += [entry.policy.latency.mean, *entry.policy.latency.ci95]
        else:
            widths.append(entry.static.latency)
    for record in records:
        assert record.ann and record.oracle
        heights += [record.ann.accuracy.value, record.oracle.consistency.accuracy]
        widths.append(record.oracle.consistency.latency)
    y = accuracy_axis(min(heights), max(heights))
    for record in records:
        assert record.curve and record.static
        for step, value in zip(record.curve.timestep, record.curve.accuracy, strict=True):
            if value >= y.low:
                widths.append(step + record.static.prelude)
    return Panel(latency_axis(max(min(widths), FIRST), max(*widths, FIRST)), y)


def _curve(panel: Panel, record: ResultRecord, look: Look, dash: str) -> str:
    assert record.curve and record.static
    steps = zip(record.curve.timestep, record.curve.accuracy, strict=True)
    line = "L".join(f"{panel.across(step + record.static.prelude)} {panel.up(value)}" for step, value in steps)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="line c{look.colour}"{dashed} d="M{line}"/>'


def _point(panel: Panel, entry: Entry, look: Look) -> str:
    accuracy = entry.shown.accuracy
    latency = entry.policy.latency.mean if entry.policy else entry.static.latency
    x, y = panel.across(latency), panel.up(accuracy.value)
    bars = f"M{x} {panel.up(accuracy.ci95[0])}V{panel.up(accuracy.ci95[1])}"
    if entry.policy:
        low, high = entry.policy.latency.ci95
        bars += f"M{panel.across(low)} {y}H{panel.across(high)}"
    size = SIZE if entry.policy else 0.7 * SIZE
    kind = "point" if entry.policy else "point end"
    return (
        f'<g class="{kind} c{look.colour}"><path class="bars" d="{bars}"/>'
        f'<path class="mark" d="{SHAPES[look.shape]}" transform="translate({x} {y}) scale({size:g})"/></g>'
    )


def _oracle(panel: Panel, record: ResultRecord, look: Look) -> str:
    assert record.oracle
    oracle = record.oracle.consistency
    place = f"translate({panel.across(oracle.latency)} {panel.up(oracle.accuracy)}) scale({SIZE:g})"
    return f'<path class="oracle c{look.colour}" d="{STAR}" transform="{place}"/>'


def _grid(panel: Panel) -> str:
    lines = [f"M{panel.across(tick)} {TOP:g}V{HEIGHT - BOTTOM:g}" for tick in panel.x.ticks]
    lines += [f"M{LEFT:g} {panel.up(tick)}H{WIDTH - RIGHT:g}" for tick in panel.y.ticks]
    return f'<path class="grid" d="{"".join(lines) or "M0 0"}"/>'


def _labels(panel: Panel) -> str:
    under = HEIGHT - BOTTOM
    parts = [
        f'<text class="below" x="{panel.across(tick)}" y="{under + 17:g}">{tick:g}</text>' for tick in panel.x.ticks
    ]
    parts += [
        f'<text class="left" x="{LEFT - 7:g}" y="{float(panel.up(tick)) + 4:g}">{100 * tick:.6g}</text>'
        for tick in panel.y.ticks
    ]
    middle, centre = (LEFT + WIDTH - RIGHT) / 2, (TOP + under) / 2
    parts.append(
        f'<text class="below axis" x="{middle:g}" y="{HEIGHT - 6:g}">latency (timesteps, prelude included)</text>'
    )
    parts.append(f'<text class="below axis" transform="translate(13 {centre:g}) rotate(-90)">accuracy (%)</text>')
    return "".join(parts)


def short(value: float) -> str:
    """A coordinate with at most one decimal; halves away from zero, as a script rounds them."""
    text = f"{math.floor(10 * value + 0.5) / 10:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"
