"""Ranks from two intervals: a row is only placed behind rows that beat it beyond the uncertainty of both."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.records import PolicyResult


def ranks(policies: Sequence[PolicyResult]) -> list[int]:
    """For each policy 1 + the number of policies that beat it.

    A beats B if A is more accurate or faster beyond both 95% intervals, and in the other respect not worse beyond
    them. Two rows whose accuracy intervals and latency intervals both overlap never beat one another; neither do
    two that trade accuracy for latency.
    """
    import numpy as np

    accuracy = np.array([policy.accuracy.ci95 for policy in policies]).reshape(-1, 2)
    latency = np.array([policy.latency.ci95 for policy in policies]).reshape(-1, 2)
    result = []
    for (accuracy_low, accuracy_high), (latency_low, latency_high) in zip(accuracy, latency, strict=True):
        more_accurate, less_accurate = accuracy[:, 0] > accuracy_high, accuracy[:, 1] < accuracy_low
        faster, slower = latency[:, 1] < latency_low, latency[:, 0] > latency_high
        beats = (more_accurate & ~slower) | (faster & ~less_accurate)
        result.append(1 + int(beats.sum()))
    return result
