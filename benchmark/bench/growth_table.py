"""What `growth` has measured: exponents, slopes, and the page that shows them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmark.bench.peer_table import spread
from benchmark.bench.power_law import PowerLaw, line_slope, log_slope, power_law

KIBI = 1024


@dataclass(frozen=True)
class Memory:
    """Peaks in MiB above the process before it ran, one per size; None: not measured."""

    written: tuple[float | None, ...]
    read_back: tuple[float | None, ...]


@dataclass(frozen=True)
class Series:
    """One thing at several sizes.

    Attributes:
        name: what was done, in words.
        unit: what is counted: timestep, image or class.
        sizes: ascending, at least three.
        seconds: for each size one per repeat, in the order in which all sizes took their turns.
        memory: if it was measured.
        own: what grows by its nature, in words.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    memory: Memory | None = None
    own: str = ""

    @property
    def units(self) -> str:
        """The unit's plural."""
        return f"{self.unit}es" if self.unit.endswith("s") else f"{self.unit}s"

    @property
    def grows(self) -> bool:
        """Whether the seconds at least double from the smallest to the largest; if not, noise decides on the exponent."""
        return statistics.median(self.seconds[-1]) >= 2 * statistics.median(self.seconds[0])

    @cached_property
    def laws(self) -> list[PowerLaw]:
        """a + c x^b of each repeat; empty where the seconds hardly grow."""
        if not self.grows:
            return []
        return [power_law(self.sizes, repeat) for repeat in zip(*self.seconds, strict=True)]

    @property
    def log_slopes(self) -> list[float]:
        """Slope of log seconds over log size of each repeat."""
        return [log_slope(self.sizes, repeat) for repeat in zip(*self.seconds, strict=True)]

    @property
    def exponent(self) -> str:
        """b, median [smallest, largest] of the repeats."""
        return spread([law.exponent for law in self.laws]) if self.laws else "- (hardly grows)"

    def slopes(self) -> list[str]:
        """KiB per unit of size of both peaks; dashes where they were not measured."""
        if self.memory is None:
            return ["-", "-"]
        return [self._slope(peaks) for peaks in (self.memory.written, self.memory.read_back)]

    def _slope(self, peaks: Sequence[float | None]) -> str:
        known = [peak for peak in peaks if peak is not None]
        return "-" if len(known) < len(peaks) else f"{line_slope(self.sizes, known) * KIBI:.2f}"

    def summary(self) -> str:
        """A row of the table on top."""
        figures = [self.name, self.unit, self.exponent, spread(self.log_slopes), *self.slopes()]
        return f"| {' | '.join(figures)} |"

    def table(self) -> list[str]:
        """A Markdown table with a row for each size, in lines."""
        heads = [self.units, "seconds"]
        columns = [list(map(str, self.sizes)), list(map(_fine, self.seconds))]
        if self.memory is not None:
            heads += ["peak memory, written, MiB", "peak memory, read back, MiB"]
            for peaks in (self.memory.written, self.memory.read_back):
                columns.append(["-" if peak is None else f"{peak:.2f}" for peak in peaks])
        rows = [heads, ["---:"] * len(heads), *zip(*columns, strict=True)]
        return [f"| {' | '.join(row)} |" for row in rows]

    def remarks(self) -> list[str]:
        """The fitted law, and what grows by its nature."""
        constant = [law.constant for law in self.laws]
        law = [f"seconds = a + c x^b: b {self.exponent}, a {_fine(constant)} s"] if self.laws else []
        return [*law, self.own] if self.own else law


def _fine(seconds: Sequence[float]) -> str:
    """Median [smallest, largest] of seconds, which may be a thousandth."""
    return f"{statistics.median(seconds):.4f} [{min(seconds):.4f}, {max(seconds):.4f}]"


SUMMARY = (
    "| | per | exponent b | log-log slope | KiB per unit, written | KiB per unit, read back |",
    "| --- | --- | ---: | ---: | ---: | ---: |",
)


def page(series: Sequence[Series], of: int, machine: Sequence[str], command: str) -> str:
    """The whole page in Markdown; `of` is the number of series that were asked for, `machine` says what measured them."""
    lines = [
        "<!-- Written by `python -m benchmark.bench growth`; edits are lost. -->",
        "",
        "# How cost grows with timesteps, images and classes",
        "",
        "Seconds are the median of the repeats [smallest, largest], the sizes taking turns. In each repeat seconds = a + c x^b",
        "is fitted, all three numbers, by least squares of the relative error with a and c not negative; b is the exponent, 1",
        "being linear. The log-log slope is the exponent if there were no constant part a, and too small where there is one.",
        "Where seconds do not double over the range there is no exponent to fit.",
        "",
        "Memory is what a recording adds at its peak to a process of its own that has its network and images, where freed",
        "tensors go back to the system at once. *Written*: all shards simulated and written (`record_shards`), which is what",
        "must not grow with images. *Read back*: `record`, whose result, the recording, is in memory in the end and grows with",
        "images x timesteps. Slopes are those of the least-squares line. Shards have as many images as a batch.",
        "",
        *(f"- {line}" for line in machine),
        f"- Command: `{command}`",
        "",
    ]
    if len(series) < of:
        lines += [f"**Not finished: {len(series)} of {of} series.**", ""]
    lines += [*SUMMARY, *(each.summary() for each in series)]
    for each in series:
        lines += ["", f"## {each.name}, by {each.units}", "", *each.table()]
        if each.remarks():
            lines += ["", *(f"- {remark}" for remark in each.remarks())]
    return "\n".join(lines) + "\n"
