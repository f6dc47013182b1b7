"""Seconds on the clock of tasks that take turns, because machines are noisy."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmark.measuring import clock


def interleaved(tasks: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each task, the tasks taking turns so that a machine that drifts slows them all; one round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(repeats + 1):
        for name, task in tasks.items():
            start = clock(device)
            task()
            if round_number:
                seconds[name].append(clock(device) - start)
    return seconds
