"""Running a row again from its record, and telling whether the same figures come out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.backbones import TIMM
from benchmark.errors import Incompatible, UsageError
from benchmark.locating import ZOO
from benchmark.records import Estimate, PolicyResult, ResultRecord
from benchmark.spec import Cell, RunSpec

# Means of counts have no interval in a record. Batches summed in another order move spikes at near ties only.
COUNT_TOLERANCE = 0.01
# A tie on the last digit counts as inside.
EDGE = 1e-9
INTERVAL = "in the record's 95% interval"
NEAR = f"within {100 * COUNT_TOLERANCE:g}%"


@dataclass(frozen=True)
class Comparison:
    """One figure of the record and of the new run; `allowed` says in words what would still be the same."""

    figure: str
    recorded: float
    found: float
    agrees: bool
    allowed: str

    @property
    def exact(self) -> bool:
        """Whether it is the same float."""
        return self.recorded == self.found


def cell_of(spec: RunSpec, data_dir: str | None = None, checkpoint: str | None = None) -> Cell:
    """What to ask for to get this spec again.

    Args:
        spec: of the record.
        data_dir: where its dataset lies here.
        checkpoint: its weights here; needed where the record does not say where they can be had from.
    """
    # What an embedded dataset trains for itself is trained again; a mere file name says nothing about where it lies.
    named = spec.weights.source if spec.weights.source.startswith((ZOO, TIMM)) else None
    return Cell(
        method=spec.method,
        method_options=spec.method_options,
        dataset=spec.dataset,
        data_dir=data_dir,
        model=spec.model,
        checkpoint=checkpoint or named,
        timesteps=spec.timesteps,
        policies=spec.policies,
        seed=spec.seed,
        precision=spec.precision,
        limit=spec.limit,
        calibration_size=spec.calibration_size,
        preprocessing=spec.preprocessing,
    )


def check_same_run(recorded: RunSpec, now: RunSpec) -> None:
    """Raise UsageError that says in what the run would differ from the recorded one: other weights, images, code."""
    if now.id == recorded.id:
        return
    before, after = recorded.model_dump(mode="json"), now.model_dump(mode="json")
    before["weights"], after["weights"] = recorded.weights.sha256, now.weights.sha256
    names = {"weights": "the sha256 of the weights", "dataset_fingerprint": "the fingerprints of the images"}
    found = [
        f"{names.get(key, key)}: the record has {before[key]}, here it is {after[key]}"
        for key in before
        if before[key] != after[key]
    ]
    raise UsageError("this is not the run of the record.\n" + "\n".join(found))


def comparisons(recorded: ResultRecord, found: ResultRecord) -> list[Comparison]:
    """Every figure that a table shows, once as recorded and once as found.

    Accuracies and latencies agree inside the record's 95% intervals, spikes and SynOps within 1%. Raises Incompatible where
    one of the two has no figures.
    """
    for record, which in ((recorded, "the record"), (found, "the new run")):
        if record.status != "ok":
            raise Incompatible(f"{which} has no figures: {record.status}: {record.reason}.")
    return list(_comparisons(recorded, found))


def _comparisons(recorded: ResultRecord, found: ResultRecord) -> Iterator[Comparison]:
    assert recorded.ann and recorded.static and recorded.curve
    assert found.ann and found.static and found.curve
    yield _accuracy("ANN accuracy", recorded.ann.accuracy, found.ann.accuracy)
    yield _accuracy("fixed time, accuracy", recorded.static.accuracy, found.static.accuracy)
    yield from _counts("fixed time", recorded.static, found.static)
    for policy, again in zip(recorded.policies, found.policies, strict=True):
        name = _name(policy)
        yield _accuracy(f"{name}, accuracy", policy.accuracy, again.accuracy)
        mean, other = policy.latency.mean, again.latency.mean
        low, high = policy.latency.ci95
        # The mean itself may lie outside of an interval that chooses the threshold anew.
        inside = min(low, mean) - EDGE <= other <= max(high, mean) + EDGE
        yield Comparison(f"{name}, latency", mean, other, inside, INTERVAL)
        yield from _counts(name, policy, again)


def _name(policy: PolicyResult) -> str:
    return f"{policy.name} ({policy.selection}{', per step' if policy.params.get('per_step') else ''})"


def _accuracy(figure: str, recorded: Estimate, found: Estimate) -> Comparison:
    low, high = recorded.ci95
    return Comparison(figure, recorded.value, found.value, low - EDGE <= found.value <= high + EDGE, INTERVAL)


def _counts(name: str, recorded: object, found: object) -> Iterator[Comparison]:
    for field, words in (("spikes_per_image", "spikes"), ("synops_per_image", "SynOps")):
        before, after = getattr(recorded, field), getattr(found, field)
        agrees = abs(after - before) <= COUNT_TOLERANCE * abs(before)
        yield Comparison(f"{name}, {words}", before, after, agrees, NEAR)
