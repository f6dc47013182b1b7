"""What must hold between the figures of a record, whoever made it: without it the record was not measured, or was edited."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmark.energy import energy
from benchmark.records import Curve, Estimate, OraclePoint, PolicyResult, ResultRecord, Static
from dynconf.intervals import drop_upper_bound, mcnemar, wilson

TOLERANCE = 1e-6  # relative; sums in another order differ in the last digits


def broken_identities(record: ResultRecord) -> list[str]:
    """What cannot be, in words; empty for a record whose figures fit together, or that has none."""
    return list(_broken(record)) if record.status == "ok" else []


def _broken(record: ResultRecord) -> Iterator[str]:
    curve, static, ann, oracle = record.curve, record.static, record.ann, record.oracle
    assert curve and static and ann and oracle
    timesteps, images = record.spec.timesteps, static.accuracy.n
    if images < 1 or curve.timestep != tuple(range(1, timesteps + 1)):
        yield f"curve.timestep is not 1 to {timesteps}, or there are no images"
        return
    yield from _estimate("ann.accuracy", ann.accuracy, images)
    yield from _estimate("static.accuracy", static.accuracy, images)
    yield from _curve(curve, images)
    yield from _static(static, curve, timesteps)
    for name, point in oracle:
        yield from _oracle(f"oracle.{name}", point, static, images)
    best = oracle.any_time_correct
    if best.accuracy < max(curve.accuracy) - TOLERANCE:
        yield "oracle.any_time_correct.accuracy is below that of a fixed time"
    for name in ("stable_correct", "consistency"):
        if not _same(getattr(oracle, name).accuracy, static.accuracy.value):
            yield f"oracle.{name}.accuracy is not that of all timesteps"
    if best.latency > oracle.stable_correct.latency * (1 + TOLERANCE):
        yield "oracle.any_time_correct is later than oracle.stable_correct"
    if oracle.consistency.latency > oracle.stable_correct.latency * (1 + TOLERANCE):
        yield "oracle.consistency is later than oracle.stable_correct"
    for number, policy in enumerate(record.policies):
        found = [*_policy(policy, curve, static, images)]
        if policy.accuracy.value > best.accuracy + TOLERANCE:
            found.append("more accurate than oracle.any_time_correct")
        if not found:
            found += _gap(policy, curve, static, oracle.consistency)
        yield from (f"policies[{number}] ({policy.name}): {problem}" for problem in found)


def _curve(curve: Curve, images: int) -> Iterator[str]:
    for number, share in enumerate(curve.accuracy):
        if not _is_share(share, images):
            yield f"curve.accuracy[{number}] is no share of {images} images"
    for name in ("spikes_per_image", "synops_per_image"):
        values = getattr(curve, name)
        if any(later < earlier * (1 - TOLERANCE) for earlier, later in zip((0.0, *values), values, strict=False)):
            yield f"curve.{name} falls, although it is a sum over time"


def _static(static: Static, curve: Curve, timesteps: int) -> Iterator[str]:
    if static.prelude < 0 or static.latency != static.prelude + timesteps:
        yield "static.latency is not the prelude plus all timesteps"
    if static.streaming_prelude is not None and static.streaming_prelude < static.prelude:
        yield "static.streaming_prelude is shorter than the prelude"
    if not _same(static.accuracy.value, curve.accuracy[-1]):
        yield "static.accuracy is not the end of the curve"
    for name in ("spikes_per_image", "synops_per_image"):
        if not _same(getattr(static, name), getattr(curve, name)[-1]):
            yield f"static.{name} is not the end of the curve"
    yield from _energy("static.", static)


def _oracle(name: str, point: OraclePoint, static: Static, images: int) -> Iterator[str]:
    if not _is_share(point.accuracy, images):
        yield f"{name}.accuracy is no share of {images} images"
    if not static.prelude + 1 <= point.latency <= static.latency:
        yield f"{name}.latency is outside of what is possible"


def _policy(policy: PolicyResult, curve: Curve, static: Static, images: int) -> Iterator[str]:
    yield from _estimate("accuracy", policy.accuracy, images)
    timesteps = len(curve.timestep)
    if len(policy.exit_histogram) != timesteps or min(policy.exit_histogram) < 0:
        yield f"exit_histogram does not count {timesteps} timesteps"
        return
    yield from _latency(policy, static.prelude, images)
    for name, own, full in (
        ("latency", policy.latency.mean, static.latency),
        ("spikes", policy.spikes_per_image, static.spikes_per_image),
        ("synops", policy.synops_per_image, static.synops_per_image),
    ):
        if not _same(getattr(policy.saving, name), 1 - own / full if full else 0.0):
            yield f"saving.{name} is not 1 - {own:.6g} / {full:.6g}"
    yield from _counts(policy, curve)
    difference = round(images * (static.accuracy.value - policy.accuracy.value))
    if policy.losers - policy.winners != difference or min(policy.losers, policy.winners) < 0:
        yield f"losers and winners do not make up for a difference of {difference} images"
    elif not _same(policy.mcnemar_p, mcnemar(policy.losers, policy.winners)):
        yield "mcnemar_p is not that of losers and winners"
    elif not _same(policy.drop_upper95, drop_upper_bound(policy.losers, policy.winners, images)):
        yield "drop_upper95 is not that of losers and winners"
    yield from _equal_fixed(policy, curve.accuracy, static.prelude)
    yield from _energy("", policy)


def _latency(policy: PolicyResult, prelude: int, images: int) -> Iterator[str]:
    import numpy as np

    latency = policy.latency
    exits = prelude + np.repeat(np.arange(1, len(policy.exit_histogram) + 1), policy.exit_histogram)
    for name, own, counted in (
        ("mean", latency.mean, exits.mean()),
        ("median", latency.median, np.quantile(exits, 0.5)),
        ("p95", latency.p95, np.quantile(exits, 0.95)),
        ("share_at_cap", latency.share_at_cap, policy.exit_histogram[-1] / images),
    ):
        if not _same(own, float(counted)):
            yield f"latency.{name} is not that of exit_histogram"
    if not prelude + 1 <= latency.ci95[0] <= latency.ci95[1] <= prelude + len(policy.exit_histogram):
        yield "latency.ci95 is outside of what is possible"


def _counts(policy: PolicyResult, curve: Curve) -> Iterator[str]:
    """Spikes and SynOps, and where all images leave together, the accuracy too: those of that fixed time."""
    taken = [step for step, count in enumerate(policy.exit_histogram) if count]
    for name in ("spikes_per_image", "synops_per_image"):
        first, last = getattr(curve, name)[0], getattr(curve, name)[-1]
        if not first * (1 - TOLERANCE) <= getattr(policy, name) <= last * (1 + TOLERANCE):
            yield f"{name} is outside of what the first and all timesteps take"
        elif len(taken) == 1 and not _same(getattr(policy, name), getattr(curve, name)[taken[0]]):
            yield f"{name} is not that of the one timestep at which all images leave"
    if len(taken) == 1 and not _same(policy.accuracy.value, curve.accuracy[taken[0]]):
        yield "accuracy is not that of the one timestep at which all images leave"


def _equal_fixed(policy: PolicyResult, accuracy: Sequence[float], prelude: int) -> Iterator[str]:
    equal = policy.equal_fixed
    shortest = _shortest(accuracy, policy.accuracy.value)
    if equal.timesteps != shortest:
        yield f"equal_fixed.timesteps is {equal.timesteps}, by the curve {shortest}"
    elif shortest is None:
        if (equal.latency, equal.accuracy, equal.saving_latency) != (None, None, None):
            yield "equal_fixed has figures without timesteps"
    elif equal.latency != shortest + prelude:
        yield "equal_fixed.latency is not the prelude plus its timesteps"
    elif equal.accuracy is None or not _same(equal.accuracy, accuracy[shortest - 1]):
        yield "equal_fixed.accuracy is not that of the curve"
    elif equal.saving_latency is None or not _same(equal.saving_latency, 1 - policy.latency.mean / equal.latency):
        yield "equal_fixed.saving_latency is not that of its latencies"


def _gap(policy: PolicyResult, curve: Curve, static: Static, oracle: OraclePoint) -> Iterator[str]:
    """The share of the way from the shortest fixed time that is as accurate as all timesteps to the oracle."""
    shortest = _shortest(curve.accuracy, static.accuracy.value)
    assert shortest is not None  # the last timestep is as accurate as itself
    fixed = static.prelude + shortest
    if policy.gap_closed is None:  # no gap, or a record from before it was known
        return
    if fixed <= oracle.latency:
        yield "gap_closed is a share of no gap"
    elif not _same(policy.gap_closed, (fixed - policy.latency.mean) / (fixed - oracle.latency)):
        yield "gap_closed is not that of the latencies"


def _energy(place: str, counted: Static | PolicyResult) -> Iterator[str]:
    expected = energy(counted.macs_per_image, counted.synops_per_image)
    for name, value in counted.energy.items():
        if name not in expected or not _same(value, expected[name]):
            yield f"{place}energy.{name} is not that of the MACs and SynOps"


def _estimate(name: str, found: Estimate, images: int) -> Iterator[str]:
    if found.n != images:
        yield f"{name} counts {found.n} images, not {images}"
    elif not _is_share(found.value, images):
        yield f"{name} is no share of {images} images"
    else:
        known = wilson(round(found.value * images), images)
        if not all(math.isclose(own, bound, abs_tol=TOLERANCE) for own, bound in zip(found.ci95, known, strict=True)):
            yield f"{name}.ci95 is not the Wilson interval of its images"


def _shortest(accuracy: Sequence[float], wanted: float) -> int | None:
    """The shortest fixed time that is at least as accurate; a share has no finer steps than one image."""
    return next((step for step, share in enumerate(accuracy, 1) if share >= wanted - 1e-12), None)


def _is_share(share: float, images: int) -> bool:
    return 0 <= share <= 1 and math.isclose(share * images, round(share * images), abs_tol=1e-3)


def _same(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=1e-9)
