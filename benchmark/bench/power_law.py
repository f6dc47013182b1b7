"""How cost grows: the exponent of seconds over size, and the slope of memory over size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar, nnls
from scipy.stats import linregress

LARGEST = 4.0  # exponent that is looked for
COARSE = 81


@dataclass(frozen=True)
class PowerLaw:
    """seconds = constant + factor * size ** exponent."""

    constant: float
    factor: float
    exponent: float


def power_law(sizes: Sequence[float], seconds: Sequence[float]) -> PowerLaw:
    """The law of the least sum of squared relative errors, with constant and factor not negative, exponent from 0 to 4.

    All three numbers are fitted, so a constant part of the cost does not make the exponent small, as it does in
    `log_slope`. For every exponent the best constant and factor are those of a linear problem (`scipy.optimize.nnls`); what is
    left is a search over the exponent alone, coarse first, because it has more than one valley where the constant is near zero.

    Args:
        sizes: positive, at least three different ones.
        seconds: positive, one for each.

    Raises:
        ValueError: there are fewer different sizes than numbers to be fitted.
    """
    if len(set(sizes)) < 3:
        raise ValueError(f"three numbers are fitted, which takes three different sizes, not {sorted(set(sizes))}")
    x, y = numpy.asarray(sizes, dtype=float), numpy.asarray(seconds, dtype=float)
    largest = x.max()

    def solved(exponent: float) -> tuple[NDArray[numpy.float64], float]:
        columns = numpy.stack([numpy.ones_like(x), (x / largest) ** exponent], 1)
        weights, error = nnls(columns / y[:, None], numpy.ones_like(y))
        return weights, float(error)

    grid = numpy.linspace(0, LARGEST, COARSE)
    near = float(min(grid, key=lambda exponent: solved(exponent)[1]))
    step = float(grid[1])
    bounds = (max(0.0, near - step), min(LARGEST, near + step))
    exponent = float(
        minimize_scalar(lambda each: solved(each)[1], bounds=bounds, method="bounded", options={"xatol": 1e-9}).x
    )
    (constant, factor), _ = solved(exponent)
    return PowerLaw(float(constant), float(factor / largest**exponent), exponent)


def log_slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the least-squares line of log seconds over log size: the exponent if there were no constant part."""
    return float(linregress(numpy.log(sizes), numpy.log(seconds)).slope)


def line_slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line of values over sizes, in values per unit of size."""
    return float(linregress(sizes, values).slope)
