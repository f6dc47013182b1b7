"""Broken promises are counted right: against a slow loop, and as theory says."""

from __future__ import annotations

import pytest
import torch
from recordings import drift

from dynconf import DynamicConfidence
from dynconf.choosing import crc_choice, ltt_choice, pareto_choice
from dynconf.intervals import wilson
from dynconf.sweep import sweep_thresholds
from dynconf.threshold import CONFIDENCE_THRESHOLDS
from dynconf.violations import coarse, naive_choice, violations


def plug_in(sweep):
    """From the safest threshold down, as long as at most 3% of the drawn images are lost."""
    chosen = len(sweep.lost) - 1
    while chosen and sweep.lost[chosen - 1] <= 0.03 + 1e-12:
        chosen -= 1
    return chosen


RULES = {
    "naive": naive_choice,
    "plug-in": plug_in,
    "pareto": lambda sweep: pareto_choice(sweep, 0.0),
    "ltt": lambda sweep: ltt_choice(sweep, 150, 0.03, 0.1),
    "crc": lambda sweep: crc_choice(sweep, 150, 0.03),
}


@pytest.fixture(scope="module")
def population():
    return drift(images=1000, timesteps=8, seed=3, split="calibration")


def test_against_a_loop_over_draws(population):
    scores = population.evidence.confidence(4.0)
    grids = {"a": CONFIDENCE_THRESHOLDS[::50].contiguous(), "b": torch.linspace(0.2, 1, 6, dtype=torch.float64)}
    found = violations(population, scores, images=150, epsilon=0.03, delta=0.1, grids=grids, draws=60, seed=8)
    assert [(each.grid, each.rule) for each in found] == [(grid, rule) for grid in grids for rule in RULES]
    generator = torch.Generator().manual_seed(8)
    draws = [torch.randint(0, 1000, (150,), generator=generator) for _ in range(60)]
    for each in found:
        grid = grids[each.grid]
        truth = sweep_thresholds(scores, population.correct, grid)
        broken, risks, times = 0, [], []
        for images in draws:
            sweep = sweep_thresholds(scores[images], population.correct[images], grid)
            threshold = float(grid[RULES[each.rule](sweep)])
            exits = DynamicConfidence(scale=4.0, threshold=threshold).exit_steps(population)
            right = population.correct[torch.arange(1000), exits - 1]
            risk = (population.correct[:, -1] & ~right).double().mean().item()
            broken += risk > 0.03
            risks.append(risk)
            times.append(exits.double().mean().item())
        assert (each.rate, each.rate_ci95) == (broken / 60, wilson(broken, 60))
        assert each.risk == pytest.approx(sum(risks) / 60, abs=1e-12)
        assert each.timesteps == pytest.approx(sum(times) / 60, abs=1e-12)
        assert (each.thresholds, each.images, each.draws, each.epsilon) == (len(grid), 150, 60, 0.03)
        assert truth.lost.max() > 0.03  # there is something to break


def test_ltt_keeps_its_word_and_the_naive_choice_does_not(population):
    scores = population.evidence.confidence(4.0)
    found = {
        (each.rule, each.grid): each for each in violations(population, scores, images=400, epsilon=0.01, delta=0.05)
    }
    for grid in ("fine", "coarse"):
        assert found["ltt", grid].rate_ci95[0] <= 0.05
        assert found["crc", grid].risk <= 0.01 + 1e-12
    assert found["naive", "fine"].rate_ci95[0] > 0.05
    assert found["plug-in", "fine"].rate_ci95[0] > 0.2  # an estimate is too small about half of the time
    assert found["naive", "fine"].rate > found["pareto", "fine"].rate
    assert (found["ltt", "fine"].thresholds, found["ltt", "coarse"].thresholds) == (1001, 12)


def test_the_naive_choice_takes_the_fastest_of_the_whole_grid():
    """Also below thresholds that lose images, where another rule has stopped."""
    correct = torch.tensor([[True, False, True], [True, True, True]])
    scores = torch.tensor([[0.1, 0.3, 0.5], [0.2, 0.4, 0.5]])
    # up to 0.1 both leave at once and are right; up to 0.3 the first leaves a timestep later and is wrong
    sweep = sweep_thresholds(scores, correct, torch.tensor([0.05, 0.15, 0.25, 0.35, 1.0]))
    assert sweep.accuracy.tolist() == [1.0, 0.5, 0.5, 1.0, 1.0]
    assert naive_choice(sweep) == 0
    assert pareto_choice(sweep, 0.0) == 3


def test_a_coarse_grid_keeps_the_ends():
    grid = coarse(CONFIDENCE_THRESHOLDS, 5)
    assert (grid[0], grid[-1], len(grid)) == (CONFIDENCE_THRESHOLDS[0], 1.0, 5)
    assert bool((grid.diff() > 0).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"images": 0}, "at least one image"), ({"draws": 0}, "one draw"), ({"rules": ("best",)}, "no rule 'best'")],
)
def test_impossible_questions(population, options, message):
    with pytest.raises(ValueError, match=message):
        violations(population, population.evidence.confidence(4.0), **{"images": 10, "epsilon": 0.1, **options})
