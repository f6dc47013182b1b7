"""When images leave under each rule, and which ones: histogram, cumulative shares, and examples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

from benchmark.report import examples
from benchmark.report.axes import from_zero, linear, step_axis
from benchmark.report.figure import figure
from benchmark.report.markup import Content, Markup, element, joined
from benchmark.report.numerals import exact, percent, share
from benchmark.report.plot import Plot
from benchmark.report.subject import Rule, Subject
from benchmark.report.tables import numbers, table


def exits(subject: Subject, examples_each: int) -> Markup:
    """One part for each rule."""
    parts: list[Content] = []
    if subject.pictures is None:
        parts.append(element("p", f"No example images: {subject.no_pictures}.", class_="note"))
    for number, rule in enumerate(subject.rules):
        parts.append(element("h3", rule.label))
        parts.append(element("p", element("small", rule.details)))
        if max(rule.result.exit_histogram) == rule.result.accuracy.n:
            step = rule.result.exit_histogram.index(rule.result.accuracy.n) + 1
            parts.append(element("p", f"All {rule.result.accuracy.n:,} images leave after timestep {step}."))
            continue
        parts.append(_histogram(subject, rule, number))
        if subject.pictures is not None and examples_each:
            parts.append(_examples(subject, rule, number, examples_each))
    return joined(parts)


def _histogram(subject: Subject, rule: Rule, number: int) -> Markup:
    histogram, images = rule.result.exit_histogram, rule.result.accuracy.n
    shares = [count / images for count in histogram]
    cumulative = [total / images for total in itertools.accumulate(histogram)]
    timesteps, latency = len(histogram), rule.result.latency
    at_cap = percent(latency.share_at_cap)
    leaving = Plot(
        f"exits-{number + 1}-share",
        f"Share of images that leave at each timestep, {rule.label}",
        f"Mean latency {latency.mean:.2f}, median {latency.median:g}; {at_cap}% of the images stay to the last timestep.",
        step_axis(timesteps),
        from_zero([100 * value for value in shares]),
        "timestep of exit (prelude not counted)",
        "images (%)",
        height=260,
    )
    leaving.bars(((step - 0.4, step + 0.4, 100 * value) for step, value in enumerate(shares, 1)), number + 1)
    gone = Plot(
        f"exits-{number + 1}-gone",
        f"Share of images that have left by each timestep, {rule.label}",
        f"From {percent(cumulative[0])}% at timestep 1 to {percent(cumulative[-1])}% at timestep {timesteps}.",
        step_axis(timesteps),
        linear(0, 100),
        "timestep",
        "images that have left (%)",
        height=260,
    )
    stairs = [(0.5, 0.0)]
    for step, value in enumerate(cumulative, 1):
        stairs += [(step, stairs[-1][1]), (step, 100 * value)]
    gone.line([*stairs, (timesteps + 0.5, 100 * cumulative[-1])], number + 1)
    rows: list[list[Content]] = [
        [exact(step, str(step)), exact(count, f"{count:,}"), share(part), share(total)]
        for step, (count, part, total) in enumerate(zip(histogram, shares, cumulative, strict=True), 1)
    ]
    caption = f"When images leave: at each timestep, and by then. {at_cap}% stay to the last timestep."
    counted = table(f"Exits, {rule.label}", ["timestep", "images", "share", "left by then"], rows)
    return figure(
        f"exits-{number + 1}",
        caption,
        leaving.render(),
        gone.render(),
        numbers=numbers("Numbers of this figure", counted),
    )


def _examples(subject: Subject, rule: Rule, number: int, count: int) -> Markup:
    if rule.exits is None:
        return element("p", f"No example images: the rule {rule.doubt}.", class_="note")
    leave = rule.exits
    first = examples.earliest(leave, count)
    last = examples.latest(leave, count, first)
    gone = examples.lost(leave, subject.test.correct, count)
    groups = [
        ("first", "Leave first", first),
        ("last", "Leave last", last),
        ("lost", f"Lost: right after all {subject.test.timesteps} timesteps, wrong at their exit", gone),
    ]
    return joined(
        _gallery(subject, leave, f"exits-{number + 1}-{name}", words, chosen)
        for name, words, chosen in groups
        if chosen
    )


def _gallery(subject: Subject, leave: Tensor, identity: str, words: str, chosen: Sequence[int]) -> Markup:
    heading = element("h4", words, id=identity)
    items = [_example(subject, index, int(leave[index])) for index in chosen]
    return joined(heading, element("ul", items, class_="gallery", aria_labelledby=identity))


def _example(subject: Subject, index: int, step: int) -> Markup:
    test, pictures = subject.test, subject.pictures
    assert pictures is not None
    answer, label = int(test.predictions[index, step - 1]), int(test.labels[index])
    true, given = pictures.name(label), pictures.name(answer)
    right = answer == label
    verdict = "right" if right else f"wrong, answered {given}"
    image = element(
        "img",
        src=pictures.thumbnail(index),
        alt=f"Test image {index}: {true}",
        class_="tiny" if pictures.is_tiny else None,
    )
    return element(
        "li",
        image,
        element("span", element("b", true), f", t = {step}"),
        element("span", ("✓ " if right else "✗ "), verdict, class_="right" if right else "wrong"),
        class_=None if right else "missed",
    )
