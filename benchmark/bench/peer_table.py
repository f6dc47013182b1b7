"""What `peers` has measured: ratios, verdicts, and the page that shows them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.bench.contestants import RECORDING, Contestant, Side
from benchmark.bench.source_network import Model

GOALS = {"cpu": 1.08, "cuda": 1.25}
# On a GPU, against the loop of the reference demo.
REFERENCE_GOAL = 100


@dataclass(frozen=True)
class Row:
    """One contestant in one cell.

    Attributes:
        contestant: who.
        agreement: how its logits compare with ours, in words; or why it does not take part.
        agrees: whether it computes what ours does; None for the floor, which has no spikes.
        seconds: one per repeat, in the order in which all contestants took their turns; empty: did not take part.
        memory: peak in MiB above the process before it ran; None: not measured.
    """

    contestant: Contestant
    agreement: str
    agrees: bool | None = None
    seconds: tuple[float, ...] = ()
    memory: float | None = None


@dataclass(frozen=True)
class Cell:
    """All contestants on one network, batch size and number of timesteps; seconds are those of so many `images`.

    `place` is the type of the device, `cpu` or `cuda`, which has its own goal.
    """

    model: Model
    batch_size: int
    timesteps: int
    rows: tuple[Row, ...]
    images: int
    place: str = "cpu"

    @property
    def title(self) -> str:
        """What was simulated, in words."""
        return f"{self.model.name}, {self.model.pixels} px, batch {self.batch_size}, T = {self.timesteps}"

    @property
    def floor(self) -> Row | None:
        """The faster one of the forward passes; None if none could be measured."""
        floors = [row for row in self.rows if row.contestant.side is Side.FLOOR and row.seconds]
        return min(floors, key=lambda row: statistics.median(row.seconds), default=None)

    @property
    def recording(self) -> Row:
        """Ours, with all that a recording needs."""
        return next(row for row in self.rows if row.contestant is RECORDING)

    @property
    def overhead(self) -> list[float]:
        """Seconds of a recording in units of the floor's, repeat by repeat; empty if one of them could not be measured."""
        return ratios(self.recording, self.floor)

    @property
    def peers(self) -> list[Row]:
        """The other simulators that took part and compute the same."""
        others = (Side.PEER, Side.REFERENCE)
        measured = [row for row in self.rows if row.seconds and self.recording.seconds]
        return [row for row in measured if row.contestant.side in others and row.agrees]

    @property
    def ahead_of_us(self) -> list[Row]:
        """The peers that were faster than our recording."""
        return [row for row in self.peers if statistics.median(ratios(row, self.recording)) <= 1]

    @property
    def goal(self) -> str:
        """Whether the median overhead is within the goal, in words."""
        if not self.overhead:
            return "not measured"
        return "met" if statistics.median(self.overhead) <= self.limit else "missed"

    @property
    def limit(self) -> float:
        """The overhead that is the goal."""
        return GOALS[self.place]

    @property
    def rate(self) -> float:
        """Images x timesteps per second of a recording, the median; not to be asked for where it was not measured."""
        return self.images * self.timesteps / statistics.median(self.recording.seconds)

    @property
    def reference_rate(self) -> float | None:
        """The same of the reference demo's loop; None where it was not measured."""
        for row in self.rows:
            if row.contestant.side is Side.REFERENCE and row.seconds and row.agrees:
                return self.images * self.timesteps / statistics.median(row.seconds)
        return None

    def verdicts(self) -> list[str]:
        """One line for each goal."""
        faster = [
            f"{row.contestant.name} (its time / recording {spread(ratios(row, self.recording))})"
            for row in self.ahead_of_us
        ]
        if faster:
            answer = f"no, not of {', '.join(faster)}"
        else:
            answer = "yes" if self.peers else "there is none here"
        return [
            f"recording / floor <= {self.limit} (goal): {spread(self.overhead)}, {self.goal}",
            f"ahead of every peer: {answer}",
        ]

    def table(self) -> list[str]:
        """A Markdown table with a row for each contestant, in lines."""
        lines = [
            "| | images x timesteps/s | time / floor | time / recording | peak memory, MiB | logits against ours |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
        ]
        for row in self.rows:
            rates = [self.images * self.timesteps / seconds for seconds in row.seconds]
            figures = [spread(values) for values in (rates, ratios(row, self.floor), ratios(row, self.recording))]
            memory = "-" if row.memory is None else f"{row.memory:.1f}"
            lines.append(f"| {' | '.join([row.contestant.name, *figures, memory, row.agreement])} |")
        return lines


def ratios(row: Row, base: Row | None) -> list[float]:
    """Seconds of one in units of the other's, repeat by repeat; empty if one of them could not be measured."""
    if base is None or not base.seconds or not row.seconds:
        return []
    return [own / other for own, other in zip(row.seconds, base.seconds, strict=True)]


def spread(values: Sequence[float]) -> str:
    """Median [smallest, largest], with three decimals where numbers are small; a dash for none."""
    if not values:
        return "-"
    median = statistics.median(values)
    digits = 3 if median < 10 else 1 if median < 1000 else 0
    return f"{median:.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def times_reference(cell: Cell, cells: Sequence[Cell]) -> float | None:
    """How often faster a recording is than the reference demo's loop on the same network, whose batch is one image."""
    alike = (each.reference_rate for each in cells if (each.model, each.timesteps) == (cell.model, cell.timesteps))
    loop = next((rate for rate in alike if rate is not None), None)
    return None if loop is None or not cell.recording.seconds else cell.rate / loop


def page(
    cells: Sequence[Cell], of: int, machine: Sequence[str], command: str, images: int, precision: str = "fp32"
) -> str:
    """The whole page in Markdown.

    Args:
        cells: those that are measured.
        of: number of cells that were asked for.
        machine: what measured them, in lines.
        command: the command that was given.
        images: the least number of images of a run.
        precision: of all contestants, as in `run`.
    """
    lines = [
        "<!-- Written by `python -m benchmark.bench peers`; edits are lost. -->",
        "",
        "# Speed and memory beside the floor and the peers",
        "",
        "One run on one machine; figures of different runs do not compare, their ratios may. Each figure is the median of",
        "the repeats [smallest, largest], the contestants taking turns; a ratio is taken within each repeat. All have the",
        f"same weights (QCFS, 4 levels, random), images, threads, and no gradient, in {precision}. Memory is what a run adds",
        "at its peak to a process of its own that has its network and images, where freed tensors go back to the system at",
        "once. Logits are compared in float64 after all timesteps; who does not give ours is no peer. Each run takes",
        f"{images} images, or one batch if that is more; small batches follow one after the other into the same recording.",
        "",
        *(f"- {line}" for line in machine),
        f"- Command: `{command}`",
        "",
    ]
    if len(cells) < of:
        lines += [f"**Not finished: {len(cells)} of {of} cells.**", ""]
    lines += [
        "| | recording / floor | goal | ahead of every peer | times as fast as the reference loop |",
        "| --- | ---: | --- | --- | ---: |",
    ]
    for cell in cells:
        faster = ", ".join(row.contestant.name for row in cell.ahead_of_us)
        ahead = f"no: {faster}" if faster else "yes" if cell.peers else "-"
        times = times_reference(cell, cells)
        columns = [cell.title, spread(cell.overhead), f"{cell.goal} (<= {cell.limit})", ahead]
        columns.append("-" if times is None else f"{times:.1f}{_by_goal(cell, times)}")
        lines.append(f"| {' | '.join(columns)} |")
    for cell in cells:
        lines += ["", f"## {cell.title}", "", *cell.table(), "", *(f"- {verdict}" for verdict in cell.verdicts())]
    present = {row.contestant.name: row.contestant.words for cell in cells for row in cell.rows}
    lines += ["", "## The contestants", "", *(f"- {name}: {words}." for name, words in present.items())]
    return "\n".join(lines) + "\n"


def _by_goal(cell: Cell, times: float) -> str:
    if cell.place != "cuda":
        return ""
    return f", {'met' if times >= REFERENCE_GOAL else 'missed'} (>= {REFERENCE_GOAL})"
