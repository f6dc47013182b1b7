"""Seconds on the clock of tasks that take turns, because machines are noisy."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmark.measuring import clock


def interleaved(
    tasks: dict[str, Callable[[], None]],
    repeats: int,
    device: torch.device,
    warm_up: dict[str, Callable[[], None]] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each task, the tasks taking turns so that a machine that drifts slows them all.

    A round of `warm_up`, which is a round of the tasks themselves if not given, comes first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in (tasks if warm_up is None else warm_up).values():
        task()
    for _ in range(repeats):
        for name, task in tasks.items():
            start = clock(device)
            task()
            seconds[name].append(clock(device) - start)
    return seconds
