"""Spiking neurons. State belongs to the instance, is made by the first current after `reset`, and is per image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.tally import SpikeTally


class SpikingNeuron(nn.Module, ABC):
    """A layer of neurons that turns the input current of one timestep into unit spikes.

    Spikes are 0/1 (kind `binary`) or -1/0/+1 (kind `signed`) in the dtype of the membrane; what a spike is worth,
    `amplitude`, is folded into the synapses behind it by the conversion. A subclass names its per-image tensors in
    `state_names`; each is None before the first timestep.
    """

    kind: ClassVar[str] = "binary"
    state_names: ClassVar[tuple[str, ...]] = ("membrane",)

    def __init__(self) -> None:
        super().__init__()
        self.tally: SpikeTally | None = None
        self.counts: tuple[Tensor, Tensor] | None = None
        self.reset()

    @property
    @abstractmethod
    def amplitude(self) -> float:
        """The value that one spike transmits (positive)."""

    @abstractmethod
    def fire(self, current: Tensor) -> Tensor:
        """Charge with `current` [B, ...], fire, reset; returns the spikes, same shape."""

    def forward(self, current: Tensor) -> Tensor:
        """One timestep; `counts` then holds this step's spikes and SynOps per image."""
        spikes = self.fire(current)
        if self.tally is not None:
            self.counts = self.tally(spikes)
        return spikes

    def reset(self) -> None:
        """Forget the images: the next current starts from the initial state."""
        for name in self.state_names:
            setattr(self, name, None)
        self.counts = None

    def keep(self, rows: Tensor) -> None:
        """Go on with the images at `rows` (int64 indices, or bool [B])."""
        for name in self.state_names:
            state = getattr(self, name)
            if state is not None:
                setattr(self, name, state[rows])


class IFNeuron(SpikingNeuron):
    """Integrate-and-fire without leak, with soft reset (reset by subtraction).

    m(t) = v(t-1) + I(t);  s(t) = [m(t) >= threshold];  v(t) = m(t) - threshold * s(t);  v(0) = initial * threshold.
    Bu et al. 2022 (arXiv:2303.04347) eq. 1-4; `initial` = 1/2 is their optimal shift. The membrane is at least
    float32, whatever the precision of the synapses.
    """

    membrane: Tensor | None

    def __init__(self, threshold: float, initial: float = 0.5):
        super().__init__()
        self.threshold = float(threshold)
        self.initial = float(initial)

    @property
    def amplitude(self) -> float:
        return self.threshold

    def fire(self, current: Tensor) -> Tensor:
        if self.membrane is None:
            dtype = current.dtype if current.dtype == torch.float64 else torch.float32
            self.membrane = torch.full_like(current, self.initial * self.threshold, dtype=dtype)
        self.membrane.add_(current)
        # Comparing into a float tensor saves the pass that would turn booleans into numbers.
        spikes = torch.ge(self.membrane, self.threshold, out=torch.empty_like(self.membrane))
        self.membrane.sub_(spikes, alpha=self.threshold)
        return spikes

    def extra_repr(self) -> str:
        return f"threshold={self.threshold:.6g}, initial={self.initial:g}"
