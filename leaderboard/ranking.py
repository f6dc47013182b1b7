"""The order of policies, and ranks: a row is only placed behind rows that beat it beyond the uncertainty of both."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.records import PolicyResult

BLOCK = 512  # policies that are compared with all others at once


def ranks(policies: Sequence[PolicyResult]) -> list[int]:
    """For each policy 1 + the number of policies that beat it.

    A beats B if A is more accurate or faster beyond both 95% intervals, and in the other respect not worse beyond
    them. Two rows whose accuracy intervals and latency intervals both overlap never beat one another; neither do
    two that trade accuracy for latency.
    """
    import numpy as np

    accuracy = np.array([policy.accuracy.ci95 for policy in policies]).reshape(-1, 2)
    latency = np.array([policy.latency.ci95 for policy in policies]).reshape(-1, 2)
    result: list[int] = []
    for first in range(0, len(policies), BLOCK):
        (accuracy_low, accuracy_high), (latency_low, latency_high) = (
            bounds[first : first + BLOCK].T[:, :, None] for bounds in (accuracy, latency)
        )
        more_accurate, less_accurate = accuracy[:, 0] > accuracy_high, accuracy[:, 1] < accuracy_low
        faster, slower = latency[:, 1] < latency_low, latency[:, 0] > latency_high
        beats = (more_accurate & ~slower) | (faster & ~less_accurate)
        result += (1 + beats.sum(axis=1)).tolist()
    return result


def fastest_first(policies: Sequence[PolicyResult]) -> list[PolicyResult]:
    """By mean latency. What else they say tells equally fast ones apart, so that the order of the list does not matter."""

    def short(policy: PolicyResult) -> tuple[float, str, str]:
        return policy.latency.mean, policy.name, policy.selection

    if len({short(policy) for policy in policies}) == len(policies):
        return sorted(policies, key=short)
    return sorted(policies, key=lambda policy: (*short(policy), policy.model_dump_json()))
