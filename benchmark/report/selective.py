"""Whether the surest answers are the right ones: risk against coverage, and the area under it."""

from __future__ import annotations

import torch

from benchmark.report.axes import from_zero, linear, milestones
from benchmark.report.figure import Key, figure
from benchmark.report.markup import Content, Markup, joined
from benchmark.report.numerals import exact, fixed, share
from benchmark.report.plot import Plot
from benchmark.report.subject import Subject
from benchmark.report.tables import numbers, table
from dynconf.metrics import area_under_risk_coverage, risk_coverage

COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
POINTS = 200  # of a curve that are drawn


def selective(subject: Subject) -> Markup:
    """Curves at some timesteps, areas at all of them and at the exits."""
    test, scores = subject.test, subject.confidence
    steps = milestones(test.timesteps)
    curves = {step: risk_coverage(scores[:, step - 1], test.correct[:, step - 1]) for step in steps}
    areas = area_under_risk_coverage(test, scores).tolist()
    places = sorted(set(torch.linspace(0, len(test) - 1, POINTS).round().long().tolist()))
    # A few wrong answers among the very surest make the curve jump; the axis need not follow.
    largest = max(
        float(curve.risk[place]) for curve in curves.values() for place in places if curve.coverage[place] >= 0.05
    )
    plot = Plot(
        "risk-coverage-panel",
        "Risk against coverage",
        "Share of wrong answers among the surest ones. "
        + " ".join(f"Timestep {step}: area {areas[step - 1]:.4f}." for step in steps),
        linear(0, 100),
        from_zero([100 * largest]),
        "coverage: share of images answered, surest first (%)",
        "risk: wrong answers (%)",
        height=320,
    )
    for number, curve in enumerate(curves.values()):
        points = [(100 * float(curve.coverage[place]), 100 * float(curve.risk[place])) for place in places]
        plot.line(points, number, number)
    rows: list[list[Content]] = []
    for step, curve in curves.items():
        cells = [share(float(curve.risk[_place(value, len(test))])) for value in COVERAGES]
        rows.append([f"t = {step}", *cells, fixed(curve.area, 5)])
    counted = table(
        "Risk at some coverages, and the area under the curve (AURC)",
        ["", *(f"{100 * value:.0f}%" for value in COVERAGES), "AURC"],
        rows,
    )
    caption = (
        "Risk against coverage after some timesteps: if only the surest answers are given, how many of them are wrong? Only "
        "the order of the confidences matters. Equal ones count as if in random order."
    )
    return joined(
        figure(
            "risk-coverage",
            caption,
            plot.render(),
            keys=[Key(f"t = {step}", number, number) for number, step in enumerate(steps)],
            numbers=numbers("Numbers of this figure", counted),
        ),
        _areas(subject, areas),
    )


def _place(coverage: float, images: int) -> int:
    return max(round(coverage * images), 1) - 1


def _areas(subject: Subject, areas: list[float]) -> Markup:
    rows: list[list[Content]] = [
        [f"t = {step}", fixed(areas[step - 1], 5)] for step in milestones(subject.test.timesteps)
    ]
    rows += [
        [
            f"at the exit of {rule.label}",
            fixed(float(area_under_risk_coverage(subject.test, subject.confidence, rule.exits)), 5),
        ]
        for rule in subject.rules
        if rule.exits is not None
    ]
    everywhere = table(
        "AURC at every timestep",
        ["timestep", "AURC"],
        [[exact(step, str(step)), fixed(area, 5)] for step, area in enumerate(areas, 1)],
    )
    return joined(
        table("Area under the risk-coverage curve (AURC); smaller is better", ["answers", "AURC"], rows),
        numbers("AURC at every timestep", everywhere),
    )
