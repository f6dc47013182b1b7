"""QCFS: quantisation clip-floor-shift activations and their integrate-and-fire neurons.

Bu, Fang, Ding, Dai, Yu, Huang: "Optimal ANN-SNN Conversion for High-accuracy and Ultra-low-latency Spiking Neural
Networks", ICLR 2022, arXiv:2303.04347.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.base import ConversionMethod
from methods.errors import ConversionError
from methods.neurons import IFNeuron
from methods.tracing import QuantisedActivation


class _ClipFloorShift(torch.autograd.Function):
    """a = lam * clip(floor(z L / lam + 1/2) / L, 0, 1), Bu et al. eq. 16, with a straight-through floor.

    The pass band of z is [-lam/2L, lam + lam/2L): every z that rounds to a level 0..L, as in the code behind the
    published numbers. It is an explicit mask, because torch 2.14 changed the gradient of clamp at its boundary, where
    the whole zero bin and top bin lie. The gradient of lam is (a - z)/lam inside the band, 1 above, 0 below; eq. 19 as
    printed is wrong, which its authors' code notes too.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.levels = levels
        return _steps(z, threshold, levels).clamp_(0, levels).div_(levels).mul_(threshold)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grad_outputs
        z, threshold = ctx.saved_tensors
        steps = _steps(z, threshold, ctx.levels)
        inside = (steps >= 0) & (steps <= ctx.levels)
        above = (steps > ctx.levels).to(z.dtype)
        slope = torch.where(inside, steps.div_(ctx.levels).sub_(z / threshold), above)
        return grad * inside, (grad * slope).sum().reshape(threshold.shape), None


def _steps(z: Tensor, threshold: Tensor, levels: int) -> Tensor:
    return (z * levels).div_(threshold).add_(0.5).floor_()


class QCFSActivation(QuantisedActivation):
    """The clip-floor-shift activation with a trainable threshold.

    Args:
        levels: L, the number of steps between 0 and the threshold.
        threshold: initial value of lambda; 4 to 8 trains well from scratch, 1 can drift below zero.

    Shapes: any float tensor in, the same out; values in {0, threshold/L, ..., threshold}.
    """

    def __init__(self, levels: int, threshold: float = 8.0):
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}")
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, z: Tensor) -> Tensor:
        """Quantise `z`."""
        return _ClipFloorShift.apply(z, self.threshold, self.levels)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


@dataclass(frozen=True)
class QCFS(ConversionMethod):
    """Integrate-and-fire neurons with threshold lambda, soft reset and initial membrane lambda/2.

    Options:
        levels: L of the quantised ANN.
        threshold: initial lambda of its activations.
    """

    name: ClassVar[str] = "qcfs"

    levels: int = 4
    threshold: float = 8.0

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1, got {self.levels}")
        if not (self.threshold > 0 and math.isfinite(self.threshold)):
            raise ValueError(f"threshold must be positive, got {self.threshold:g}")

    def activation(self) -> QCFSActivation:
        return QCFSActivation(self.levels, self.threshold)

    def neuron(self, activation: QuantisedActivation) -> IFNeuron:
        if not isinstance(activation, QCFSActivation):
            raise ConversionError(f"QCFS converts QCFSActivation, not {type(activation).__name__}.")
        if activation.levels != self.levels:
            raise ConversionError(
                f"the network has {activation.levels} levels, the method was asked for {self.levels}."
            )
        threshold = float(activation.threshold.detach())
        if not (threshold > 0 and math.isfinite(threshold)):
            raise ConversionError(f"its threshold is {threshold:g}; it must be positive.")
        return IFNeuron(threshold, initial=0.5)
