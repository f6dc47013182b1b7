"""The uniform quantisers that networks are trained with before they are converted: QCFS and LSQ activations.

Both put z on the levels 0, s, 2s, ..., Ls with s = threshold / L, rounding half up: a = s * clip(floor(z/s + 1/2), 0, L).
They differ in what is trained (threshold or step) and in the gradient. Every neuron of this package whose rate is such a
quantiser can therefore stand for either.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import ConversionError
from methods.tracing import QuantisedActivation


class UniformQuantiser(QuantisedActivation, ABC):
    """An activation with `levels` equal steps between 0 and its threshold."""

    levels: int

    def __init__(self, levels: int):
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}")
        self.levels = levels

    @property
    @abstractmethod
    def top(self) -> float:
        """The largest value it can give, lambda. Not checked."""

    @abstractmethod
    def set_top(self, value: float) -> None:
        """Set the largest value, to initialise training."""

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


def checked_top(activation: QuantisedActivation, method: str) -> float:
    """The threshold of a trained activation. Raises ConversionError unless it is a uniform quantiser with a positive one."""
    if not isinstance(activation, UniformQuantiser):
        raise ConversionError(f"{method} converts quantised activations, not {type(activation).__name__}.")
    threshold = activation.top
    if not (threshold > 0 and math.isfinite(threshold)):
        raise ConversionError(f"its threshold is {threshold:g}; it must be positive.")
    return threshold


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
        return _steps(z, threshold, levels).clamp(0, levels) / levels * threshold

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grad_outputs
        z, threshold = ctx.saved_tensors
        steps = _steps(z, threshold, ctx.levels)
        inside = (steps >= 0) & (steps <= ctx.levels)
        above = (steps > ctx.levels).to(z.dtype)
        slope = torch.where(inside, steps / ctx.levels - z / threshold, above)
        return grad * inside, (grad * slope).sum().reshape(threshold.shape), None


def _steps(z: Tensor, threshold: Tensor, levels: int) -> Tensor:
    # Nothing in place in an autograd function: torch.compile of torch 2.11 then drops the gradient without a word.
    return torch.floor(z * levels / threshold + 0.5)


class QCFSActivation(UniformQuantiser):
    """The clip-floor-shift activation with a trainable threshold (Bu et al., ICLR 2022).

    Args:
        levels: L, the number of steps between 0 and the threshold.
        threshold: initial value of lambda; 4 to 8 trains well from scratch, 1 can drift below zero.

    Shapes: any float tensor in, the same out; values in {0, threshold/L, ..., threshold}.
    """

    def __init__(self, levels: int, threshold: float = 8.0):
        super().__init__(levels)
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))

    @property
    def top(self) -> float:
        return float(self.threshold.detach())

    def set_top(self, value: float) -> None:
        with torch.no_grad():
            self.threshold.fill_(value)

    def forward(self, z: Tensor) -> Tensor:
        """Quantise `z`."""
        return _ClipFloorShift.apply(z, self.threshold, self.levels)  # type: ignore[no-any-return]


class _LearnedStep(torch.autograd.Function):
    """a = s * clip(floor(z/s + 1/2), 0, Q), with the gradients of LSQ (Esser et al., ICLR 2020, eq. 3 and 5).

    dz: 1 for 0 < z/s < Q. ds: round(z/s) - z/s inside, Q above, 0 below, all times 1/sqrt(N Q) with N the number of
    neurons of the layer. Ties round up, as the spiking neurons do; torch.round would round them to even.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, step: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(z, step)
        ctx.levels = levels
        return torch.floor(z / step + 0.5).clamp(0, levels) * step

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grad_outputs
        z, step = ctx.saved_tensors
        ratio = z / step
        inside = (ratio > 0) & (ratio < ctx.levels)
        above = (ratio >= ctx.levels).to(z.dtype) * ctx.levels
        slope = torch.where(inside, torch.floor(ratio + 0.5) - ratio, above)
        scale = 1.0 / math.sqrt(max(1, z[0].numel()) * ctx.levels)
        return grad * inside, ((grad * slope).sum() * scale).reshape(step.shape), None


class LSQActivation(UniformQuantiser):
    """The learned-step quantiser with a trainable step (Esser et al., ICLR 2020, arXiv:1902.08153), unsigned.

    Args:
        levels: Q = 2^b - 1 for b bits; 2 bits are 3 levels, not 4.
        threshold: initial value of Q * step.

    Shapes: any float tensor in, the same out; values in {0, step, ..., Q * step}.
    """

    def __init__(self, levels: int, threshold: float = 8.0):
        super().__init__(levels)
        self.step = nn.Parameter(torch.tensor(float(threshold) / levels))

    @property
    def top(self) -> float:
        return self.levels * float(self.step.detach())

    def set_top(self, value: float) -> None:
        with torch.no_grad():
            self.step.fill_(value / self.levels)

    def forward(self, z: Tensor) -> Tensor:
        """Quantise `z`."""
        return _LearnedStep.apply(z, self.step, self.levels)  # type: ignore[no-any-return]
