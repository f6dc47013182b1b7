"""Intervals and tests for counts of images. scipy.stats takes most of a second to import, so it waits until it is used."""

from __future__ import annotations

import math


def wilson(successes: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(successes, images).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(losers: int, winners: int) -> float:
    """Two-sided p-value of the exact McNemar test: are images lost and won equally often? 1 without discordant images."""
    from scipy.stats import binomtest

    discordant = losers + winners
    return float(binomtest(losers, discordant, 0.5).pvalue) if discordant else 1.0


def drop_upper_bound(losers: int, winners: int, images: int, confidence: float = 0.95) -> float:
    """One-sided upper bound of the accuracy drop P(lost) - P(won) on paired images.

    Tango's score interval (Statistics in Medicine 17, 1998, 891-908). Unlike the normal interval it does not collapse to
    zero where no image changed its answer.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z = float(ndtri(confidence))

    def excess(drop: float) -> float:
        b = 2 * images
        middle = -losers - winners + (2 * images - losers + winners) * drop
        last = -winners * drop * (1 - drop)
        lost_back = (math.sqrt(max(middle * middle - 4 * b * last, 0.0)) - middle) / (2 * b)
        variance = images * (2 * lost_back + drop * (1 - drop))
        return (losers - winners - images * drop) / math.sqrt(variance) + z

    estimate = (losers - winners) / images
    low, high = estimate + 1e-9, 1 - 1e-9
    if low >= high or excess(high) > 0:
        return 1.0
    return float(brentq(excess, low, high, xtol=1e-12))
