"""The table of accuracy after fixed numbers of timesteps: every method side by side, with and without its prelude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leaderboard import markdown, numerals
from leaderboard.published import Published
from leaderboard.table import Table

ABSENT = "—"
FIRST = ("method", "prelude")


def fixed_time(table: Table, published: Sequence[Published] = ()) -> tuple[list[str], list[list[str]]]:
    """Headers and Markdown cells. A method with a prelude has a row without it, as papers count, and one with it.

    Below ours stand the rows of others on the network of the same name, as they were `published`.
    """
    labels = table.labels()
    longest = max((int(record.static.latency) for record in table.records if record.static), default=0)
    steps = [2**power for power in range(longest.bit_length())]
    body = []
    for record in table.records:
        assert record.static and record.curve
        wanted = {step - counted for step in steps for counted in (0, record.static.prelude)}
        curve = record.curve.accuracy
        accuracy = {step: numerals.percent(curve[step - 1]) for step in wanted if 1 <= step <= len(curve)}
        streaming = record.static.streaming_prelude
        body += _rows(markdown.text(labels[record.id]), accuracy, record.static.prelude, streaming, steps)
    for row in published:
        if row.dataset == table.dataset and row.is_of(table.model) and row.accuracy:
            accuracy = {step: numerals.rounded(value) for step, value in row.accuracy.items()}
            said = f"*{row.label}, as published: {row.cited}*"
            body += _rows(said, accuracy, row.prelude, None, steps)
    return [*FIRST, *(f"T={step}" for step in steps)], body


def _rows(
    method: str, accuracy: Mapping[int, str], prelude: int, streaming: int | None, steps: Sequence[int]
) -> list[list[str]]:
    rows = []
    for counted in (0, prelude) if prelude else (0,):
        said = "none"
        if prelude:
            said = f"{prelude}, counted" if counted else f"{prelude}, not counted"
        if counted and streaming not in (None, prelude):
            said += f" (streaming {streaming})"
        rows.append([method, said, *(accuracy.get(step - counted, ABSENT) for step in steps)])
    return rows
