"""The thresholds of quantised activations in training: where they start, and that they stay above zero."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from methods.quantisers import UniformQuantiser

FLOOR = 0.01  # of where a threshold started


def quantisers(model: nn.Module) -> Iterator[tuple[str, UniformQuantiser]]:
    """The uniform quantisers of a network by name."""
    for name, module in model.named_modules():
        if isinstance(module, UniformQuantiser):
            yield name, module


def initialise_thresholds(model: nn.Module, images: Tensor, quantile: float = 0.995) -> None:
    """Set every threshold to a quantile of its positive input, layer by layer on already quantised input.

    Args:
        model: a quantised ANN; its mode stays what it is.
        images: network input [B, C, H, W].
        quantile: of all positive or zero inputs of a layer.
    """

    def set_threshold(activation: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(activation, UniformQuantiser)
        values = inputs[0].detach().clamp_min(0).flatten()
        keep = max(1, math.ceil((1 - quantile) * values.numel()))
        activation.set_top(max(float(values.topk(keep).values[-1]), 1e-3))

    handles = [activation.register_forward_pre_hook(set_threshold) for _, activation in quantisers(model)]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        model(images)
    model.train(was_training)
    for handle in handles:
        handle.remove()


class Floors:
    """Holds every threshold at a hundredth of where it started, at least: gradient steps can push one below zero."""

    def __init__(self, model: nn.Module):
        self._names: list[str] = []
        self._parameters: list[nn.Parameter] = []
        for name, activation in quantisers(model):
            for parameter in activation.parameters():
                self._names.append(name)
                self._parameters.append(parameter)
        self.floors = tuple(FLOOR * float(parameter.detach().min()) for parameter in self._parameters)
        self._held: list[Tensor] = [torch.zeros((), dtype=torch.bool, device=each.device) for each in self._parameters]

    def restore(self, floors: tuple[float, ...]) -> None:
        """Those of the training that goes on."""
        self.floors = floors

    @torch.no_grad()
    def hold(self) -> None:
        """After a step of the optimizer."""
        for parameter, floor, held in zip(self._parameters, self.floors, self._held, strict=True):
            held.logical_or_((parameter < floor).any())
            parameter.clamp_(min=floor)

    def held(self) -> tuple[str, ...]:
        """Names of the activations whose threshold had to be held since this object was made."""
        return tuple(name for name, held in zip(self._names, self._held, strict=True) if held)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All thresholds."""
        return self._parameters
