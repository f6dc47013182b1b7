"""What is minimised: the method's own loss of smoothed or mixed labels, and the distance from a teacher's answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.data.images import Preprocessing
from benchmark.training.recipe import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Teacher:
    """A full-precision network in eval mode, and how its input is made from that of the student."""

    network: nn.Module
    its: Preprocessing
    students: Preprocessing

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Its logits [B, K] for the student's input [B, C, H, W]."""
        if self.its.to_dict() != self.students.to_dict():
            images = _renormalised(images, self.students, self.its)
        logits: Tensor = self.network(images)
        return logits


def _renormalised(images: Tensor, old: Preprocessing, new: Preprocessing) -> Tensor:
    def column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]

    pixels = (images * column(old.std) + column(old.mean)) * old.divisor
    return (pixels / new.divisor - column(new.mean)) / column(new.std)


@dataclass(frozen=True)
class Objective:
    """The loss of a batch.

    Attributes:
        loss: of the network's output in training mode and labels [B], or shares of classes [B, K].
        recipe: its label smoothing, mixup, CutMix and distillation.
        num_classes: K.
        teacher: for distillation.
    """

    loss: Loss
    recipe: Recipe
    num_classes: int
    teacher: Teacher | None = None

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that a batch has no single right answers."""
        return bool(self.recipe.mixup or self.recipe.cutmix)

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels as they are trained on; draws from torch's global generator, which the loop seeds.

        Images are mixed within what one process computes at once.
        """
        if self.mixes:
            from torchvision.transforms import v2

            kinds = [(v2.MixUp, self.recipe.mixup), (v2.CutMix, self.recipe.cutmix)]
            changes = [kind(num_classes=self.num_classes, alpha=alpha) for kind, alpha in kinds if alpha]
            images, labels = v2.RandomChoice(changes)(images, labels)
        if self.recipe.label_smoothing:
            if labels.dim() == 1:
                labels = F.one_hot(labels, self.num_classes)
            share = self.recipe.label_smoothing
            labels = labels.to(images.dtype) * (1 - share) + share / self.num_classes
        return images, labels

    def __call__(self, outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch."""
        error = self.loss(outputs, labels)
        if self.teacher is None or not self.recipe.distill:
            return error
        heat = self.recipe.temperature
        logits = outputs.mean(0) if outputs.dim() == 3 else outputs  # of all timesteps
        wanted = F.log_softmax(self.teacher(images).float() / heat, 1)
        distance = F.kl_div(F.log_softmax(logits.float() / heat, 1), wanted, reduction="batchmean", log_target=True)
        return (1 - self.recipe.distill) * error + self.recipe.distill * heat * heat * distance
