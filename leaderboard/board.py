"""The leaderboard as a value: what the package offers to others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.records import ResultRecord
from leaderboard.chart import Chart, chart
from leaderboard.export import export
from leaderboard.page import page
from leaderboard.publication import differences, publish, write_atomic
from leaderboard.published import Published, load_published
from leaderboard.site.document import document
from leaderboard.table import Table, tables


@dataclass(frozen=True)
class Leaderboard:
    """Tables of comparable records, the record files that could not be read, where the page finds training records, and what
    others have published.

    Build it with `from_records`; the same records in any order give an equal leaderboard and the same page.
    """

    tables: tuple[Table, ...]
    problems: tuple[str, ...]
    trainings: Mapping[str, str] = field(default_factory=dict)
    published: tuple[Published, ...] = ()

    @classmethod
    def from_records(
        cls,
        records: Iterable[ResultRecord],
        problems: Sequence[str] = (),
        trainings: Mapping[str, str] | None = None,
        published: Sequence[Published] | None = None,
    ) -> Leaderboard:
        """Group records by dataset, protocol and model.

        Args:
            records: to show.
            problems: one line per unreadable record file.
            trainings: id of a training record -> its file as a link from the page. Others are named without a link.
            published: figures of others; by default those of `published.toml`.
        """
        known = load_published() if published is None else published
        return cls(tables(records), tuple(sorted(set(problems))), dict(trainings or {}), tuple(known))

    def render(self) -> str:
        """The Markdown page. Depends on the records (and links) alone; figures are linked as `figures/<slug>.svg`."""
        return page(self.tables, self.problems, self.trainings, self.published)

    def write(self, output: Path) -> list[Path]:
        """Write the page to `output` and its figures to `figures/` beside it; return the files written, the page first.

        Figures that are current already are left alone; figures of tables that are gone are removed.
        Raises OSError if the folder cannot be written.
        """
        return publish(self.render(), self._charts(), output)

    def export(self, path: Path) -> None:
        """Write every figure to a file that ends with .csv, .json, .parquet or .tex, or the papers to one with .bib.

        Raises ValueError for another name, OSError if it cannot be written.
        """
        export(self.tables, path, self.published)

    def write_html(self, path: Path, reports: Mapping[str, str] | None = None) -> None:
        """Write the page for people, one HTML file that needs nothing else, whole or not at all.

        Args:
            path: the file.
            reports: id of a record -> its report or file as a link from the page. Others are named without a link.

        Raises OSError if it cannot be written.
        """
        text = document(self.tables, self.problems, self.published, dict(reports or {}))
        write_atomic(path, text.encode())

    def check(self, output: Path) -> list[str]:
        """How the page at `output` and its figures differ from the records, in words; empty if they are current.

        Figures are compared by the data they were drawn from, because their bytes depend on the version of matplotlib.
        """
        return differences(self.render(), self._charts(), output)

    def _charts(self) -> dict[str, Chart]:
        return {table.slug: chart(table) for table in self.tables if table.records}
