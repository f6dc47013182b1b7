"""From recordings to the numbers of a record: the curve, fixed time, every policy, the oracles. No network needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from benchmark import registry
from benchmark.energy import energy
from benchmark.errors import UsageError, unknown_name
from benchmark.options import build, parse_policy_text
from benchmark.records import (
    Against,
    Ann,
    Artifact,
    Curve,
    EqualFixed,
    Estimate,
    Guarantee,
    Latency,
    Measured,
    Oracle,
    OraclePoint,
    PolicyResult,
    Provenance,
    ResultRecord,
    Saving,
    Static,
)
from benchmark.spec import PolicySpec, RunSpec
from dynconf.curves import gap_closed_by
from dynconf.intervals import wilson
from dynconf.judging import (
    Outcome,
    bootstrap_latency,
    compare,
    compare_policies,
    outcome,
    shortest_equal_fixed,
    static_outcome,
)
from dynconf.oracles import ORACLES
from dynconf.policies import FitError, Policy
from dynconf.rechoosing import choosing_part
from dynconf.recording import Recording


def parse_policy(text: str) -> PolicySpec:
    """`name` or `name[key=value,...]` as a spec with typed options.

    Raises UsageError for an unknown policy or option, with near matches.
    """
    name, options = parse_policy_text(text)
    if name not in registry.names("policies"):
        raise unknown_name("policy", name, registry.names("policies"), "python -m benchmark list policies")
    return normalised(PolicySpec(name=name, options=dict(options)))


def normalised(spec: PolicySpec) -> PolicySpec:
    """The spec with every option written out, typed, so that one rule has one spelling. Raises as `make_policy`."""
    policy = make_policy(spec)
    options = {**policy.params(), "selection": policy.selection}
    return PolicySpec(
        name=spec.name, options={key: value for key, value in sorted(options.items()) if value is not None}
    )


def make_policy(spec: PolicySpec) -> Policy:
    """The unfitted policy of a spec. Raises UsageError for an unknown or invalid option."""
    entry = registry.entry("policies", spec.name)
    cls = registry.load("policies", spec.name)
    policy = build(cls, {**getattr(entry, "options", {}), **spec.options}, f"policy {spec.name}")
    assert isinstance(policy, Policy)
    return policy


def curve(test: Recording) -> Curve:
    """Accuracy and cumulative cost after every fixed number of timesteps."""
    spikes = test.spikes.cumsum(1).double().mean(0) + test.prelude_spikes.double().mean()
    synops = test.synops.cumsum(1).double().mean(0) + test.prelude_synops.double().mean()
    return Curve(
        timestep=tuple(range(1, test.timesteps + 1)),
        accuracy=tuple(test.correct.double().mean(0).tolist()),
        spikes_per_image=tuple(spikes.tolist()),
        synops_per_image=tuple(synops.tolist()),
    )


def static(test: Recording, streaming_prelude: int | None = None) -> Static:
    """Fixed-time inference for all timesteps."""
    result = static_outcome(test)
    return Static(
        accuracy=estimate(result),
        latency=result.mean("latency"),
        prelude=test.info.prelude_steps,
        streaming_prelude=streaming_prelude,
        spikes_per_image=result.mean("spikes"),
        synops_per_image=result.mean("synops"),
        macs_per_image=result.mean("macs"),
        energy=energy(result.mean("macs"), result.mean("synops")),
    )


def oracle(test: Recording) -> Oracle:
    """The three stopping times that peek."""
    points = {}
    for name, stop in ORACLES.items():
        result = outcome(test, stop(test))
        points[name] = OraclePoint(accuracy=result.accuracy, latency=result.mean("latency"))
    return Oracle(**points)


def fit(spec: PolicySpec, calibration: Recording) -> Policy:
    """The policy of a spec, fitted. Raises UsageError where it cannot be fitted as asked."""
    try:
        return make_policy(spec).fit(calibration)
    except (FitError, KeyError) as error:
        raise UsageError(f"policy {spec}: {error.args[0]}.") from error


def evaluate(spec: PolicySpec, calibration: Recording, test: Recording, seed: int = 0) -> tuple[PolicyResult, Policy]:
    """Fit a policy on the calibration recording and judge it on the test recording."""
    policy = fit(spec, calibration)
    early, full = outcome(test, policy.exit_steps(test)), static_outcome(test)
    paired = compare(early, full)
    latency = early.latency.double()
    interval = bootstrap_latency(policy, choosing_part(policy, calibration), test, seed=seed)
    at_cap = early.timesteps == test.timesteps
    result = PolicyResult(
        name=spec.name,
        params=policy.params(),
        selection=policy.selection,
        accuracy=estimate(early),
        latency=Latency(
            mean=early.mean("latency"),
            median=float(latency.quantile(0.5)),
            p95=float(latency.quantile(0.95)),
            share_at_cap=float(at_cap.double().mean()),
            ci95=interval,
        ),
        spikes_per_image=early.mean("spikes"),
        synops_per_image=early.mean("synops"),
        macs_per_image=early.mean("macs"),
        energy=energy(early.mean("macs"), early.mean("synops")),
        saving=Saving(**{name: _saved(early.mean(name), full.mean(name)) for name in ("latency", "spikes", "synops")}),
        equal_fixed=equal_fixed(test, early),
        losers=paired.losers,
        winners=paired.winners,
        mcnemar_p=paired.mcnemar_p,
        drop_upper95=paired.drop_upper95,
        guarantee=_guarantee(policy),
        exit_histogram=tuple(torch.bincount(early.timesteps - 1, minlength=test.timesteps).tolist()),
        gap_closed=gap_closed_by(test, early.timesteps, static_timesteps=shortest_equal_fixed(test, full.accuracy)),
        uncounted=_uncounted(test),
    )
    return result, policy


def finished_record(
    spec: RunSpec,
    test: Recording,
    judged: Sequence[PolicyResult],
    *,
    ann: Ann,
    streaming_prelude: int | None,
    protocol: str,
    flags: tuple[str, ...],
    provenance: Provenance,
    artifacts: tuple[Artifact, ...],
    measured: Sequence[Measured] = (),
) -> ResultRecord:
    """The record of a run that has its recordings, and its stopping rules judged."""
    return ResultRecord(
        id=spec.id,
        status="ok",
        spec=spec,
        protocol=protocol,
        flags=flags,
        ann=ann,
        curve=curve(test),
        static=static(test, streaming_prelude),
        policies=tuple(judged),
        oracle=oracle(test),
        measured=measured[0] if measured else None,
        measured_also=tuple(measured[1:]),
        provenance=provenance,
        artifacts=artifacts,
    )


def analog(right: int, images: int, training: str | None) -> Ann:
    """The network that was converted, from its number of right answers and the id of its training record."""
    return Ann(accuracy=Estimate(value=right / images, ci95=wilson(right, images), n=images), training=training)


def compare_with(policy: Policy, against: Policy, calibration: Recording, test: Recording, seed: int = 0) -> Against:
    """What one fitted policy saves against another, chosen anew together in every bootstrap resample."""
    found = compare_policies(policy, against, calibration, test, seed=seed)
    low, high = found.latency_ratio_ci95
    return Against(
        policy=against.name,
        params=against.params(),
        saving_latency=1 - found.latency_ratio,
        saving_latency_ci95=(1 - high, 1 - low),
        latency_difference=found.latency_difference,
        latency_difference_ci95=found.latency_difference_ci95,
        accuracy_difference=found.accuracy_difference,
        accuracy_difference_ci95=found.accuracy_difference_ci95,
    )


def _uncounted(test: Recording) -> tuple[Literal["spikes", "synops"], ...]:
    spikes: tuple[Literal["spikes"], ...] = () if test.info.counts_spikes else ("spikes",)
    synops: tuple[Literal["synops"], ...] = () if test.info.counts_synops else ("synops",)
    return (*spikes, *synops)


def _guarantee(policy: Policy) -> Guarantee | None:
    promise = policy.promise
    return Guarantee(epsilon=promise.epsilon, delta=promise.delta, risk=promise.risk) if promise else None


def equal_fixed(test: Recording, early: Outcome) -> EqualFixed:
    """The comparison that counts: against the shortest fixed time of at least the same accuracy on the same images."""
    steps = shortest_equal_fixed(test, early.accuracy)
    if steps is None:
        return EqualFixed(timesteps=None, latency=None, accuracy=None, saving_latency=None)
    latency = steps + test.info.prelude_steps
    return EqualFixed(
        timesteps=steps,
        latency=latency,
        accuracy=static_outcome(test, steps).accuracy,
        saving_latency=_saved(early.mean("latency"), latency),
    )


def estimate(result: Outcome) -> Estimate:
    """Accuracy with its Wilson interval."""
    return Estimate(value=result.accuracy, ci95=result.accuracy_interval, n=len(result.correct))


def _saved(value: float, reference: float) -> float:
    return 1.0 - value / reference if reference else 0.0
