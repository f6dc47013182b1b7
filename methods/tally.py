"""Counting spikes and synaptic operations per image, exactly."""

from __future__ import annotations

import torch
from torch import Tensor


class SpikeTally:
    """Counts the spikes of one layer and the SynOps they cause.

    `fan_out` [...] (one layer's shape, integers): to how many synapses each neuron's spike travels, padding and
    stride counted exactly. Where it is the same along a dimension, as along the channels of a convolution, spikes
    are summed over that dimension first; those partial sums are integers that float32 holds exactly, the weighted
    sum is in float64. With `signed`, spikes of either sign count.
    """

    def __init__(self, fan_out: Tensor, signed: bool = False):
        self._signed = signed
        self.total = int(fan_out.sum())
        self.shape = tuple(fan_out.shape)
        dims = []
        reduced = fan_out.double()
        for dim in range(fan_out.dim()):
            first = reduced.narrow(dim, 0, 1)
            if torch.equal(reduced, first.expand_as(reduced)):
                dims.append(dim + 1)
                reduced = first
        self._dims = tuple(dims)
        self._fan_out = fan_out
        self._in_memory: dict[tuple[torch.memory_format, torch.device], Tensor] = {}
        self._weights = reduced.flatten()

    def __call__(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and SynOps of one timestep, per image: two float64 tensors [B] holding integers."""
        if self._weights.device != spikes.device:
            self._weights = self._weights.to(spikes.device)
        events = spikes.abs() if self._signed else spikes
        partial = events.sum(self._dims) if self._dims else events
        partial = partial.reshape(len(spikes), -1).double()
        return partial.sum(1), partial @ self._weights

    def in_memory(self, order: torch.memory_format, device: torch.device) -> Tensor:
        """The fan-out of each neuron of an image, int32 [neurons], in the order in which memory holds them."""
        key = order, device
        if key not in self._in_memory:
            ordered = self._fan_out.movedim(0, -1) if order is torch.channels_last else self._fan_out
            self._in_memory[key] = ordered.flatten().to(device, torch.int32)
        return self._in_memory[key]
