"""What one table shows, cell by cell: a row for fixed time and one for each policy of every record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmark.records import EqualFixed, Estimate, Latency, PolicyResult, ResultRecord, Static
from leaderboard import markdown, numerals
from leaderboard.clock import on_the_clock
from leaderboard.ranking import fastest_first, ranks
from leaderboard.table import Table

ABSENT = "—"
COLUMNS = (
    "rank",
    "method",
    "stopping rule",
    "ANN accuracy %",
    "accuracy % [95%]",
    "latency [95%]",
    "saved vs T_max",
    "saved vs equal fixed T",
    "losers / winners",
    "drop, upper 95%",
    "spikes / image (saved)",
    "SynOps / image (saved)",
    "energy (INT8)",
    "record",
)
REPORTED = "reported"
LEFT = ("method", "stopping rule", "record", REPORTED)
# The parameters that a reader asks for first; the others follow by name.
MAIN_PARAMETERS = ("scale", "threshold")


@dataclass
class Footnotes:
    """Numbered remarks of one table; equal remarks share a number. `trainings` holds links to training records by id."""

    trainings: Mapping[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def mark(self, remark: str) -> str:
        """The superscript that points to `remark` (plain text)."""
        return self._mark(markdown.text(remark))

    def mark_training(self, identity: str) -> str:
        """The superscript that points to a training record."""
        name = markdown.code(identity)
        link = self.trainings.get(identity)
        return self._mark(f"Training record {f'[{name}]({link})' if link else name}.")

    def mark_record(self, record: ResultRecord) -> str:
        """The superscripts for all that is unusual about a record, and for how its weights were trained."""
        remarks = [*record.flags, *map(on_the_clock, record.clock)]
        marks = [self.mark(remark) for remark in remarks]
        if record.ann and record.ann.training:
            marks.append(self.mark_training(record.ann.training))
        return " ".join(marks)

    def _mark(self, remark: str) -> str:
        if remark not in self.remarks:
            self.remarks.append(remark)
        return f"<sup>{self.remarks.index(remark) + 1}</sup>"

    def lines(self) -> list[str]:
        """The remarks as a Markdown list."""
        return [f"- <sup>{number}</sup> {remark}" for number, remark in enumerate(self.remarks, 1)]


def rows(table: Table, footnotes: Footnotes) -> tuple[list[str], list[list[str]]]:
    """Headers and Markdown cells of a table; remarks go to `footnotes`. Empty rows if no record has results."""
    labels = table.labels()
    policies = {record.id: fastest_first(record.policies) for record in table.records}
    rank = iter(ranks([policy for record in table.records for policy in policies[record.id]]))
    claims = any(record.reported for record in table.records)
    body = []
    for record in table.records:
        method = markdown.text(labels[record.id]) + footnotes.mark_record(record)
        block = [_fixed_row(record, method)]
        block += [_policy_row(record, policy, method, next(rank), footnotes) for policy in policies[record.id]]
        if claims:
            block = [[*row, ABSENT if number else _reported(record)] for number, row in enumerate(block)]
        body += block
    return [*COLUMNS, REPORTED] if claims else list(COLUMNS), body


def _fixed_row(record: ResultRecord, method: str) -> list[str]:
    static = record.static
    assert record.ann and static
    return [
        ABSENT,
        method,
        f"fixed T={record.spec.timesteps}",
        numerals.percent(record.ann.accuracy.value),
        _accuracy(static.accuracy),
        numerals.timesteps(static.latency) + _prelude(static),
        ABSENT,
        ABSENT,
        ABSENT,
        ABSENT,
        count(static.spikes_per_image),
        count(static.synops_per_image),
        energy(static.energy),
        markdown.code(record.id),
    ]


def _policy_row(record: ResultRecord, policy: PolicyResult, method: str, rank: int, footnotes: Footnotes) -> list[str]:
    assert record.ann and record.static
    rule = markdown.text(_rule(policy))
    if policy.guarantee:
        promise = policy.guarantee
        rule += footnotes.mark(
            f"Guarantee: {promise.risk} at most {100 * promise.epsilon:.4g}% with probability "
            f"{100 * (1 - promise.delta):.4g}% over draws of the calibration images."
        )
    return [
        str(rank),
        method,
        rule,
        numerals.percent(record.ann.accuracy.value),
        _accuracy(policy.accuracy),
        _latency(policy.latency) + _prelude(record.static),
        f"{numerals.percent(policy.saving.latency, 1)}%",
        equal_fixed(policy.equal_fixed),
        f"{policy.losers} / {policy.winners}",
        numerals.percent(policy.drop_upper95),
        count(policy.spikes_per_image, policy.saving.spikes),
        count(policy.synops_per_image, policy.saving.synops),
        energy(policy.energy),
        markdown.code(record.id),
    ]


def _accuracy(accuracy: Estimate) -> str:
    low, high = accuracy.ci95
    return f"{numerals.percent(accuracy.value)} \\[{numerals.percent(low)}, {numerals.percent(high)}\\]"


def _latency(latency: Latency) -> str:
    low, high = latency.ci95
    return f"{numerals.rounded(latency.mean)} \\[{numerals.rounded(low)}, {numerals.rounded(high)}\\]"


def _prelude(static: Static) -> str:
    if not static.prelude:
        return ""
    streaming = static.streaming_prelude
    waiting = f", streaming {streaming}" if streaming not in (None, static.prelude) else ""
    return f" (prelude {static.prelude}{waiting})"


def _rule(policy: PolicyResult) -> str:
    """The policy's name, its scalar parameters, and how the threshold was chosen."""
    scalars = {name: value for name, value in policy.params.items() if isinstance(value, int | float | str)}
    names = [name for name in MAIN_PARAMETERS if name in scalars]
    names += sorted(set(scalars) - set(names))
    details = [f"{name} {_parameter(scalars[name])}" for name in names]
    return f"{policy.name} ({', '.join([*details, policy.selection])})"


def _parameter(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    # Confidence thresholds crowd below 1, and 1 itself means that no image stops early.
    return f"1-{1 - value:.2g}" if 0.99995 <= value < 1 else f"{value:.4g}"


def equal_fixed(equal: EqualFixed) -> str:
    """What is saved against the shortest fixed time that is as accurate."""
    if equal.timesteps is None or equal.saving_latency is None:
        return "no T as accurate"
    return f"{numerals.percent(equal.saving_latency, 1)}% (T={equal.timesteps})"


def count(events: float, saving: float | None = None) -> str:
    """Events per image, and the share of them that is saved."""
    return numerals.count(events) + (f" ({numerals.percent(saving, 1)}%)" if saving is not None else "")


def energy(presets: Mapping[str, float]) -> str:
    """The INT8 preset; an older record may lack it."""
    int8 = [value for name, value in sorted(presets.items()) if "int8" in name.casefold()]
    return numerals.energy(int8[0]) if int8 else ABSENT


def _reported(record: ResultRecord) -> str:
    claim = record.reported
    if claim is None:
        return ABSENT
    accuracy, latency = numerals.percent(claim.accuracy), numerals.timesteps(claim.latency)
    return f"{accuracy} at {latency} ({markdown.text(claim.source)})"
