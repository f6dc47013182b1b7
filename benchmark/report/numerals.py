"""Numbers as people read them. Halves are rounded up from the decimal digits that the record file shows."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

from benchmark.report.markup import Markup, element

COUNT_UNITS = ("", " k", " M", " G", " T")
ENERGY_UNITS = (" pJ", " nJ", " µJ", " mJ", " J")
NONE = "-"


def rounded(value: float, digits: int = 2) -> str:
    """A value with exactly `digits` decimals, and no sign on a zero."""
    return _quantized(_decimal(value), digits)


def percent(share: float, digits: int = 2) -> str:
    """A share (0..1) as a number of percent, without the sign."""
    return _quantized(_decimal(share).scaleb(2), digits)


def timesteps(value: float) -> str:
    """A whole number of timesteps without decimals, any other with two."""
    return str(int(value)) if float(value).is_integer() else rounded(value)


def count(value: float) -> str:
    """Events per image with three significant digits: `12.3 k`, `1.23 M`."""
    return _scaled(value, COUNT_UNITS)


def energy(picojoules: float) -> str:
    """An energy in picojoules with three significant digits: `1.23 µJ`."""
    return _scaled(picojoules, ENERGY_UNITS)


def significant(value: float, digits: int = 3) -> str:
    """A value with some significant digits, for p-values and parameters."""
    return f"{value:.{digits}g}"


def exact(value: float | None, shown: str) -> Markup:
    """A rounded number that carries the full one in `<data value>`; a dash for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Markup(NONE)
    return element("data", shown, value=repr(value))


def share(value: float | None, digits: int = 2) -> Markup:
    """`exact` of a share in percent, with the sign."""
    return exact(value, "" if value is None or math.isnan(value) else f"{percent(value, digits)}%")


def fixed(value: float | None, digits: int = 2) -> Markup:
    """`exact` of a number with fixed decimals."""
    return exact(value, "" if value is None or math.isnan(value) else rounded(value, digits))


def _decimal(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def _quantized(value: Decimal, digits: int) -> str:
    short = value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{abs(short) if short.is_zero() else short:f}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    found = _decimal(value)
    if found.is_zero():
        return f"0{units[0]}"
    # Round before the unit is chosen: 999,960 is 1.00 M, never 1000 k.
    short = found.quantize(Decimal(1).scaleb(found.adjusted() - 2), ROUND_HALF_UP)
    unit = min(max(short.adjusted() // 3, 0), len(units) - 1)
    scaled = short.scaleb(-3 * unit)
    return f"{scaled:.{max(2 - scaled.adjusted(), 0)}f}{units[unit]}"
