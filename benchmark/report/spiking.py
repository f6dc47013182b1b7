"""Where and when the network spikes: layers by timesteps, and spikes and SynOps of each timestep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmark.report.axes import Axis, from_zero, milestones, step_axis
from benchmark.report.figure import figure
from benchmark.report.markup import Content, Markup, element, joined
from benchmark.report.numerals import count, exact
from benchmark.report.pictures import data_uri
from benchmark.report.plot import Plot
from benchmark.report.subject import Subject
from benchmark.report.tables import numbers, table

# A perceptually even ramp from dark blue over green to yellow, light where there are many spikes.
RAMP = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float64)
CELLS = 2500  # of the table of layers by timesteps; beyond, only some timesteps are in it


def spiking(subject: Subject) -> Markup:
    """Layers over time, where they were counted, and totals."""
    info = subject.test.info
    if not info.counts_spikes:
        return element("p", "This recording does not count spikes.", class_="note")
    return joined(_layers(subject), _totals(subject))


def _layers(subject: Subject) -> Markup:
    test = subject.test
    if test.site_spikes is None:
        return element(
            "p", "This recording holds no spikes per layer; only their sum over layers is known.", class_="note"
        )
    means = (test.site_spikes.double() / len(test)).numpy()  # [T, L]
    timesteps, layers = means.shape
    largest = float(means.max())
    plot = Plot(
        "layers-map",
        "Mean spikes per image, layers by timesteps",
        f"{layers} layers from the input at the top to the output at the bottom; the most is {largest:.1f} spikes.",
        step_axis(timesteps),
        Axis(layers + 0.5, 0.5, tuple(float(tick) for tick in _layer_ticks(layers))),
        "timestep",
        "spiking layer, from the input on",
        height=max(240.0, min(480.0, 60 + 16.0 * layers)),
    )
    shares = np.sqrt(means.T / largest) if largest else np.zeros_like(means.T)
    plot.picture(data_uri(colours(shares)))
    scale = data_uri(colours(np.linspace(0, 1, 64)[None]))
    legend = element(
        "p",
        "0 ",
        element("img", src=scale, alt="colour scale from dark for none to light for the most", class_="ramp"),
        f" {count(largest)} spikes, by the square root",
        class_="legend",
    )
    steps = list(range(1, timesteps + 1)) if timesteps * layers <= CELLS else milestones(timesteps, 12)
    rows: list[list[Content]] = [
        [f"{layer}: {name}", *(_spikes(float(means[step - 1, layer - 1])) for step in steps)]
        for layer, name in enumerate(test.info.sites, 1)
    ]
    counted = table("Mean spikes per image, by layer and timestep", ["layer", *(f"t = {step}" for step in steps)], rows)
    caption = "Spikes of each layer at each timestep, mean over the test images; a prelude is not in it."
    return figure("layers", caption, plot.render(), legend, numbers=numbers("Numbers of this figure", counted))


def colours(shares: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] for values from 0 to 1."""
    place = shares.clip(0, 1) * (len(RAMP) - 1)
    below = np.minimum(place.astype(np.int64), len(RAMP) - 2)
    part = (place - below)[..., None]
    return ((1 - part) * RAMP[below] + part * RAMP[below + 1]).round().astype(np.uint8)


def _layer_ticks(layers: int) -> list[int]:
    step = max(1, math.ceil(layers / 12))
    return list(range(1, layers + 1, step))


def _totals(subject: Subject) -> Markup:
    test = subject.test
    spikes = test.spikes.double().mean(0).tolist()
    synops = test.synops.double().mean(0).tolist() if test.info.counts_synops else None
    panels = [_over_time("spikes-over-time", "spikes", spikes, 0)]
    if synops is not None:
        panels.append(_over_time("synops-over-time", "SynOps", synops, 1))
    rows: list[list[Content]] = []
    if subject.prelude:
        before = float(test.prelude_synops.double().mean()) if synops is not None else None
        rows.append(["prelude", _spikes(float(test.prelude_spikes.double().mean())), _spikes(before)])
    for place, value in enumerate(spikes):
        rows.append([exact(place + 1, str(place + 1)), _spikes(value), _spikes(synops[place] if synops else None)])
    counted = table("Mean per image and timestep", ["timestep", "spikes", "SynOps"], rows)
    caption = "Spikes and SynOps of each timestep alone, mean over the test images, all of them running to the end."
    if subject.prelude:
        caption += " What the prelude costs stands in the table."
    return figure("totals", caption, *panels, numbers=numbers("Numbers of this figure", counted))


def _over_time(identity: str, words: str, values: Sequence[float], colour: int) -> Markup:
    plot = Plot(
        identity,
        f"Mean {words} per image at each timestep",
        f"{count(values[0])} at timestep 1, {count(values[-1])} at timestep {len(values)}, the most {count(max(values))}.",
        step_axis(len(values)),
        from_zero(values),
        "timestep",
        f"{words} per image",
        height=280,
    )
    points = [(float(step), value) for step, value in enumerate(values, 1)]
    plot.line(points, colour)
    for x, y in points:
        plot.mark(x, y, colour, "dot")
    return plot.render()


def _spikes(value: float | None) -> Markup:
    return exact(value, "" if value is None else count(value) if value >= 100 else f"{value:.3g}")
