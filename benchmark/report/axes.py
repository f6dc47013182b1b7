"""Axes: where a value lies between the ends of a panel, and which ticks are shown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, linear or logarithmic; `ticks` are the values that get a label."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end."""
        if self.logarithmic:
            value, low, high = (math.log2(max(each, 1e-12)) for each in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)


def linear(low: float, high: float, about: int = 5) -> Axis:
    """A linear axis from exactly `low` to `high` with about that many round ticks."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    step = round_step((high - low) / about)
    first = math.ceil(low / step - 1e-9)
    # Multiplied rather than summed, so that ticks do not drift.
    found = (number * step for number in range(first, math.floor(high / step + 1e-9) + 1))
    return Axis(low, high, tuple(float(f"{tick:.10g}") for tick in found))


def from_zero(values: Iterable[float], about: int = 5) -> Axis:
    """A linear axis from 0 to a little above the largest value."""
    largest = max([value for value in values if math.isfinite(value)], default=0.0)
    return linear(0.0, 1.06 * largest if largest > 0 else 1.0, about)


def latency_axis(values: Iterable[float]) -> Axis:
    """Timesteps: by powers of two where they span two of them or more, else linear."""
    values = list(values)
    # No answer comes before the first timestep, and a logarithm needs a positive number.
    low, high = max(min(values), 1.0), max(*values, 1.0)
    if high < 4 * low:
        margin = 0.04 * max(high - low, 1.0)
        return linear(low - margin, high + margin)
    powers = [2.0**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
    ticks = [power for power in powers if low / 1.16 <= power <= high * 1.16]
    return Axis(low / 1.15, high * 1.15, tuple(ticks), logarithmic=True)


def step_axis(timesteps: int) -> Axis:
    """Whole timesteps from 1 on, each with half a step of room on both sides."""
    about = max(1, round_step(timesteps / 8)) if timesteps > 8 else 1
    ticks = sorted({1, *range(int(about), timesteps + 1, int(about))})
    if about > 1 and timesteps - ticks[-1] >= about / 2:
        ticks.append(timesteps)
    return Axis(0.5, timesteps + 0.5, tuple(map(float, ticks)))


def round_step(rough: float) -> float:
    """The next 1, 2 or 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def milestones(timesteps: int, at_most: int = 6) -> list[int]:
    """Powers of two up to T, and T; the later ones if there are more than `at_most`, but always the first."""
    found = [1 << power for power in range(timesteps.bit_length())]
    if found[-1] != timesteps:
        found.append(timesteps)
    return found if len(found) <= at_most else [found[0], *found[-(at_most - 1) :]]
