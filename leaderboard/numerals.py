"""Numbers as people read them. The records keep full floats; rounding happens here and nowhere else.

Halves are rounded up from the decimal digits that the record file shows, so that a reader who rounds by hand agrees.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

# Decimals are exact and slow; only near a tie they are needed.
NEAR_TIE = 1e-6
LARGE = 1e9
POWERS = (1.0, 10.0, 100.0)
EXACT = 20
COUNT_UNITS = ("", " k", " M", " G", " T")
ENERGY_UNITS = (" pJ", " nJ", " µJ", " mJ", " J")


def rounded(value: float, digits: int = 2) -> str:
    """A value with exactly `digits` decimals, and no sign on a zero."""
    return _fixed(value, value, digits, 0)


def percent(share: float, digits: int = 2) -> str:
    """A share (0..1) as a number of percent, without the sign."""
    return _fixed(share, share * 100, digits, 2)


def timesteps(value: float) -> str:
    """A whole number of timesteps without decimals, any other with two."""
    return str(int(value)) if float(value).is_integer() else rounded(value)


def count(value: float) -> str:
    """Events per image with three significant digits: `12.3 k`, `1.23 M`."""
    return _scaled(value, COUNT_UNITS)


def energy(picojoules: float) -> str:
    """An energy in picojoules with three significant digits: `1.23 µJ`."""
    return _scaled(picojoules, ENERGY_UNITS)


def _fixed(value: float, shown: float, digits: int, shift: int) -> str:
    """`value` x 10^shift with `digits` decimals; `shown` is that product as a float, good enough away from a tie."""
    if not _may_be_tie(shown * POWERS[digits]):
        text = f"{shown:.{digits}f}"
        return text[1:] if text[0] == "-" and not text.strip("-0.") else text
    exact = _decimal(value).scaleb(shift).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{abs(exact) if exact.is_zero() else exact:f}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    if not value:
        return f"0{units[0]}"
    exponent = math.floor(math.log10(abs(value)))
    # Outside, ten to the power of the exponent is zero, or no float.
    leading = value / 10.0 ** (exponent - 2) if -EXACT < exponent < EXACT else math.nan
    if value > 0 and not _may_be_tie(leading):
        # Round before the unit is chosen: 999,960 is 1.00 M, never 1000 k.
        digits, first = math.floor(leading + 0.5), exponent
        exponent += digits >= 1000
        unit = min(max(exponent // 3, 0), len(units) - 1)
        shown = digits * 10.0 ** (first - 2 - 3 * unit)
        return f"{shown:.{max(2 - exponent + 3 * unit, 0)}f}{units[unit]}"
    exact = _decimal(value)
    short = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), ROUND_HALF_UP)
    unit = min(max(short.adjusted() // 3, 0), len(units) - 1)
    scaled = short.scaleb(-3 * unit)
    return f"{scaled:.{max(2 - scaled.adjusted(), 0)}f}{units[unit]}"


def _may_be_tie(value: float) -> bool:
    """Whether decimal digits decide which way `value` is rounded to a whole number, or it is too large for floats to tell."""
    return not (-LARGE < value < LARGE) or -NEAR_TIE < value % 1.0 - 0.5 < NEAR_TIE


def _decimal(value: float) -> Decimal:
    return Decimal(repr(float(value)))
