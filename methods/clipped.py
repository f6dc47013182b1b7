"""The activation of training-free conversion: a ReLU that gets its threshold from calibration images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx

from methods.errors import ConversionError
from methods.tracing import QuantisedActivation, module_of


class ClippedReLU(QuantisedActivation):
    """min(max(z, 0), threshold), with one threshold or one per channel; a plain ReLU until a threshold is set.

    Args:
        ceiling: of the source network, 6 for ReLU6; it is then the threshold, and needs no calibration.

    Shapes: [B, C, ...] in and out. The threshold is no part of the state dict, so that a ReLU network's weights fit.
    """

    threshold: Tensor

    def __init__(self, ceiling: float = math.inf):
        super().__init__()
        self.ceiling = ceiling
        self.register_buffer("threshold", torch.tensor(float(ceiling)), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Clip `z`."""
        return torch.minimum(z.clamp_min(0), self.broadcast(self.threshold, z))

    @staticmethod
    def broadcast(threshold: Tensor, z: Tensor) -> Tensor:
        """A threshold [] or [C] so that it broadcasts against [B, C, ...], in its dtype."""
        threshold = threshold.to(z.dtype)
        return threshold.reshape(-1, *[1] * (z.dim() - 2)) if threshold.dim() else threshold

    def calibrated(self) -> float | Tensor:
        """The threshold for a neuron. Raises ConversionError if none has been set, or it is not positive."""
        if not bool(torch.isfinite(self.threshold).all()):
            raise ConversionError("its threshold has not been calibrated.")
        if not bool((self.threshold > 0).all()):
            raise ConversionError("it was never active on the calibration images, so no threshold can be set.")
        return self.threshold if self.threshold.dim() else float(self.threshold)

    def extra_repr(self) -> str:
        return f"ceiling={self.ceiling:g}"


def uncalibrated(graph: fx.GraphModule) -> list[ClippedReLU]:
    """The activations of a graph that need calibration, in the order of the forward pass."""
    found = [module_of(graph, node) for node in graph.graph.nodes]
    return [module for module in found if isinstance(module, ClippedReLU) and math.isinf(module.ceiling)]


Observer = Callable[[ClippedReLU, Tensor], None]


@contextmanager
def observed(activations: Sequence[ClippedReLU], observer: Observer) -> Iterator[None]:
    """Within the block, `observer(activation, z)` is called with the input of each activation before it acts."""
    handles = [
        activation.register_forward_pre_hook(lambda module, inputs: observer(module, inputs[0]))
        for activation in activations
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_channel(z: Tensor, per_channel: bool) -> Tensor:
    """[B, C, ...] as [C, n], or as [1, n] for a whole layer."""
    return z.transpose(0, 1).reshape(z.shape[1], -1) if per_channel else z.reshape(1, -1)


def set_thresholds(activation: ClippedReLU, values: Tensor) -> None:
    """Set thresholds [C] or [1]; a channel without one (zero) gets the layer's largest."""
    values = torch.where(values > 0, values, values.max())
    activation.threshold = values if len(values) > 1 else values[0]
