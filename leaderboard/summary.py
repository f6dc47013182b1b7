"""The first table of a section: a network and what it reaches under Dynamic Confidence and under the best guaranteed rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from benchmark.records import PolicyResult, ResultRecord, Static
from leaderboard import markdown, numerals
from leaderboard.bibliography import sources_of
from leaderboard.ranking import fastest_first, ranks
from leaderboard.rows import ABSENT, Footnotes, count, energy, equal_fixed
from leaderboard.table import Table

COLUMNS = (
    "rank",
    "method",
    "ANN %",
    "all T %",
    "rule",
    "accuracy % [95%]",
    "latency [95%]",
    "vs equal fixed T",
    "spikes / image (saved)",
    "SynOps / image (saved)",
    "energy (INT8)",
    "gap closed",
    "weights",
    "record",
)
LEFT = ("method", "rule", "weights", "record")
DYNAMIC_CONFIDENCE = "dynamic-confidence"
OWN = "Dynamic Confidence"


@dataclass(frozen=True)
class Line:
    """A record and one of its rules, None where it has none to show; `role` says why this one."""

    record: ResultRecord
    policy: PolicyResult | None
    role: str

    @property
    def ranked(self) -> bool:
        """Whether the rule comes with a guarantee, so that its place is worth something."""
        return self.policy is not None and self.policy.guarantee is not None


def summary(table: Table, footnotes: Footnotes) -> tuple[list[str], list[list[str]]]:
    """Headers and Markdown cells, best rank first; rows without a guarantee stand below, without a rank.

    Remarks go to `footnotes`.
    """
    lines = [line for record in table.records for line in lines_of(record)]
    labels = table.labels(without=("weights",))
    ranked = [line.policy for line in lines if line.ranked and line.policy]
    places = iter(ranks(ranked))
    rank = [next(places) if line.ranked else None for line in lines]
    order = sorted(range(len(lines)), key=lambda number: _place(rank[number], lines[number]))
    return list(COLUMNS), [_cells(lines[number], labels, rank[number], footnotes) for number in order]


def lines_of(record: ResultRecord) -> list[Line]:
    """Dynamic Confidence, with a guarantee if it was run so, and the fastest rule with a guarantee if that is another.

    Rules that choose a threshold per timestep compete as well. The fastest is chosen by its mean latency on the test images.
    """
    guaranteed = fastest_first([policy for policy in record.policies if policy.guarantee])
    found = []
    own = [policy for policy in record.policies if policy.name == DYNAMIC_CONFIDENCE]
    if own:
        # One threshold before one per timestep: the rule of the paper.
        chosen = min(own, key=lambda policy: (policy.guarantee is None, bool(policy.params.get("per_step"))))
        found.append(Line(record, chosen, OWN))
    if guaranteed and guaranteed[0] not in [line.policy for line in found]:
        found.append(Line(record, guaranteed[0], "fastest with a guarantee"))
    return found or [Line(record, None, "")]


def _place(rank: int | None, line: Line) -> tuple[float, ...]:
    assert line.record.static
    latency = line.policy.latency.mean if line.policy else line.record.static.latency
    return (float("inf") if rank is None else rank, latency)


def _cells(line: Line, labels: dict[str, str], rank: int | None, footnotes: Footnotes) -> list[str]:
    record, policy = line.record, line.policy
    assert record.ann and record.static
    shown = policy or record.static
    saving = policy.saving if policy else None
    return [
        str(rank) if rank is not None else ABSENT,
        _method(record, labels[record.id], footnotes),
        numerals.percent(record.ann.accuracy.value),
        numerals.percent(record.static.accuracy.value),
        _rule(line),
        _interval(*(numerals.percent(value) for value in (shown.accuracy.value, *shown.accuracy.ci95))),
        _latency(policy, record.static),
        equal_fixed(policy.equal_fixed) if policy else ABSENT,
        count(shown.spikes_per_image, saving.spikes if saving else None),
        count(shown.synops_per_image, saving.synops if saving else None),
        energy(shown.energy),
        f"{numerals.percent(policy.gap_closed, 0)}%" if policy and policy.gap_closed is not None else ABSENT,
        _weights(record),
        markdown.code(record.id),
    ]


def _method(record: ResultRecord, label: str, footnotes: Footnotes) -> str:
    return markdown.text(label) + footnotes.mark_record(record) + _papers(record.spec.method)


@cache
def _papers(method: str) -> str:
    links = [f"[{markdown.text(source.venue)}]({source.url})" for source in sources_of(method)]
    return f" · {', '.join(links)}" if links else ""


def _rule(line: Line) -> str:
    policy = line.policy
    if policy is None:
        return f"none was run: fixed T={line.record.spec.timesteps}"
    how = policy.selection + (", per step" if policy.params.get("per_step") else "")
    if policy.guarantee is None:
        how += ", no guarantee"
    name = line.role if line.role == OWN else f"{line.role}: {policy.name}"
    return markdown.text(f"{name} ({how})")


def _latency(policy: PolicyResult | None, static: Static) -> str:
    if policy is None:
        mean = numerals.timesteps(static.latency)
    else:
        mean = _interval(*(numerals.rounded(value) for value in (policy.latency.mean, *policy.latency.ci95)))
    return mean + (f" (prelude {static.prelude})" if static.prelude else "")


def _weights(record: ResultRecord) -> str:
    weights = record.spec.weights
    # Only the name: the folder belongs to one machine.
    return f"{markdown.text(weights.source.replace(chr(92), '/').rsplit('/', 1)[-1])} @{weights.sha256[:8]}"


def _interval(value: str, low: str, high: str) -> str:
    return f"{value} \\[{low}, {high}\\]"
