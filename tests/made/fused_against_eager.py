"""Compares the kernel of `methods.fused` with the eager neurons; run with TRITON_INTERPRET=1, or with --device cuda."""

from __future__ import annotations

import itertools
import sys

import torch
from torch import Tensor

from methods import fused
from methods.cos import ShiftedIFNeuron
from methods.neurons import IFNeuron, SignedIFNeuron, ThresholdNeuron
from methods.srp import MaskedIFNeuron
from methods.tally import SpikeTally

SHAPES = ((5,), (3, 4, 4), (8, 17, 19))
TIMESTEPS = 6


def neurons() -> dict[str, ThresholdNeuron]:
    """One of each kind that the kernel knows."""
    return {
        "if": IFNeuron(0.75),
        "if, other start": IFNeuron(1.0, initial=0.25),
        "masked": MaskedIFNeuron(0.75),
        "shifted": ShiftedIFNeuron(0.7),
        "signed": SignedIFNeuron(0.7, levels=3),
        "signed, open": SignedIFNeuron(1.3, levels=None, floor=0.5, at_floor=True),
    }


def step(neuron: ThresholdNeuron, current: Tensor) -> dict[str, Tensor]:
    """All that one timestep leaves."""
    spikes = neuron(current)
    assert neuron.counts is not None
    states = {name: state.clone() for name in neuron.state_names if (state := getattr(neuron, name)) is not None}
    return {"spikes": spikes, "events": neuron.counts[0].double(), "synops": neuron.counts[1].double(), **states}


def compare(name: str, shape: tuple[int, ...], layout: torch.memory_format, device: str) -> int:
    """Number of spikes of either sign, after all timesteps are the same. Raises AssertionError where one is not."""
    random = torch.Generator().manual_seed(len(shape))
    fan_out = torch.randint(1, 500, shape, generator=random)
    one, other = neurons()[name], neurons()[name]
    start, mask = torch.randn(3, *shape, generator=random), torch.randint(0, 2, (3, *shape), generator=random).float()
    events = 0
    for neuron in (one, other):
        neuron.tally = SpikeTally(fan_out, signed=neuron.kind == "signed")
        if isinstance(neuron, MaskedIFNeuron):
            neuron.mask = mask.to(device, memory_format=layout)
        if isinstance(neuron, ShiftedIFNeuron):
            neuron.shifted = start.to(device, memory_format=layout)
    for _ in range(TIMESTEPS):
        # Multiples of 1/8 lie on a threshold of 3/4 now and then.
        current = (torch.randn(3, *shape, generator=random) * 8).round() / 8
        current = current.to(device, memory_format=layout)
        assert fused.fuses(current)
        with fused.eager_neurons():
            expected = step(one, current)
        found = step(other, current)
        assert found.keys() == expected.keys()
        for part, value in expected.items():
            assert found[part].stride() == value.stride() or value.dim() == 1, (name, shape, part)
            assert torch.equal(found[part], value), (name, shape, part)
        events += int(expected["events"].sum())
    return events


def main(device: str) -> None:
    """Every kind of neuron on every shape, in both memory formats."""
    before = fused.fire_and_count
    calls = 0

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        return before(*args, **kwargs)  # type: ignore[arg-type]

    import methods.neurons

    methods.neurons.fire_and_count = counted  # type: ignore[assignment]
    cases = 0
    for name, shape in itertools.product(neurons(), SHAPES):
        for layout in (torch.contiguous_format, torch.channels_last)[: 2 if len(shape) == 3 else 1]:
            assert compare(name, shape, layout, device) > 0, (name, shape)
            cases += 1
    assert calls == cases * TIMESTEPS, (calls, cases)
    print("all equal")  # noqa: T201


if __name__ == "__main__":
    main("cuda" if "--cuda" in sys.argv else "cpu")
