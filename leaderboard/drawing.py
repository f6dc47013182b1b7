"""A chart as SVG: same numbers, same bytes on one version of matplotlib."""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.chart import Chart, Series

# Okabe and Ito's colours, told apart by colour-blind readers too; records beyond them change the line style.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#555555"
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "<", ">")
ORACLE = {"marker": "*", "markerfacecolor": "white", "markersize": 11}
ANN = {"linestyle": (0, (6, 4)), "linewidth": 0.9}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "leaderboard",
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "axes.grid": True,
    "grid.alpha": 0.3,
}
PLACES = re.compile(rb' (?:d|x|y|transform)="[^"]*"')
DIGITS = re.compile(rb"(\.\d\d)\d+")
FINGERPRINT = re.compile(r"<!-- data sha256: ([0-9a-f]{64}) -->\s*$")


def fingerprint_in(svg: str) -> str | None:
    """The fingerprint of the chart that an SVG file was drawn from; None for a foreign or truncated file."""
    found = FINGERPRINT.search(svg)
    return found.group(1) if found else None


def svg(chart: Chart) -> bytes:
    """The chart as an SVG file that ends with a comment naming `chart.fingerprint`."""
    from matplotlib import style

    stream = io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # Names may use letters that matplotlib's font lacks; the text stays text and the viewer's font has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure(chart).savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    # At the very end, so that a truncated file never looks current.
    return _smaller(stream.getvalue()) + f"<!-- data sha256: {chart.fingerprint} -->\n".encode()


def _smaller(drawn: bytes) -> bytes:
    """The same picture with coordinates to a hundredth of a point, of which matplotlib writes six digits."""
    return PLACES.sub(lambda place: DIGITS.sub(rb"\1", place.group()), drawn)


def figure(chart: Chart) -> Any:
    """The chart as a `matplotlib.figure.Figure`, drawn without pyplot and so without any global state.

    The upper panel shows the policies and is cut to their accuracies; the lower one shows the whole curves.
    """
    from matplotlib.figure import Figure

    policies = sorted({point.policy for series in chart.series for point in series.points})
    markers = {policy: MARKERS[number % len(MARKERS)] for number, policy in enumerate(policies)}
    entries = _legend_entries(chart, markers)
    lines = sum(1 + label.count("\n") for label, _ in entries)
    drawn = Figure(figsize=(8.5, max(6.0, 0.21 * lines + 0.5)), layout="constrained")
    upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for axes in (upper, lower):
        _draw_curves(axes, chart)
        axes.set_ylabel("accuracy (%)")
    for number, series in enumerate(chart.series):
        _draw_points(upper, series, _look(number)[0], markers)
    upper.set_ylim(*_reachable(chart))
    upper.set_title(textwrap.fill(chart.title, 70), parse_math=False)
    lower.set_xlabel("latency (timesteps, prelude included)")
    _scale_latency(lower, chart)
    _draw_legend(drawn, entries)
    return drawn


def _look(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]


def _draw_curves(axes: Any, chart: Chart) -> None:
    for number, series in enumerate(chart.series):
        colour, line = _look(number)
        accuracy = [100 * value for value in series.accuracy]
        axes.plot(series.latency, accuracy, f".{line}", color=colour, linewidth=1.3, markersize=4)
    same_ann = len({series.ann for series in chart.series}) == 1
    for number, series in enumerate(chart.series[:1] if same_ann else chart.series):
        axes.axhline(100 * series.ann, color=GREY if same_ann else _look(number)[0], **ANN)


def _draw_points(axes: Any, series: Series, colour: str, markers: Mapping[str, str]) -> None:
    for point in series.points:
        x, y = point.latency, 100 * point.accuracy
        # Lines rather than errorbar(): a bootstrap interval need not contain its mean, and errorbar() raises then.
        axes.plot(point.latency_ci95, (y, y), color=colour, linewidth=1)
        axes.plot((x, x), [100 * value for value in point.accuracy_ci95], color=colour, linewidth=1)
        axes.plot(x, y, markers[point.policy], color=colour, markeredgecolor="white", markersize=6.5, zorder=3)
    latency, accuracy = series.oracle
    axes.plot(latency, 100 * accuracy, color=colour, zorder=2.5, **ORACLE)


def _reachable(chart: Chart) -> tuple[float, float]:
    """Limits in percent around the ANN, the oracle, the last timestep and every policy with its interval."""
    values = [value for series in chart.series for value in (series.ann, series.oracle[1], *series.accuracy[-1:])]
    values += [value for series in chart.series for point in series.points for value in point.accuracy_ci95]
    margin = max(0.08 * (max(values) - min(values)), 0.002)
    return 100 * (min(values) - margin), 100 * (max(values) + margin)


def _scale_latency(axes: Any, chart: Chart) -> None:
    """A log2 axis with a tick at every power of two and at ends that lie well off them."""
    latencies = [value for series in chart.series for value in (*series.latency, series.oracle[0])]
    latencies += [value for series in chart.series for point in series.points for value in point.latency_ci95]
    # No answer comes before the first timestep, and a logarithm needs a positive number.
    first, last = max(min(latencies), 1.0), max(*latencies, 1.0)
    powers = [2.0**power for power in range(math.floor(math.log2(first)), math.ceil(math.log2(last)) + 1)]
    ends = [end for end in {first, last} if all(abs(math.log2(end / power)) > 0.2 for power in powers)]
    ticks = sorted(powers + ends)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(first / 1.15, last * 1.15)


def _legend_entries(chart: Chart, markers: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Colour says which record, shape which policy; a product of both would never fit."""
    entries: list[tuple[str, dict[str, Any]]] = []
    for number, series in enumerate(chart.series):
        colour, line = _look(number)
        entries.append((f"{series.label}, fixed time", {"color": colour, "linestyle": line}))
    entries += [(policy, {"marker": marker, "linestyle": ""}) for policy, marker in markers.items()]
    entries += [("consistency oracle", {"linestyle": "", **ORACLE}), ("ANN", ANN)]
    # Wrapped, because a long name would leave the panels no room.
    return [(textwrap.fill(label, 36), look) for label, look in entries]


def _draw_legend(drawn: Any, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **{"color": GREY, **look}) for _, look in entries]
    legend = drawn.legend(handles, [""] * len(handles), loc="outside right upper", frameon=False)
    # Set afterwards: older legends drop labels that begin with an underscore, and dollars are no mathematics here.
    for entry, (label, _) in zip(legend.get_texts(), entries, strict=True):
        entry.set_parse_math(False)
        entry.set_text(label)
