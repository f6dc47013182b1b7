"""What a guarantee is worth: calibration images drawn again and again from the test images, and how often a rule is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from benchmark.report.markup import Content, Markup, element, joined
from benchmark.report.numerals import exact, fixed, percent, share, significant
from benchmark.report.subject import Rule, Subject
from benchmark.report.tables import table
from benchmark.report.tradeoff import scores_of
from dynconf.choosing import images_for_ltt
from dynconf.threshold import DELTA, EPSILON
from dynconf.violations import Violations, coarse, violations

DRAWS = 1000
NAMES = {
    "ltt": "Learn then Test",
    "plug-in": "plug-in: the fastest before more than epsilon of the calibration images are lost, without a test",
    "pareto": "pareto: the fastest before the first calibration image is lost",
    "naive": "naive: the fastest without loss of calibration accuracy",
}


def promise(subject: Subject) -> Markup:
    """How often each way to choose a threshold loses more than epsilon; for the first rule that has one threshold."""
    for rule in subject.rules:
        found = scores_of(rule, subject)
        if found is not None:
            return _tried(subject, rule, *found)
    return element(
        "p", "No rule of this page has a score and one threshold, so there is nothing to try out.", class_="note"
    )


def _tried(subject: Subject, rule: Rule, scores: Tensor, grid: Tensor) -> Markup:
    stated = rule.policy.promise if rule.policy is not None else None
    epsilon, delta = (stated.epsilon, stated.delta) if stated is not None else (EPSILON, DELTA)
    images = len(subject.calibration)
    found = violations(
        subject.test,
        scores,
        images=images,
        epsilon=epsilon,
        delta=delta,
        grids={"fine": grid, "coarse": coarse(grid)},
        rules=tuple(NAMES),
        draws=DRAWS,
    )
    needed = images_for_ltt(epsilon, delta)
    return joined(
        element(
            "p",
            element("b", "This part looks at test images and chooses nothing. "),
            f"The {len(subject.test):,} test images are taken to be all the images there are. From them {images:,} (as many"
            f" as there are calibration images) are drawn with replacement, {DRAWS:,} times. Each time a threshold for the"
            f" score of {rule.label} is chosen on those alone, and then it is looked up which share of all images is lost by"
            " it: right after all timesteps, wrong at their exit. Learn then Test promises that this share is above epsilon = ",
            exact(epsilon, f"{significant(100 * epsilon, 4)}%"),
            " in at most a share delta = ",
            exact(delta, f"{significant(100 * delta, 4)}%"),
            " of the draws; the others promise nothing.",
        ),
        element(
            "p",
            f"With {images:,} images Learn then Test cannot conclude anything: it takes {needed:,}, and stops nothing early.",
            class_="note",
        )
        if images < needed
        else (),
        _table(found, subject.prelude),
    )


def _table(found: Sequence[Violations], prelude: int) -> Markup:
    headers = ["choice", "grid", "draws that lose more than epsilon [95%]", "mean share lost", "mean latency"]
    rows: list[list[Content]] = [
        [
            NAMES[each.rule],
            f"{each.grid}, {each.thresholds:,} thresholds",
            _rate(each),
            share(each.risk, 3),
            fixed(each.timesteps + prelude),
        ]
        for rule in NAMES
        for each in found
        if each.rule == rule
    ]
    return table(f"Thresholds chosen on {found[0].draws:,} draws of {found[0].images:,} images", headers, rows)


def _rate(each: Violations) -> Markup:
    low, high = each.rate_ci95
    return joined(share(each.rate), " [", exact(low, percent(low)), ", ", exact(high, percent(high)), "]")
