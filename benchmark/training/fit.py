"""Training from Python: a network and images, no files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from benchmark.data.images import Images, Preprocessing
from benchmark.numerics import dtype_of
from benchmark.training.batches import Share, training_batches
from benchmark.training.distributed import Team
from benchmark.training.judging import judge
from benchmark.training.loop import Training
from benchmark.training.objective import Loss, Objective
from benchmark.training.recipe import Recipe
from benchmark.training.record import Epoch
from benchmark.training.state import Progress


def fit(
    model: nn.Module,
    train: Images,
    calibration: Images,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    loss: Loss = F.cross_entropy,
    device: torch.device | str = "cpu",
) -> tuple[Epoch, ...]:
    """Train a network in place, in one process; it ends in eval mode with the weights of the best epoch.

    Args:
        model: what a method has prepared, or any network [B, C, H, W] to logits [B, K].
        train: images to train on.
        calibration: those that the best epoch is chosen on; never test images.
        preprocessing: of the network.
        recipe: hyper-parameters.
        loss: of the network's output in training mode and labels [B]; a method's own is `method.loss`.
        device: where to train; the network is moved there.

    Returns:
        What each epoch came to.

    Raises:
        Diverged: a loss or weight became NaN or infinite.
        UsageError: images, batch size and augmentation do not fit together.
    """
    dtype = dtype_of(recipe.precision)
    team = Team(Share(), torch.device(device))
    model.to(team.device, dtype)
    training = Training(
        model=model,
        batches=training_batches(train, preprocessing, recipe, team.share, team.device, dtype),
        objective=Objective(loss, recipe, train.num_classes),
        judged=lambda network: judge(network, calibration, preprocessing, team, dtype),
        team=team,
    )
    training.run(_Silent())
    return tuple(training.progress.history)


class _Silent:
    def begins(self, progress: Progress) -> None:
        """Nobody listens."""

    def bar(self, title: str, total: int, done: int) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda count: None)

    def epoch(self, result: Epoch, progress: Progress) -> None:
        """Nobody listens."""
