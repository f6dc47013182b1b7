"""All stopping rules of a run side by side, with the fixed time and the oracles."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.energy import PRESETS
from benchmark.records import Estimate, PolicyResult, Saving, Static
from benchmark.report.markup import Content, Markup, element, joined
from benchmark.report.numerals import NONE, count, energy, exact, fixed, percent, rounded, share, significant, timesteps
from benchmark.report.subject import Rule, Subject
from benchmark.report.tables import table
from dynconf.recording import RecordingInfo
from dynconf.threshold import CRC

ORACLE_WORDS = {
    "any_time_correct": "any-time-correct oracle",
    "stable_correct": "stable-correct oracle",
    "consistency": "consistency oracle",
}


UNCOUNTED = "not counted"


def estimate(value: Estimate) -> Markup:
    """A share in percent with its 95% interval."""
    low, high = value.ci95
    return joined(share(value.value), " [", exact(low, percent(low)), ", ", exact(high, percent(high)), "]")


def named(rule: Rule) -> Markup:
    """A rule's label with its parameters underneath."""
    return joined(element("b", rule.label), element("small", rule.details))


def operating(subject: Subject) -> Markup:
    """Two tables, of answers and of cost, and what is promised."""
    extra = [rule for rule in subject.rules if not rule.recorded]
    return joined(
        _answers(subject),
        _costs(subject),
        element("h3", "What is promised"),
        element("ul", [element("li", _promise(rule)) for rule in subject.rules]),
        element("p", "Not in the record, computed for this page: " + "; ".join(rule.label for rule in extra) + ".")
        if subject.record is not None and extra
        else (),
    )


def _answers(subject: Subject) -> Markup:
    static, steps = subject.static, subject.test.timesteps
    headers = [
        "stopping rule",
        "accuracy, % [95%]",
        "latency, timesteps [95%]",
        "median",
        "95th percentile",
        "at the cap",
        f"saved vs T = {steps}",
        "saved vs shortest equal fixed T",
        "gap to the oracle closed",
        "lost / won",
        "McNemar p",
        "drop at most (95%)",
    ]
    rows: list[list[Content]] = [
        [
            f"all {steps} timesteps",
            estimate(static.accuracy),
            exact(static.latency, timesteps(static.latency)),
            *[NONE] * 9,
        ]
    ]
    rows += [[named(rule), *_answer_cells(rule.result)] for rule in subject.rules]
    for name, words in ORACLE_WORDS.items():
        point = getattr(subject.oracle, name)
        rows.append([words, share(point.accuracy), fixed(point.latency), *[NONE] * 9])
    return table("Answers: accuracy and latency on the test images; latency includes the prelude", headers, rows)


def _answer_cells(result: PolicyResult) -> list[Content]:
    latency, equal = result.latency, result.equal_fixed
    low, high = latency.ci95
    against: Content = "no fixed T is as accurate"
    if equal.saving_latency is not None and equal.timesteps is not None:
        against = joined(share(equal.saving_latency), " (T = ", exact(equal.timesteps, str(equal.timesteps)), ")")
    return [
        estimate(result.accuracy),
        joined(fixed(latency.mean), " [", fixed(low), ", ", fixed(high), "]"),
        exact(latency.median, timesteps(latency.median)),
        exact(latency.p95, timesteps(latency.p95)),
        share(latency.share_at_cap),
        share(result.saving.latency),
        against,
        share(result.gap_closed),
        joined(exact(result.losers, str(result.losers)), " / ", exact(result.winners, str(result.winners))),
        exact(result.mcnemar_p, significant(result.mcnemar_p)),
        exact(result.drop_upper95, f"{percent(result.drop_upper95)} pp"),
    ]


def _costs(subject: Subject) -> Markup:
    static = subject.static
    presets = sorted(
        static.energy, key=lambda name: (list(PRESETS).index(name) if name in PRESETS else len(PRESETS), name)
    )
    headers = [
        "stopping rule",
        "spikes",
        "saved",
        "SynOps",
        "saved",
        "MACs",
        *(f"energy, {preset}" for preset in presets),
    ]
    rows: list[list[Content]] = [
        [f"all {subject.test.timesteps} timesteps", *_cost_cells(static, None, presets, subject.test.info)],
        *(
            [named(rule), *_cost_cells(rule.result, rule.result.saving, presets, subject.test.info)]
            for rule in subject.rules
        ),
    ]
    return table(
        "Cost of one image, up to its exit and with the prelude; energy is that of the arithmetic alone", headers, rows
    )


def _cost_cells(
    cost: Static | PolicyResult, saving: Saving | None, presets: Sequence[str], info: RecordingInfo
) -> list[Content]:
    """Spikes, SynOps, what is saved of them, MACs, energies; what the recording does not count is not there."""
    spikes, synops = info.counts_spikes, info.counts_synops
    return [
        exact(cost.spikes_per_image, count(cost.spikes_per_image)) if spikes else UNCOUNTED,
        share(saving.spikes) if saving and spikes else NONE,
        exact(cost.synops_per_image, count(cost.synops_per_image)) if synops else UNCOUNTED,
        share(saving.synops) if saving and synops else NONE,
        exact(cost.macs_per_image, count(cost.macs_per_image)),
        *(exact(cost.energy[preset], energy(cost.energy[preset])) if synops else UNCOUNTED for preset in presets),
    ]


def _promise(rule: Rule) -> Markup:
    result = rule.result
    needed, images = result.params.get("images_needed"), result.params.get("images")
    if needed is not None:
        return joined(
            element("b", rule.label),
            f": nothing stops early. Its choice is on {images} calibration images and takes {needed} or more.",
        )
    epsilon = result.params.get("epsilon")
    if result.guarantee is None and result.selection == CRC and epsilon is not None:
        return joined(
            element("b", rule.label),
            ": in the mean over draws of the calibration images, at most ",
            exact(epsilon, f"{significant(100 * epsilon, 4)}%"),
            " of all images are lost. Nothing about the draw at hand.",
        )
    if result.guarantee is None:
        return joined(element("b", rule.label), ": no guarantee about the answers to other images.")
    promise = result.guarantee
    return joined(
        element("b", rule.label),
        f": {promise.risk} at most ",
        exact(promise.epsilon, f"{significant(100 * promise.epsilon, 4)}%"),
        f", with probability {significant(100 * (1 - promise.delta), 4)}% over draws of the calibration images (",
        "delta ",
        exact(promise.delta, significant(promise.delta, 4)),
        ")",
        f". On these test images: {rounded(100 * result.losers / result.accuracy.n)}%.",
    )
