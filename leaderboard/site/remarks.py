"""The remarks below a table: what is unusual about its records, in which the reader has to know a number's limits."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from benchmark.records import Reported, ResultRecord
from leaderboard import numerals
from leaderboard.clock import on_the_clock
from leaderboard.table import Table


@dataclass(frozen=True)
class Remarks:
    """`general` hold for every record; `numbered` for those records whose `marks` name them (id -> numbers, from 1)."""

    general: tuple[str, ...]
    numbered: tuple[str, ...]
    marks: dict[str, tuple[int, ...]]


def remarks(table: Table) -> Remarks:
    """Equal remarks are one, in the order of the records."""
    concerned: dict[str, list[str]] = {}
    for record in table.records:
        for remark in dict.fromkeys(_of_record(record)):
            concerned.setdefault(remark, []).append(record.id)
    everyone = len(table.records)
    general = tuple(remark for remark, ids in concerned.items() if len(ids) == everyone)
    numbered = tuple(remark for remark, ids in concerned.items() if len(ids) < everyone)
    marks = defaultdict(list)
    for number, remark in enumerate(numbered, 1):
        for identity in concerned[remark]:
            marks[identity].append(number)
    return Remarks(general, numbered, {identity: tuple(found) for identity, found in marks.items()})


def missing(table: Table) -> list[str]:
    """Records without results and why."""
    labels = table.labels()
    return [f"{labels[record.id]}: {record.status}. {record.reason or ''}".strip() for record in table.missing]


def _of_record(record: ResultRecord) -> list[str]:
    found = list(record.flags)
    for policy in record.policies:
        if policy.guarantee:
            promise = policy.guarantee
            found.append(
                f"Guarantee (ε = {100 * promise.epsilon:.4g}%, δ = {100 * promise.delta:.4g}%): {promise.risk} at most "
                f"{100 * promise.epsilon:.4g}% with probability {100 * (1 - promise.delta):.4g}% over draws of the "
                "calibration images."
            )
    found += map(on_the_clock, record.clock)
    if record.reported:
        found.append(_reported(record.reported))
    if record.ann and record.ann.training:
        found.append(f"Training record {record.ann.training}.")
    return found


def _reported(claim: Reported) -> str:
    return (
        f"Reported for this cell, as counted there: {numerals.percent(claim.accuracy)}% at "
        f"{numerals.timesteps(claim.latency)} ({claim.source})."
    )
