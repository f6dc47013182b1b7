"""Accuracy against latency: fixed time, every rule at its operating point and along its threshold, the oracle, the ANN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from benchmark.report.axes import latency_axis, linear
from benchmark.report.figure import Key, figure
from benchmark.report.markup import Content, Markup, element, joined
from benchmark.report.numerals import exact, fixed, percent, share
from benchmark.report.plot import RULE_SHAPES, Plot
from benchmark.report.subject import Rule, Subject
from benchmark.report.tables import numbers, table
from dynconf.curves import threshold_points
from dynconf.intervals import wilson
from dynconf.policies import ChosenThreshold, ThresholdPolicy
from dynconf.sweep import exit_table

ROWS = 24  # of a threshold curve in its table


@dataclass(frozen=True)
class ThresholdCurve:
    """What a rule does at every threshold of its grid, by falling latency."""

    thresholds: list[float]
    latency: list[float]
    accuracy: list[float]
    low: list[float]
    high: list[float]


def tradeoff(subject: Subject) -> Markup:
    """The picture twice, whole and close up, and its numbers."""
    curves: dict[int, ThresholdCurve] = {}
    same: dict[int, int] = {}  # rules that differ only in how their threshold was chosen share a curve
    for number, rule in enumerate(subject.rules):
        found = threshold_curve(rule, subject)
        if found is not None:
            same[number] = next((other for other, curve in curves.items() if curve == found), number)
            curves.setdefault(same[number], found)
    whole = _panel(subject, curves, "whole", "whole range", None)
    close = _panel(
        subject, curves, "close", "close-up of the rules, the oracle and the last timestep", _close_range(subject)
    )
    keys = [Key("fixed time, with 95% Wilson band", 0, 0)]
    for number, rule in enumerate(subject.rules):
        shared = f" (on the line of {subject.rules[same[number]].label})" if same.get(number, number) != number else ""
        dash = number + 1 if number in curves else None
        keys.append(Key(rule.label + shared, number + 1, dash, RULE_SHAPES[number % len(RULE_SHAPES)]))
    keys.append(Key("consistency oracle", 0, None, "star", hollow=True))
    if subject.record is not None:
        keys.append(Key("ANN", 0, 0, kind="level"))
    caption = (
        "Accuracy against mean latency, prelude included: the whole range, and the same close up. A filled mark is a rule as "
        "it was fitted, with the 95% intervals of both values; the line of its colour is the same rule at every "
        "threshold of its grid, with a pointwise 95% Wilson band. The line looks at test images: it shows what thresholds "
        "could do, and none may be picked from it."
    )
    return figure(
        "tradeoff",
        caption,
        whole,
        close,
        keys=keys,
        numbers=numbers("Numbers of this figure", _fixed_table(subject), *_curve_tables(subject, curves, same)),
        kind="wide",
    )


def threshold_curve(rule: Rule, subject: Subject) -> ThresholdCurve | None:
    """What the rule does at every threshold of its grid; None for a rule without one threshold."""
    found = scores_of(rule, subject)
    if found is None:
        return None
    (scores, grid), test = found, subject.test
    points = threshold_points(test, scores, grid)
    accuracy = points.accuracy.tolist()
    bounds = [interval(round(value * len(test)), len(test)) for value in accuracy]
    return ThresholdCurve(
        grid.tolist(), points.latency.tolist(), accuracy, [low for low, _ in bounds], [high for _, high in bounds]
    )


def scores_of(rule: Rule, subject: Subject) -> tuple[Tensor, Tensor] | None:
    """Scores on the test images [N, T] and the ascending thresholds that the rule's own was, or could have been, chosen from.

    None for a rule that is more, or less, than a score and one threshold.
    """
    policy = rule.policy
    if not isinstance(policy, ThresholdPolicy) or rule.exits is None:
        return None
    if not isinstance(policy, ChosenThreshold):
        return None if policy.thresholds is None else (policy.scores(subject.test).double(), policy.thresholds)
    if policy.threshold is None:
        return None
    scores = policy.scores(subject.test).double()
    # A rule whose threshold changes with time leaves at other times than its scores and its threshold alone say.
    plain = exit_table(scores, torch.tensor([policy.threshold], dtype=torch.float64))[:, 0]
    return (scores, policy.grid) if torch.equal(plain.long(), rule.exits) else None


@cache
def interval(successes: int, images: int) -> tuple[float, float]:
    """Wilson 95% interval; curves ask for the same counts again and again."""
    return wilson(successes, images)


def _panel(
    subject: Subject, curves: dict[int, ThresholdCurve], name: str, words: str, limits: tuple[float, float] | None
) -> Markup:
    images, static = len(subject.test), subject.static
    latency = [step + subject.prelude for step in subject.curve.timestep]
    accuracy = [100 * value for value in subject.curve.accuracy]
    bounds = [interval(round(value * images), images) for value in subject.curve.accuracy]
    lows, highs = [100 * bound for bound, _ in bounds], [100 * bound for _, bound in bounds]
    ends = [end for rule in subject.rules for end in rule.result.latency.ci95]
    plot = Plot(
        f"tradeoff-{name}",
        f"Accuracy against latency, {words}",
        f"All timesteps: {percent(static.accuracy.value)}% at {static.latency:g}. "
        + " ".join(
            f"{rule.label}: {percent(rule.result.accuracy.value)}% at {rule.result.latency.mean:.2f}."
            for rule in subject.rules
        ),
        latency_axis([*(latency if limits is None else latency[-1:]), *ends, subject.oracle.consistency.latency]),
        linear(*(limits or _range([*accuracy, *lows, *_close_range(subject)]))),
        "latency (timesteps, prelude included)",
        "accuracy (%)",
        height=360,
    )
    plot.band(latency, lows, highs, 0)
    for number, curve in curves.items():
        plot.band(curve.latency, [100 * low for low in curve.low], [100 * high for high in curve.high], number + 1)
    if subject.record is not None and subject.record.ann is not None:
        plot.level(100 * subject.record.ann.accuracy.value)
    plot.line(list(zip(latency, accuracy, strict=True)), 0)
    for number, curve in curves.items():
        plot.line([(x, 100 * y) for x, y in zip(curve.latency, curve.accuracy, strict=True)], number + 1, number + 1)
    for place in zip(latency, accuracy, strict=True):
        plot.mark(*place, 0, "dot")
    for number, rule in enumerate(subject.rules):
        result = rule.result
        x, y = result.latency.mean, 100 * result.accuracy.value
        (left, right), (low, high) = result.latency.ci95, result.accuracy.ci95
        plot.whisker((left, y), (right, y), number + 1)
        plot.whisker((x, 100 * low), (x, 100 * high), number + 1)
        plot.mark(x, y, number + 1, RULE_SHAPES[number % len(RULE_SHAPES)])
    oracle = subject.oracle.consistency
    plot.mark(oracle.latency, 100 * oracle.accuracy, 0, "star", hollow=True)
    return plot.render()


def _close_range(subject: Subject) -> tuple[float, float]:
    """Percent, around every rule with its interval, the oracle, the last timestep, and the ANN."""
    values = [subject.oracle.consistency.accuracy, *subject.static.accuracy.ci95]
    values += [end for rule in subject.rules for end in rule.result.accuracy.ci95]
    if subject.record is not None and subject.record.ann is not None:
        values.append(subject.record.ann.accuracy.value)
    return _range([100 * value for value in values])


def _range(values: Sequence[float]) -> tuple[float, float]:
    margin = max(0.05 * (max(values) - min(values)), 0.2)
    return min(values) - margin, max(values) + margin


def _fixed_table(subject: Subject) -> Markup:
    images = len(subject.test)
    rows: list[list[Content]] = []
    for step, accuracy in zip(subject.curve.timestep, subject.curve.accuracy, strict=True):
        low, high = interval(round(accuracy * images), images)
        place = step + subject.prelude
        rows.append([exact(step, str(step)), exact(place, str(place)), share(accuracy), share(low), share(high)])
    return table("Fixed time", ["timestep", "latency", "accuracy", "low", "high"], rows)


def _curve_tables(subject: Subject, curves: dict[int, ThresholdCurve], same: dict[int, int]) -> list[Markup]:
    found = []
    for number, curve in curves.items():
        rows: list[list[Content]] = [
            [
                exact(curve.thresholds[place], f"{curve.thresholds[place]:.5g}"),
                fixed(curve.latency[place]),
                share(curve.accuracy[place]),
                share(curve.low[place]),
                share(curve.high[place]),
            ]
            for place in _spread(curve.latency)
        ]
        caption = f"{subject.rules[number].label}: some thresholds of its grid"
        found.append(table(caption, ["threshold", "latency", "accuracy", "low", "high"], rows))
    left_out = [rule.label for number, rule in enumerate(subject.rules) if number not in same]
    if left_out:
        found.append(element("p", "Without a threshold to move: " + "; ".join(left_out) + "."))
    return [joined(found)]


def _spread(latency: Sequence[float], rows: int = ROWS) -> list[int]:
    """Places of about that many points, evenly spread over the latencies, without those that equal the one before."""
    column = torch.tensor(latency, dtype=torch.float64)
    wanted = torch.linspace(float(column.min()), float(column.max()), rows, dtype=torch.float64)
    places = (column[None, :] - wanted[:, None]).abs().argmin(1).tolist()
    return sorted(set(places))
