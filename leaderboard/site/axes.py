"""Axes of the chart as it stands before a script runs; page.js has the same rules, and a test holds both to them."""

from __future__ import annotations

import math
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
            value, low, high = (math.log2(each) for each in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)


def accuracy_axis(low: float, high: float) -> Axis:
    """Shares around `low`..`high` with a margin, with about five round ticks of a percentage."""
    margin = max(0.06 * (high - low), 0.002)
    low, high = low - margin, high + margin
    return Axis(low, high, tuple(tick / 100 for tick in linear_ticks(100 * low, 100 * high)))


def latency_axis(low: float, high: float) -> Axis:
    """Timesteps on a logarithmic axis, by powers of two where they span two of them or more."""
    low, high = low / 1.08, high * 1.08
    if high < 4 * low:
        return Axis(low, high, linear_ticks(low, high), logarithmic=True)
    powers = range(math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9) + 1)
    return Axis(low, high, tuple(2.0**power for power in powers), logarithmic=True)


def linear_ticks(low: float, high: float, about: int = 5) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    # Multiplied rather than summed, so that ticks do not drift.
    return tuple(float(f"{number * step:.10g}") for number in numbers)
