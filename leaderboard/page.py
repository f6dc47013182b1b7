"""The Markdown page around the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from leaderboard import markdown
from leaderboard.fixed_time import FIRST, fixed_time
from leaderboard.published import LEFT as PUBLISHED_LEFT
from leaderboard.published import Published, published_table
from leaderboard.rows import LEFT, Footnotes, rows
from leaderboard.table import Table

FIGURES = "figures"
INTRODUCTION = """\
<!-- Generated from the result records by `python -m benchmark leaderboard`; edits are lost. -->

# Leaderboard

A row is one stopping rule on one converted network. Latency is the prelude plus the timesteps until exit. Thresholds
and smoothing were chosen on a held-out calibration split, never on test images; intervals are 95%. Spikes count with
either sign, SynOps are exact with padding and stride, energy is arithmetic only (INT8: 0.23 pJ per MAC, 0.03 per AC).

<details><summary>How to read the columns</summary>

- **rank**: 1 + the number of policy rows of the table that beat this one: more accurate or faster beyond both
  intervals, and in the other respect not worse beyond them. Rows that overlap in both never beat one another.
- **saved vs T_max**: latency saved against running every image for all timesteps.
- **saved vs equal fixed T**: latency saved against the shortest fixed time T that is at least as accurate.
- **losers / winners**: images that only fixed time, and that only the policy, classifies correctly.
- **latency**, where it names a prelude: timesteps before the first answer, which are part of the latency; *streaming*
  is what they are on hardware where every layer waits for the one before it. Rows are ranked by the former, as in the
  literature.
- **drop, upper 95%**: upper bound of the loss of accuracy against fixed time, in percentage points.
- **reported**: accuracy in percent and latency that a paper claims for this cell, as the paper counts.

</details>
"""

PUBLISHED = """\
Accuracy in percent that others report, each on its own weights, protocol and choice of test images; nothing here was
measured by us. *With the prelude* counts the timesteps before the first answer, which the source leaves out."""


def page(
    tables: Sequence[Table],
    problems: Iterable[str],
    trainings: Mapping[str, str],
    published: Sequence[Published] = (),
) -> str:
    """The whole page; figures are linked as `figures/<slug>.svg`, training records as `trainings` says.

    Of what others have `published`, that on the datasets of the tables is shown.
    """
    sections = [INTRODUCTION]
    if not tables:
        sections.append("No records yet.\n")
    if len(tables) > 1:
        contents = [f"- [{markdown.text(each.title)}](#{each.slug}): {markdown.code(each.protocol)}" for each in tables]
        sections.append("\n".join(contents) + "\n")
    sections += [_section(table, trainings, published) for table in tables]
    sections += _published(sorted({table.dataset for table in tables}), published)
    unreadable = [f"- {markdown.text(problem)}" for problem in problems]
    if unreadable:
        sections.append("\n".join(["## Records that could not be read", "", *unreadable]) + "\n")
    return "\n".join(sections)


def _section(table: Table, trainings: Mapping[str, str], published: Sequence[Published]) -> str:
    title = markdown.text(table.title)
    footnotes = Footnotes(trainings)
    headers, body = rows(table, footnotes)
    blocks = [f'<a id="{table.slug}"></a>', f"## {title}", f"Protocol: {markdown.code(table.protocol)}"]
    if body:
        blocks.append(markdown.table(headers, body, LEFT))
        blocks.append("Accuracy in percent after a fixed number of timesteps:")
        blocks.append(markdown.table(*fixed_time(table, published), FIRST))
    remarks = footnotes.lines() + _missing(table)
    if remarks:
        blocks.append("\n".join(remarks))
    if body:
        blocks.append(f"![Accuracy against latency, {title}]({FIGURES}/{table.slug}.svg)")
    blocks.append(f"<!-- records sha256: {table.fingerprint} -->")
    return "\n\n".join(blocks) + "\n"


def _published(datasets: Sequence[str], published: Sequence[Published]) -> list[str]:
    """What others say of these datasets."""
    sections = []
    for dataset in datasets:
        rows = [row for row in published if row.dataset == dataset]
        if rows:
            blocks = [f"## Published: {markdown.text(dataset)}", PUBLISHED]
            blocks.append(markdown.table(*published_table(rows), PUBLISHED_LEFT))
            sections.append("\n\n".join(blocks) + "\n")
    return sections


def _missing(table: Table) -> list[str]:
    labels = table.labels()
    return [
        f"- missing: {markdown.text(labels[record.id])} — {record.status} — {markdown.text(record.reason or '')}"
        for record in table.missing
    ]
