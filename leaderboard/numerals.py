"""Numbers as people read them. The records keep full floats; rounding happens here and nowhere else.

Halves are rounded up from the decimal digits that the record file shows, so that a reader who rounds by hand agrees.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

COUNT_UNITS = ("", " k", " M", " G", " T")
ENERGY_UNITS = (" pJ", " nJ", " µJ", " mJ", " J")


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


def _decimal(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def _quantized(value: Decimal, digits: int) -> str:
    short = value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{abs(short) if short.is_zero() else short:f}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    exact = _decimal(value)
    if exact.is_zero():
        return f"0{units[0]}"
    # Round before the unit is chosen: 999,960 is 1.00 M, never 1000 k.
    short = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), ROUND_HALF_UP)
    unit = min(max(short.adjusted() // 3, 0), len(units) - 1)
    scaled = short.scaleb(-3 * unit)
    return f"{scaled:.{max(2 - scaled.adjusted(), 0)}f}{units[unit]}"
