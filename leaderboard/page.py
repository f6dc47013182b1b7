"""The Markdown page around the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from leaderboard import markdown
from leaderboard.fixed_time import FIRST, fixed_time
from leaderboard.published import LEFT as PUBLISHED_LEFT
from leaderboard.published import Published, published_table
from leaderboard.rows import LEFT, Footnotes, rows
from leaderboard.summary import LEFT as SUMMARY_LEFT
from leaderboard.summary import summary
from leaderboard.table import Table

FIGURES = "figures"
INTRODUCTION = """\
<!-- Generated from the result records by `python -m benchmark leaderboard`; edits are lost. -->

# Leaderboard

The first table of a section has two rows for a converted network: Dynamic Confidence, and the fastest stopping rule with a
guarantee where that is another. Latency is the prelude plus the timesteps until exit. Thresholds and smoothing were chosen on
a held-out calibration split, never on test images; intervals are 95%. Spikes count with either sign, SynOps are exact with
padding and stride, energy is arithmetic only (INT8: 0.23 pJ per MAC, 0.03 per AC).

<details><summary>How to read the columns</summary>

- **rank**: 1 + the number of rows with a guarantee that beat this one: more accurate or faster beyond both intervals, and in
  the other respect not worse beyond them. Rows that overlap in both share a place. Below, among every stopping rule, all
  rules of the table compete.
- **all T %**: accuracy without early exit, after all timesteps.
- **rule**: *ltt* promises (Learn then Test) that at most epsilon of all images are lost, with probability 1 - delta over
  calibration images. That supposes a network that was not trained on them: see the remarks of the row. Which of several
  guaranteed rules is the fastest was seen on the test images: each keeps its promise, the choice among them flatters a little.
- **vs equal fixed T**: latency saved against the shortest fixed time T that is at least as accurate on the same images.
- **saved** (spikes, SynOps, *saved vs T_max*): against running every image for all timesteps.
- **gap closed**: share of the way from the shortest fixed time as accurate as all timesteps (0%) to the oracle that stops at
  the first timestep from which on the answer stays (100%), in mean latency. A dash: there is no gap, or the record is older
  than this figure.
- **losers / winners**: images that only fixed time, and that only the policy, classifies correctly.
- **latency**, where it names a prelude: timesteps before the first answer, which are part of the latency; *streaming*
  is what they are on hardware where every layer waits for the one before it. Rows are ranked by the former, as in the
  literature.
- **drop, upper 95%**: upper bound of the loss of accuracy against fixed time, in percentage points.
- **weights**: name and sha256 of the checkpoint; *record*: `python -m benchmark leaderboard verify RECORD` runs it again.
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
    short = summary(table, footnotes)
    headers, body = rows(table, footnotes)
    blocks = [f'<a id="{table.slug}"></a>', f"## {title}", f"Protocol: {markdown.code(table.protocol)}"]
    if body:
        blocks.append(markdown.table(*short, SUMMARY_LEFT))
        blocks.append(f"![Accuracy against latency, {title}]({FIGURES}/{table.slug}.svg)")
        blocks.append("Accuracy in percent after a fixed number of timesteps:")
        blocks.append(markdown.table(*fixed_time(table, published), FIRST))
        blocks.append(f"<details><summary>Every stopping rule: {len(body)} rows</summary>")
        blocks.append(markdown.table(headers, body, LEFT))
        blocks.append("</details>")
    remarks = footnotes.lines() + _missing(table)
    if remarks:
        blocks.append("\n".join(remarks))
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
