"""Whether confidences mean what they say: reliability diagrams and calibration errors, per timestep and at the exits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.report.axes import Axis, from_zero, latency_axis, linear, milestones
from benchmark.report.figure import Key, figure
from benchmark.report.markup import Content, Markup, element, joined
from benchmark.report.numerals import NONE, exact, fixed, percent, share, significant
from benchmark.report.plot import Plot
from benchmark.report.subject import Rule, Subject
from benchmark.report.tables import numbers, table
from dynconf.metrics import BINS, Reliability, brier_score, negative_log_likelihood, reliability
from dynconf.recording import Recording

UNIT = Axis(0.0, 1.0, (0.0, 0.5, 1.0))


@dataclass(frozen=True)
class Errors:
    """Calibration errors and proper scores, one value per timestep or a single one at the exits; None where unknown."""

    ece: list[float]
    adaptive: list[float]
    nll: list[float]
    brier: list[float] | None


def trust(subject: Subject) -> Markup:
    """Diagrams at some timesteps, errors at all, and both at the exit of each rule."""
    words = element(
        "p",
        "Confidence is the largest softmax probability of the sum of logits divided by a scale of ",
        exact(subject.scale, significant(subject.scale, 4)),
        f", {subject.scale_source}. Where the bars lie under the diagonal, the network is surer than it should be.",
    )
    return joined(words, _diagrams(subject), _errors(subject), _at_exit(subject))


def errors_of(recording: Recording, scale: float, confidence: Tensor) -> Errors:
    """All errors at one scale, of which `confidence` [N, T] are the confidences; see `dynconf.metrics`."""
    try:
        brier = brier_score(recording, scale).tolist()
    except KeyError:  # statistics without the half of this scale
        brier = None
    by_width, by_mass = (
        [
            reliability(column, correct, equal_mass=equal_mass).calibration_error
            for column, correct in zip(confidence.T, recording.correct.T, strict=True)
        ]
        for equal_mass in (False, True)
    )
    return Errors(by_width, by_mass, negative_log_likelihood(recording, scale).tolist(), brier)


def at_exits(recording: Recording, exits: Tensor) -> Recording:
    """A recording of one timestep, in which every image shows what it showed at its exit; `exits` is int64 [N]."""
    rows, columns = torch.arange(len(recording)), exits - 1
    found = {
        name: values if values.dim() == 1 else values[rows, columns][:, None]
        for name, values in recording.tensors().items()
        if name != "site_spikes"
    }
    return Recording.from_tensors(dataclasses.replace(recording.info, timesteps=1, sites=()), found)


def _diagrams(subject: Subject) -> Markup:
    steps = milestones(subject.test.timesteps)
    diagrams = {step: reliability(subject.confidence[:, step - 1], subject.test.correct[:, step - 1]) for step in steps}
    panels = [
        _diagram(f"reliability-{step}", f"after timestep {step}", diagrams[step], f"t = {step}") for step in steps
    ]
    rows = [[exact(step, str(step)), *cells] for step in steps for cells in _bins(diagrams[step])]
    caption = (
        f"Reliability after some timesteps: accuracy in each of {BINS} bins of confidence, and the share of images in each "
        "bin underneath. Bins without images have no bar."
    )
    counted = table(
        "Bins that hold images", ["timestep", "confidence from", "to", "mean confidence", "accuracy", "images"], rows
    )
    return figure("reliability", caption, *panels, numbers=numbers("Numbers of this figure", counted), kind="small")


def _bins(diagram: Reliability) -> list[list[Content]]:
    bins = len(diagram.count)
    return [
        [
            f"{place / bins:.3f}",
            f"{(place + 1) / bins:.3f}",
            fixed(float(diagram.confidence[place]), 4),
            fixed(float(diagram.accuracy[place]), 4),
            exact(int(diagram.count[place]), f"{int(diagram.count[place]):,}"),
        ]
        for place in range(bins)
        if diagram.count[place]
    ]


def _diagram(identity: str, words: str, diagram: Reliability, short: str) -> Markup:
    """Accuracy by confidence, and how many images there are in each bin, one panel under the other."""
    bins, total = len(diagram.count), int(diagram.count.sum())
    error = f"{100 * diagram.calibration_error:.2f}%"
    upper = Plot(
        identity,
        f"Reliability diagram {words}",
        f"Expected calibration error {error}.",
        UNIT,
        UNIT,
        "",
        "accuracy",
        width=260,
        height=210,
    )
    upper.bars(((n / bins, (n + 1) / bins, float(diagram.accuracy[n])) for n in range(bins)), 0)
    upper.diagonal()
    lower = Plot(
        f"{identity}-images",
        f"Images per bin of confidence {words}",
        f"{total:,} images; {percent(int(diagram.count[-1]) / total)}% in the surest bin.",
        UNIT,
        linear(0, 100, 2),
        "confidence",
        "images (%)",
        width=260,
        height=140,
    )
    lower.bars(((n / bins, (n + 1) / bins, 100 * int(diagram.count[n]) / total) for n in range(bins)), 3)
    heading = element("p", element("b", short), element("span", f"ECE {error}"), class_="panel-title")
    return element("div", heading, upper.render(), lower.render())


def _errors(subject: Subject) -> Markup:
    found = errors_of(subject.test, subject.scale, subject.confidence)
    steps = range(1, subject.test.timesteps + 1)
    axis = latency_axis(steps)
    errors = Plot(
        "errors-calibration",
        "Calibration errors at each timestep",
        f"ECE from {percent(found.ece[0])}% at timestep 1 to {percent(found.ece[-1])}% at the last.",
        axis,
        from_zero([100 * value for value in (*found.ece, *found.adaptive)]),
        "timestep",
        "calibration error (%)",
        height=280,
    )
    _draw(errors, [found.ece, found.adaptive], 100)
    scores = Plot(
        "errors-scores",
        "Negative log-likelihood and Brier score at each timestep",
        f"NLL from {found.nll[0]:.3f} at timestep 1 to {found.nll[-1]:.3f} at the last.",
        axis,
        from_zero([*found.nll, *(found.brier or ())]),
        "timestep",
        "NLL (nats), Brier score",
        height=280,
    )
    _draw(scores, [found.nll, *([found.brier] if found.brier else [])], 1, 2)
    keys = [Key("ECE", 0, 0), Key("adaptive ECE", 1, 1), Key("NLL", 2, 2)]
    if found.brier:
        keys.append(Key("Brier score", 3, 3))
    rows: list[list[Content]] = [[exact(step, str(step)), *_cells(found, step - 1)] for step in steps]
    caption = (
        f"Calibration errors in {BINS} bins, of equal width or (adaptive) of equally many images, and proper scores, by"
        " timestep."
    )
    if found.brier is None:
        caption += " The recording holds statistics that do not give the Brier score at this scale."
    counted = table("Errors by timestep", ["timestep", "ECE", "adaptive ECE", "NLL", "Brier score"], rows)
    return figure(
        "errors",
        caption,
        errors.render(),
        scores.render(),
        keys=keys,
        numbers=numbers("Numbers of this figure", counted),
    )


def _draw(plot: Plot, columns: Sequence[Sequence[float]], factor: float, first: int = 0) -> None:
    for number, column in enumerate(columns, first):
        points = [(step, factor * value) for step, value in enumerate(column, 1)]
        plot.line(points, number, number)
        for x, y in points:
            plot.mark(x, y, number, "dot")


def _cells(found: Errors, place: int) -> list[Content]:
    brier: Content = NONE if found.brier is None else fixed(found.brier[place], 4)
    return [share(found.ece[place]), share(found.adaptive[place]), fixed(found.nll[place], 4), brier]


def _at_exit(subject: Subject) -> Markup:
    rules = [(number, rule) for number, rule in enumerate(subject.rules) if rule.exits is not None]
    if not rules:
        return Markup()
    panels: list[Markup] = []
    rows: list[list[Content]] = []
    bins: list[list[Content]] = []
    for number, rule in rules:
        assert rule.exits is not None
        scale = _scale_of(rule, subject)
        shown = at_exits(subject.test, rule.exits)
        confidence = shown.evidence.confidence(scale)
        diagram = reliability(confidence[:, 0], shown.correct[:, 0])
        panels.append(_diagram(f"reliability-exit-{number + 1}", f"at the exit of {rule.label}", diagram, rule.label))
        rows.append([rule.label, exact(scale, significant(scale, 4)), *_cells(errors_of(shown, scale, confidence), 0)])
        bins += [[rule.label, *cells] for cells in _bins(diagram)]
    caption = (
        "The same with every image at its own exit. Under a threshold, confidences at the exit lie above it but for images at "
        "the cap, so this is the error of a truncated range."
    )
    counted = table(
        "Bins at the exit", ["rule", "confidence from", "to", "mean confidence", "accuracy", "images"], bins
    )
    return joined(
        figure("reliability-exit", caption, *panels, numbers=numbers("Numbers of this figure", counted), kind="small"),
        table("Errors at the exit", ["stopping rule", "scale", "ECE", "adaptive ECE", "NLL", "Brier score"], rows),
    )


def _scale_of(rule: Rule, subject: Subject) -> float:
    """The rule's own scale if it has one that the recording knows, else that of the section."""
    own = getattr(rule.policy, "scale", None)
    known = subject.test.scales
    if own is None or not math.isfinite(own) or (known and own not in known):
        return subject.scale
    return float(own)
