"""What `early-exit` has measured: speed-ups, what they keep of the ideal, and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.bench.peer_table import spread

GOALS = {"cpu": 0.9, "cuda": 0.85}
FIXED, SHRINKING, REFILLED = "fixed time", "shrinking", "refilled"


@dataclass(frozen=True)
class Clocked:
    """What one method came to with batches of one size; seconds by way, one per repeat, `FIXED` among them."""

    method: str
    batch_size: int
    images: int
    timesteps: int
    prelude: int
    mean_exit: float
    seconds: dict[str, list[float]]

    @property
    def ideal(self) -> float:
        """How much faster early exit would be if every timestep of an image cost the same."""
        return (self.timesteps + self.prelude) / (self.mean_exit + self.prelude)

    def speedups(self, way: str) -> list[float]:
        """Repeat by repeat."""
        return [fixed / own for fixed, own in zip(self.seconds[FIXED], self.seconds[way], strict=True)]

    def row(self) -> str:
        """A row of the page's table."""
        exits = f"{self.mean_exit:.2f}" + (f" + {self.prelude}" if self.prelude else "")
        figures = [spread(self.seconds[FIXED]), f"{self.ideal:.3f}"]
        for way in (SHRINKING, REFILLED):
            speedups = self.speedups(way)
            figures += [spread(speedups), spread([value / self.ideal for value in speedups])]
        return f"| {self.method} | {self.batch_size} | {self.images} | {exits} | {' | '.join(figures)} |"


def page(cells: Sequence[Clocked], of: int, what: str, machine: Sequence[str], command: str) -> str:
    """The whole page in Markdown; `of` is the number of cells that were asked for, `what` says what was simulated."""
    lines = [
        "<!-- Written by `python -m benchmark.bench early-exit`; edits are lost. -->",
        "",
        "# Early exit on the clock",
        "",
        "Seconds for all timesteps of every image, as fast as they are to be had, against images that leave at their exits:",
        "from batches that shrink, one after the other, or from one that is refilled from the stream. Ideal is the ratio of",
        "timesteps with the prelude, which all ways pay: it is reached where a timestep of an image costs the same in whatever",
        f"company. Figures are medians of the repeats [smallest, largest]. Goal: {GOALS['cpu']} of the ideal at batch 64 on a",
        f"CPU, {GOALS['cuda']} on a GPU.",
        "",
        *(f"- {line}" for line in machine),
        f"- Simulated: {what}",
        f"- Command: `{command}`",
        "",
    ]
    if len(cells) < of:
        lines += [f"**Not finished: {len(cells)} of {of} cells.**", ""]
    columns = ["method", "batch", "images", "mean exit", "fixed time, s", "ideal"]
    columns += ["shrinking, speed-up", "of ideal", "refilled, speed-up", "of ideal"]
    lines += [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}", *(cell.row() for cell in cells)]
    return "\n".join(lines) + "\n"
