"""Counting spikes and synaptic operations per image, exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The largest number up to which float32 holds all integers.
EXACT = 2**24
# From so many channels and images on it pays to sum a pixel's channels first: a single pass over the spikes instead of two.
MANY_CHANNELS, MANY_IMAGES = 64, 8


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
        self._in_place = _CountedInPlace.of(reduced, self.shape)

    def __call__(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and SynOps of one timestep, per image: two float64 tensors [B] holding integers."""
        events, operations, unit = self.in_units(spikes)
        return events.double(), operations.double() * unit

    def in_units(self, spikes: Tensor) -> tuple[Tensor, Tensor, int]:
        """The same as they come, float32 or float64, with SynOps as multiples of the last number."""
        events = spikes.abs() if self._signed else spikes
        if self._in_place is not None and spikes.is_cpu and spikes.dtype == torch.float32:
            return self._in_place(events)
        if self._weights.device != spikes.device:
            self._weights = self._weights.to(spikes.device)
        partial = events.sum(self._dims) if self._dims else events
        partial = partial.reshape(len(spikes), -1).double()
        return partial.sum(1), partial @ self._weights, 1

    def in_memory(self, order: torch.memory_format, device: torch.device) -> Tensor:
        """The fan-out of each neuron of an image, int32 [neurons], in the order in which memory holds them."""
        key = order, device
        if key not in self._in_memory:
            ordered = self._fan_out.movedim(0, -1) if order is torch.channels_last else self._fan_out
            self._in_memory[key] = ordered.flatten().to(device, torch.int32)
        return self._in_memory[key]


class _CountedInPlace:
    """The same for float32 on a CPU in two passes at most over the spikes as they lie in memory, where all sums fit float32.

    Fan-outs are `unit` times `multiples`, which expand to `shape`; None: all multiples are one.
    """

    def __init__(self, unit: int, multiples: Tensor | None, shape: tuple[int, ...]):
        self._unit = unit
        self._multiples = multiples
        self._shape = shape
        self._flat = torch.zeros(0)
        self._by_pixel = False
        self._of_pixels: Tensor | None = None
        if multiples is not None and multiples.dim() == 3 and len(multiples) == 1:
            self._of_pixels = multiples[0].expand(shape[1:]).flatten()

    @classmethod
    def of(cls, fan_out: Tensor, shape: tuple[int, ...]) -> _CountedInPlace | None:
        """None where a sum in units of the greatest common divisor could be too large to be exact."""
        whole = fan_out.long()
        unit = math.gcd(*whole.unique().tolist()) or 1
        multiples = whole // unit
        if max(int(multiples.expand(shape).sum()), math.prod(shape)) > EXACT:
            return None
        return cls(unit, None if bool((multiples == 1).all()) else multiples.float(), shape)

    def __call__(self, events: Tensor) -> tuple[Tensor, Tensor, int]:
        by_pixel = events.dim() == 4 and not events.is_contiguous()
        if by_pixel:
            events = events.permute(0, 2, 3, 1)  # in channels_last the order in memory
            if self._of_pixels is not None and events.shape[-1] >= MANY_CHANNELS and len(events) >= MANY_IMAGES:
                pixels = events.sum(-1).flatten(1)
                return pixels.sum(1), pixels.mv(self._of_pixels), self._unit
        rows = events.flatten(1)
        spikes = rows.sum(1)
        weighted = spikes if self._multiples is None else rows.mv(self._in_order(self._multiples, by_pixel))
        return spikes, weighted, self._unit

    def _in_order(self, multiples: Tensor, by_pixel: bool) -> Tensor:
        """The multiples of all neurons, in the order of their spikes."""
        if not len(self._flat) or by_pixel is not self._by_pixel:
            expanded = multiples.expand(self._shape)
            self._flat = (expanded.permute(1, 2, 0) if by_pixel else expanded).flatten()
            self._by_pixel = by_pixel
        return self._flat
