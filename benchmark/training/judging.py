"""How good an analog network is on a split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.data.images import Images, Preprocessing
from benchmark.loading import Loader
from benchmark.training.distributed import Team

BATCH = 250


@dataclass(frozen=True)
class Judged:
    """Right answers, images, and the mean cross entropy."""

    right: int
    images: int
    loss: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.images


@torch.no_grad()
def judge(
    model: nn.Module,
    images: Images,
    preprocessing: Preprocessing,
    team: Team,
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
) -> Judged:
    """Judge a network in eval mode, in full precision; its mode stays what it is. Every process takes a part of the images."""
    was_training = model.training
    model.eval()
    loader = Loader(images, preprocessing, BATCH, team.device, dtype, workers)
    sums = torch.zeros(2, dtype=torch.float64, device=team.device)
    for number, (inputs, labels) in enumerate(loader(0)):
        if number % team.share.world == team.share.rank:
            sums += _sums(model(inputs), labels.to(team.device))
    model.train(was_training)
    right, loss = team.sum(sums).tolist()
    return Judged(round(right), len(images), loss / len(images))


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    right = (logits.argmax(1) == labels).sum()
    return torch.stack([right.double(), F.cross_entropy(logits, labels, reduction="sum").double()])
