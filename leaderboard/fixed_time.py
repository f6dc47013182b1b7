"""The table of accuracy after fixed numbers of timesteps: every method side by side, with and without its prelude."""

from __future__ import annotations

from benchmark.records import ResultRecord
from leaderboard import markdown, numerals
from leaderboard.table import Table

ABSENT = "—"
FIRST = ("method", "prelude")


def fixed_time(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headers and Markdown cells. A method with a prelude has a row without it, as papers count, and one with it."""
    labels = table.labels()
    longest = max((int(record.static.latency) for record in table.records if record.static), default=0)
    steps = [2**power for power in range(longest.bit_length())]
    body = []
    for record in table.records:
        assert record.static
        prelude, streaming = record.static.prelude, record.static.streaming_prelude
        method = markdown.text(labels[record.id])
        for counted in (0, prelude) if prelude else (0,):
            said = "none"
            if prelude:
                said = f"{prelude}, counted" if counted else f"{prelude}, not counted"
            if counted and streaming not in (None, prelude):
                said += f" (streaming {streaming})"
            body.append([method, said, *(_accuracy(record, step - counted) for step in steps)])
    return [*FIRST, *(f"T={step}" for step in steps)], body


def _accuracy(record: ResultRecord, timestep: int) -> str:
    assert record.curve
    if not 1 <= timestep <= len(record.curve.accuracy):
        return ABSENT
    return numerals.percent(record.curve.accuracy[timestep - 1])
