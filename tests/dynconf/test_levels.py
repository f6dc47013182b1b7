"""Thresholds of equal risk: a known risk is found again, levels are nested, and only the order of scores counts."""

from __future__ import annotations

import pytest
import torch
from recordings import drift

from dynconf import Margin
from dynconf.levels import RISKS, equal_risk_limits, levels_exceeded
from dynconf.limits import Candidates, lost_by_leaving
from dynconf.margin import MARGIN_THRESHOLDS
from dynconf.sweep import exit_table


def literal_exit(scores, limits):
    """The first timestep at which the score exceeds its limit, else T."""
    for t, (score, limit) in enumerate(zip(scores, limits, strict=False), 1):
        if score > limit:
            return t
    return len(limits) + 1


@pytest.mark.parametrize("degree", [2, 3])
def test_a_known_risk_is_found_again(degree):
    """Scores are uniform, so that rank and score agree, and the logit of the risk is a polynomial of score and log t."""
    images, timesteps = 40_000, 8
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(images, timesteps, generator=generator, dtype=torch.float64)
    time = torch.arange(1, timesteps + 1).double().log()

    def logit(score, t):
        return 1.0 - 6.0 * score - 0.8 * time[t - 1]

    chance = torch.sigmoid(torch.stack([logit(scores[:, t - 1], t) for t in range(1, timesteps + 1)], 1))
    lost = torch.rand(images, timesteps, generator=generator, dtype=torch.float64) < chance
    limits = equal_risk_limits(scores, lost, torch.linspace(-0.01, 1.0, 1011, dtype=torch.float64), degree)
    assert limits.shape == (len(RISKS) + 1, timesteps - 1)
    for row, risk in enumerate(RISKS.tolist()):
        if 0.01 <= risk <= 0.5:
            for t in range(1, timesteps):
                score = (1.0 - 0.8 * float(time[t - 1]) - float(torch.tensor(risk).logit())) / 6.0
                if 0.05 < score < 0.95:
                    assert float(limits[row, t - 1]) == pytest.approx(score, abs=0.04), (risk, t)


def test_a_limit_is_the_lowest_of_the_grid_above_which_the_risk_is_small_enough():
    images, grid = 40_000, torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    scores = torch.rand(images, 3, generator=generator, dtype=torch.float64)
    lost = torch.rand(images, 3, generator=generator, dtype=torch.float64) < torch.sigmoid(1.0 - 6.0 * scores)
    limits = equal_risk_limits(scores, lost, grid, 2)
    logits = 1.0 - 6.0 * (grid[:-1] + 0.05)  # in the middle of each interval of the grid; they are 0.6 apart
    checked = set()
    for row, risk in enumerate(torch.logit(RISKS).tolist()):
        interval = int((logits > risk).sum())
        if interval < 10 and float((logits - risk).abs().min()) > 0.15:
            assert limits[row].tolist() == [float(grid[interval])] * 2
            checked.add(interval)
    assert checked == set(range(10))


def test_levels_are_nested_and_end_with_one_that_stops_nobody():
    recording = drift(images=700, seed=4)
    scores, lost = Margin().scores(recording), lost_by_leaving(recording.correct)
    limits = equal_risk_limits(scores, lost, MARGIN_THRESHOLDS, 3)
    assert bool((limits.diff(dim=0) >= 0).all())
    assert bool((limits[-1] == MARGIN_THRESHOLDS[-1]).all())
    assert bool(torch.isin(limits, MARGIN_THRESHOLDS).all())
    assert len(limits.unique(dim=0)) > 200
    assert limits[180, 0] > limits[180, 8]  # a margin of the same size says less at first


def test_a_level_is_a_threshold_of_the_number_of_levels():
    recording = drift(images=60, seed=5)
    scores = Margin().scores(recording)
    limits = equal_risk_limits(scores, lost_by_leaving(recording.correct), MARGIN_THRESHOLDS, 2)[::20]
    levels = levels_exceeded(scores, limits)
    table = exit_table(levels, torch.arange(len(limits)))
    for row, limit in enumerate(limits.tolist()):
        assert table[:, row].tolist() == [literal_exit(image, limit) for image in scores.tolist()]
    assert table[:, -1].unique().tolist() == [12] and bool((table[:, 0] < 12).any())


def test_a_score_equal_to_the_limit_does_not_stop():
    limits = torch.tensor([[1.0, 2.0], [2.0, 3.0], [2.0, 4.0], [9.0, 9.0]], dtype=torch.float64)
    scores = torch.tensor([[1.0, 2.5, 8.0], [2.0, 2.0, 8.0], [2.1, 9.0, 8.0]], dtype=torch.float64)
    assert levels_exceeded(scores, limits).tolist() == [[0, 1, 0], [1, 0, 0], [3, 3, 0]]


def test_only_the_order_of_scores_counts():
    recording = drift(images=500, seed=6)
    scores = Margin().scores(recording).mul(4).round()
    grid = torch.arange(-1, int(scores.max()) + 2, dtype=torch.float64)
    lost = lost_by_leaving(recording.correct)
    limits = equal_risk_limits(scores, lost, grid, 2)
    assert torch.equal(equal_risk_limits(scores**3, lost, grid**3, 2), limits**3)


def test_the_order_of_images_does_not_count():
    recording = drift(images=500, seed=7)
    scores, lost = Margin().scores(recording), lost_by_leaving(recording.correct)
    other = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    limits = equal_risk_limits(scores, lost, MARGIN_THRESHOLDS, 3)
    assert torch.equal(equal_risk_limits(scores[other], lost[other], MARGIN_THRESHOLDS, 3), limits)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("images", [1, 50])
@pytest.mark.parametrize("timesteps", [1, 2, 6])
def test_edges(share, images, timesteps):
    scores = torch.rand(images, timesteps, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lost = torch.full((images, timesteps), bool(share))
    grid = torch.linspace(-1, 2, 50, dtype=torch.float64)
    limits = equal_risk_limits(scores, lost, grid, 2)
    assert limits.shape == (len(RISKS) + 1, timesteps - 1) and bool(torch.isfinite(limits).all())
    levels = levels_exceeded(scores, limits)
    assert levels.shape == (images, timesteps) and not bool(levels[:, -1].any())
    if images == 50 and timesteps > 1:  # where nobody is lost everybody may leave at a risk of a half, and the reverse
        half = int(torch.nonzero(RISKS <= 0.5)[0])
        assert bool((levels[:, 0] > half).all()) == (share == 0.0) == bool((levels[:, 0] > half).any())


def test_nan_is_refused():
    scores = torch.tensor([[0.5, float("nan"), 0.1]], dtype=torch.float64)
    with pytest.raises(ValueError, match="NaN"):
        equal_risk_limits(scores, torch.zeros(1, 3, dtype=torch.bool), torch.tensor([0.0, 1.0]).double(), 2)
    with pytest.raises(ValueError, match="NaN"):
        levels_exceeded(scores, torch.zeros(2, 2).double())


def test_the_family_with_the_earliest_exits_is_taken():
    """A network whose margins mean less and less over time, one where they mean the same, and margins that mean nothing."""
    taken = set()
    for fade in (0.0, 1.0, 2.0):
        recording = drift(images=1500, seed=11)
        weights = torch.arange(1, 13, dtype=torch.float64) ** fade
        scores = Margin().scores(recording) * weights
        correct, lost = recording.correct, lost_by_leaving(recording.correct)
        families = [equal_risk_limits(scores, lost, MARGIN_THRESHOLDS, degree) for degree in (2, 3)]
        families.append(MARGIN_THRESHOLDS[:, None].expand(-1, 11))
        totals = []
        for limits in families:
            table = exit_table(levels_exceeded(scores, limits), torch.arange(len(limits)))
            losing = lost.gather(1, table.long() - 1).double().mean(0)
            firsts = [int(torch.nonzero(losing > share * 0.04 + 1e-12).max()) + 1 for share in (0.25, 0.5, 1.0)]
            totals.append(sum(float(table[:, first].double().mean()) for first in firsts))
        best = totals.index(min(totals))
        assert torch.equal(Candidates.screened(scores, correct, MARGIN_THRESHOLDS, 0.04).limits, families[best])
        taken.add(best == 2)
    assert taken == {True, False}
