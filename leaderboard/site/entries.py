"""The rows of a table as values: fixed time and every stopping rule of every record, and which of them is the record's best."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.records import Ann, PolicyResult, ResultRecord, Static
from leaderboard.ranking import fastest_first, ranks
from leaderboard.table import Table

DYNAMIC_CONFIDENCE = "dynamic-confidence"


@dataclass(frozen=True)
class Entry:
    """A record under one rule, or under fixed time where `policy` is None.

    Args:
        record: the record.
        number: its place among the records of the table.
        ann, static: those of the record, which has results.
        policy: the rule.
        rank: 1 + the number of rules of the table that beat this one.
        best: the fastest rule of the record with a guarantee; without any, Dynamic Confidence, or else fixed time.
    """

    record: ResultRecord
    number: int
    ann: Ann
    static: Static
    policy: PolicyResult | None
    rank: int | None
    best: bool

    @property
    def shown(self) -> PolicyResult | Static:
        """What has the numbers."""
        return self.policy or self.static

    @property
    def energy(self) -> float | None:
        """In pJ per image under the INT8 preset; None in a record that lacks it."""
        return next((value for name, value in sorted(self.shown.energy.items()) if "int8" in name.casefold()), None)


def entries(table: Table) -> list[Entry]:
    """Best fixed-time accuracy first; of each record fixed time, then its rules, the fastest first."""
    policies = [fastest_first(record.policies) for record in table.records]
    rank = iter(ranks([policy for group in policies for policy in group]))
    found = []
    for number, (record, group) in enumerate(zip(table.records, policies, strict=True)):
        assert record.ann and record.static
        best = _best(group)
        found.append(Entry(record, number, record.ann, record.static, None, None, best is None))
        found += [
            Entry(record, number, record.ann, record.static, policy, next(rank), policy is best) for policy in group
        ]
    return found


def _best(policies: list[PolicyResult]) -> PolicyResult | None:
    """Of rules that stand in order of their latency."""
    guaranteed = [policy for policy in policies if policy.guarantee]
    own = [policy for policy in policies if policy.name == DYNAMIC_CONFIDENCE]
    return next(iter(guaranteed or own), None)
