"""How often do rules that choose a threshold break their word? Calibration draws from a recording taken as the population.

A demonstration, not a way to choose anything: it looks at the risk on the population itself, which no one with calibration
images alone can see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconf.choosing import crc_choice, lowest_within, ltt_choice, pareto_choice
from dynconf.intervals import wilson
from dynconf.rechoosing import draws as draws_of
from dynconf.rechoosing import resampled_sweeps
from dynconf.recording import Recording
from dynconf.sweep import Sweep, sweep_thresholds
from dynconf.threshold import CONFIDENCE_THRESHOLDS

COARSE = 12


@dataclass(frozen=True)
class Violations:
    """What came of choosing a threshold again and again by one rule from one grid.

    Attributes:
        rule: `naive`, `plug-in`, `pareto`, `ltt` or `crc`.
        grid: name of the grid; `thresholds` is their number.
        images: calibration images of each draw, of which there were `draws`.
        epsilon: the risk that was to be kept: the share of images that are right after all timesteps and wrong at their exit.
        rate: share of draws whose threshold has a larger risk on the population, with its Wilson 95% interval `rate_ci95`.
        risk: mean risk of the chosen thresholds on the population.
        timesteps: their mean timesteps there, prelude not counted.
    """

    rule: str
    grid: str
    thresholds: int
    images: int
    draws: int
    epsilon: float
    rate: float
    rate_ci95: tuple[float, float]
    risk: float
    timesteps: float


def naive_choice(sweep: Sweep) -> int:
    """The fastest threshold of the whole grid that loses no accuracy on the calibration images.

    What is done where a curve is drawn on calibration images and the best-looking point taken. It has no promise: among many
    thresholds some look good by luck. Compare `dynconf.choosing.pareto_choice`.
    """
    good = sweep.accuracy >= sweep.accuracy[-1] - 1e-12
    return int(torch.nonzero(good)[0])


def violations(
    population: Recording,
    scores: Tensor,
    *,
    images: int,
    epsilon: float,
    delta: float = 0.05,
    grids: Mapping[str, Tensor] | None = None,
    rules: Sequence[str] = ("naive", "plug-in", "pareto", "ltt", "crc"),
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Violations, ...]:
    """Draw calibration images with replacement, choose a threshold by every rule, and compare with the population.

    Args:
        population: N images that are taken to be all there are.
        scores: of a stopping rule on them, [N, T], larger is surer: `policy.scores(population)`, with nothing in it that was
            learned from these images, or the promise of `ltt` is void.
        images: calibration images of each draw.
        epsilon, delta: of `ltt`; `plug-in` and `crc` take `epsilon` alone, and `naive` and `pareto` neither.
        grids: ascending thresholds by name. By default `fine`, the grid for confidences, and `coarse`, 12 thresholds of it.
        rules: which of `naive` (see `naive_choice`), `plug-in` (the share lost among the calibration images taken for that of
            all, without a test), `pareto`, `ltt` and `crc` (see `dynconf.choosing`).
        draws: how many; all rules and grids see the same ones.
        seed: of the draws.

    Raises:
        ValueError: no images are to be drawn, or a rule is not known.
    """
    if images < 1 or draws < 1:
        raise ValueError(f"there must be at least one image and one draw, got {images} and {draws}")
    known: dict[str, Callable[[Sweep], int]] = {
        "naive": naive_choice,
        "plug-in": lambda sweep: lowest_within(sweep, epsilon),
        "pareto": lambda sweep: pareto_choice(sweep, 0.0),
        "ltt": lambda sweep: ltt_choice(sweep, images, epsilon, delta),
        "crc": lambda sweep: crc_choice(sweep, images, epsilon),
    }
    for rule in rules:
        if rule not in known:
            raise ValueError(f"no rule {rule!r}; there is: {', '.join(known)}")
    grids = {"fine": CONFIDENCE_THRESHOLDS, "coarse": coarse(CONFIDENCE_THRESHOLDS)} if grids is None else grids
    counts = draws_of(len(population), draws, torch.Generator().manual_seed(seed), images)
    chosen: dict[tuple[str, str], list[int]] = {(grid, rule): [] for grid in grids for rule in rules}
    for name, grid in grids.items():
        for sweep in resampled_sweeps(scores, population.correct, grid, counts):
            for rule in rules:
                chosen[name, rule].append(known[rule](sweep))
    found = []
    for name, grid in grids.items():
        truth = sweep_thresholds(scores, population.correct, grid)
        for rule in rules:
            index = torch.tensor(chosen[name, rule])
            broken = int((truth.lost[index] > epsilon + 1e-12).sum())
            found.append(
                Violations(
                    rule=rule,
                    grid=name,
                    thresholds=len(grid),
                    images=images,
                    draws=draws,
                    epsilon=epsilon,
                    rate=broken / draws,
                    rate_ci95=wilson(broken, draws),
                    risk=float(truth.lost[index].mean()),
                    timesteps=float(truth.timesteps[index].mean()),
                )
            )
    return tuple(found)


def coarse(grid: Tensor, thresholds: int = COARSE) -> Tensor:
    """Evenly spread thresholds of a grid, the last always among them."""
    return grid[torch.linspace(0, len(grid) - 1, thresholds).round().long()]
