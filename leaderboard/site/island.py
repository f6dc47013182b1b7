"""What the script draws from: the numbers of the charts as JSON that cannot end the element it stands in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard import numerals
from leaderboard.published import Published
from leaderboard.site.entries import Entry
from leaderboard.site.looks import CROSS, DASHES, SHAPES, STAR, Look, dashes
from leaderboard.site.markup import Markup, element
from leaderboard.table import Table


def island(charts: Sequence[dict[str, Any]]) -> Markup:
    """The element with all charts."""
    content = {"shapes": SHAPES, "star": STAR, "cross": CROSS, "dashes": DASHES, "charts": charts}
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return element("script", Markup(text), type="application/json", id="numbers")


def chart_numbers(
    table: Table, rows: Sequence[Entry], looks: Mapping[str, Look], published: Sequence[Published]
) -> dict[str, Any]:
    """One chart: records with their curves, rows in the order of the table, and what others published on this network."""
    style = dashes(table.records)
    return {
        "slug": table.slug,
        "records": [
            _record(table, number, looks[record.spec.method], style[number])
            for number, record in enumerate(table.records)
        ],
        "rows": [_row(entry) for entry in rows],
        "published": [
            point
            for each in published
            if each.dataset == table.dataset and each.is_of(table.model)
            for point in _of(each)
        ],
    }


def _record(table: Table, number: int, look: Look, dash: int) -> dict[str, Any]:
    record = table.records[number]
    curve, static, oracle = record.curve, record.static, record.oracle
    assert record.ann and curve and static and oracle
    best = oracle.consistency
    return {
        "label": table.labels()[record.id],
        "colour": look.colour,
        "shape": look.shape,
        "dash": dash,
        "ann": record.ann.accuracy.value,
        "curve": {
            "accuracy": _drawn(curve.accuracy),
            "latency": [static.prelude + step for step in curve.timestep],
            "spikes": _drawn(curve.spikes_per_image),
            "synops": _drawn(curve.synops_per_image),
        },
        "oracle": [best.latency, best.accuracy],
        "peek": f"{numerals.percent(best.accuracy)}% at {numerals.rounded(best.latency)}",
    }


def _row(entry: Entry) -> list[Any]:
    """Record, fixed time or not; accuracy and latency with their intervals; spikes, SynOps, energy."""
    accuracy = entry.shown.accuracy
    latency = entry.policy.latency if entry.policy else None
    spread = (latency.mean, *latency.ci95) if latency else (entry.static.latency,) * 3
    return [
        entry.number,
        int(entry.policy is None),
        accuracy.value,
        *accuracy.ci95,
        *spread,
        entry.shown.spikes_per_image,
        entry.shown.synops_per_image,
        entry.energy,
    ]


def _of(row: Published) -> list[list[Any]]:
    """Latency with the prelude, accuracy as a share, words."""
    settings = f" ({row.settings})" if row.settings else ""
    origin = f"{row.source.venue}, {row.where}{', second-hand' if row.quoted else ''}"
    found = [
        [step + row.prelude, value / 100, f"{row.method}{settings}, T={step}", origin]
        for step, value in sorted(row.accuracy.items())
    ]
    if row.dynamic and row.dynamic.accuracy is not None:
        found.append(
            [
                row.dynamic.latency + row.prelude,
                row.dynamic.accuracy / 100,
                f"{row.method}{settings}, {row.dynamic.rule}",
                origin,
            ]
        )
    return found


def _drawn(values: Sequence[float]) -> list[float]:
    """Six digits are more than a screen has."""
    return [float(f"{value:.6g}") for value in values]
