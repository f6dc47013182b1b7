"""The numbers of one accuracy-latency figure, and the digest that ties a drawn file to them."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.records import ResultRecord
from leaderboard.digest import digest
from leaderboard.table import Table

# Goes into the digest: raise it when the drawing changes, so that figures already on disk count as outdated.
LAYOUT = 2


@dataclass(frozen=True)
class Point:
    """A policy's mean latency (timesteps, prelude included) and accuracy (share), each with its 95% interval."""

    policy: str
    latency: float
    latency_ci95: tuple[float, float]
    accuracy: float
    accuracy_ci95: tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One record. Latencies in timesteps with the prelude, accuracies as shares; `oracle` is (latency, accuracy)."""

    label: str
    ann: float
    latency: tuple[float, ...]
    accuracy: tuple[float, ...]
    points: tuple[Point, ...]
    oracle: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """One figure."""

    title: str
    series: tuple[Series, ...]

    @property
    def fingerprint(self) -> str:
        """Sha256 of all plotted numbers and names in full floats; independent of the plotting library."""
        # Not asdict: it copies every number, which takes longer than all the rest of a large page.
        return digest([LAYOUT, self.title, [[*vars(each).values()] for each in self.series]], default=vars)


def chart(table: Table) -> Chart:
    """The figure of a table that has results."""
    labels = table.labels()
    return Chart(table.title, tuple(_series(record, labels[record.id]) for record in table.records))


def _series(record: ResultRecord, label: str) -> Series:
    assert record.ann and record.curve and record.static and record.oracle
    points = [
        Point(policy.name, policy.latency.mean, policy.latency.ci95, policy.accuracy.value, policy.accuracy.ci95)
        for policy in record.policies
    ]
    consistency = record.oracle.consistency
    return Series(
        label=label,
        ann=record.ann.accuracy.value,
        latency=tuple(record.static.prelude + timestep for timestep in record.curve.timestep),
        accuracy=record.curve.accuracy,
        points=tuple(sorted(points, key=lambda point: (point.policy, point.latency, point.accuracy))),
        oracle=(consistency.latency, consistency.accuracy),
    )
