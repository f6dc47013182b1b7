"""The columns of numbers: how each is headed, what it shows, and the full value that it is sorted by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leaderboard import numerals
from leaderboard.site.entries import Entry

ABSENT = "—"
SAVED = "saved"


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, with a smaller note below; `value` is None where there is nothing to sort by."""

    value: float | None
    text: str
    note: str = ""


NOTHING = Cell(None, ABSENT)


@dataclass(frozen=True)
class Column:
    """A column; `descending` where more is better, which is then the first order that a click gives."""

    key: str
    title: str
    note: str
    cell: Callable[[Entry], Cell]
    descending: bool = False

    @property
    def label(self) -> str:
        """What names the cell where no heading stands above it."""
        return f"{self.title} {self.note}" if self.title == SAVED else self.title


def _accuracy(entry: Entry) -> Cell:
    accuracy = entry.shown.accuracy
    low, high = accuracy.ci95
    return Cell(
        accuracy.value, numerals.percent(accuracy.value), f"[{numerals.percent(low)}, {numerals.percent(high)}]"
    )


def _latency(entry: Entry) -> Cell:
    if not entry.policy:
        return Cell(entry.static.latency, numerals.timesteps(entry.static.latency))
    latency = entry.policy.latency
    low, high = latency.ci95
    return Cell(latency.mean, numerals.rounded(latency.mean), f"[{numerals.rounded(low)}, {numerals.rounded(high)}]")


def _against_fixed(entry: Entry) -> Cell:
    if not entry.policy:
        return NOTHING
    equal = entry.policy.equal_fixed
    if equal.timesteps is None or equal.saving_latency is None:
        return Cell(None, ABSENT, "no T as accurate")
    return Cell(equal.saving_latency, f"{numerals.percent(equal.saving_latency, 1)}%", f"T={equal.timesteps}")


def _saved(entry: Entry) -> Cell:
    if not entry.policy:
        return NOTHING
    saving = entry.policy.saving.latency
    return Cell(saving, f"{numerals.percent(saving, 1)}%")


def _gap(entry: Entry) -> Cell:
    if not entry.policy or entry.policy.gap_closed is None:
        return NOTHING
    return Cell(entry.policy.gap_closed, f"{numerals.percent(entry.policy.gap_closed, 0)}%")


def _drop(entry: Entry) -> Cell:
    policy = entry.policy
    if not policy:
        return NOTHING
    exchanged = f"{policy.losers} lost, {policy.winners} won"
    return Cell(policy.drop_upper95, numerals.percent(policy.drop_upper95), exchanged)


def _rank(entry: Entry) -> Cell:
    return NOTHING if entry.rank is None else Cell(entry.rank, str(entry.rank))


def _scaled(value: float | None, words: Callable[[float], str]) -> Cell:
    return NOTHING if value is None else Cell(value, words(value))


RANK = Column("rank", "rank", "", _rank)
NUMBERS = (
    Column("accuracy", "accuracy %", "95% interval", _accuracy, descending=True),
    Column("latency", "latency", "timesteps, 95% interval", _latency),
    Column("equal", SAVED, "vs equal fixed T", _against_fixed, descending=True),
    Column("saved", SAVED, "vs all T", _saved, descending=True),
    Column("spikes", "spikes", "per image", lambda entry: _scaled(entry.shown.spikes_per_image, numerals.count)),
    Column("synops", "SynOps", "per image", lambda entry: _scaled(entry.shown.synops_per_image, numerals.count)),
    Column("energy", "energy", "INT8", lambda entry: _scaled(entry.energy, numerals.energy)),
    Column("gap", "gap closed", "", _gap, descending=True),
    Column("drop", "drop at most", "points, 95%", _drop),
)
