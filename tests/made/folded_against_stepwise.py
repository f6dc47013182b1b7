"""Compares networks whose timesteps are computed at once, by the kernel, with eager ones in turn; needs TRITON_INTERPRET=1.

With --all every method goes through every tiny network, otherwise through one of them in turn.
"""

from __future__ import annotations

import itertools
import sys

import torch
from torch import Tensor

import methods
import methods.neurons
from benchmark import registry
from benchmark.conformance import TINY, quantised_network
from methods.fused import eager_neurons, fire_and_count
from methods.network import SpikingNetwork
from methods.pooling import CurrentMaxPool, SpikeMaxPool

TIMESTEPS = 9


def all_of(network: SpikingNetwork, images: Tensor, together: bool) -> list[Tensor]:
    """Logits, spikes per layer and SynOps of every timestep."""
    network.begin(images)
    steps = network.steps(TIMESTEPS) if together else (network.step() for _ in range(TIMESTEPS))
    logits, sites, synops = zip(*((each, network.site_spikes, network.synops) for each in steps), strict=True)
    return [torch.stack(logits), torch.stack(sites), torch.stack(synops)]


def main() -> None:
    """Every method on tiny networks."""
    folded: list[int] = []

    def counted(*args: object, **kwargs: object) -> object:
        folded.append(int(kwargs["steps"]))  # type: ignore[call-overload]
        return fire_and_count(*args, **kwargs)  # type: ignore[arg-type]

    methods.neurons.fire_and_count = counted  # type: ignore[assignment]
    noise = torch.Generator().manual_seed(3)
    calibration, images = torch.randn(8, 3, 8, 8, generator=noise), torch.randn(2, 3, 8, 8, generator=noise)
    names = sorted(methods.METHODS)
    pairs = itertools.product(names, TINY) if "--all" in sys.argv else zip(names, itertools.cycle(TINY), strict=False)
    for name, tiny in pairs:
        method = registry.load("methods", name)()
        network = method.convert(quantised_network(method, tiny).float(), calibration)
        folded.clear()
        with eager_neurons():
            expected = all_of(network, images, together=False)
            assert not folded
        found = all_of(network, images, together=True)
        assert all(map(torch.equal, found, expected)), (name, tiny)
        assert expected[1].any(), (name, tiny)
        neurons = [each for each in network.neurons.values() if not isinstance(each, (SpikeMaxPool, CurrentMaxPool))]
        fused = sum(isinstance(each, methods.neurons.ThresholdNeuron) and each.rule() is not None for each in neurons)
        assert (max(folded, default=1) > 1) == (fused > 0), (name, tiny)
    print("all equal")  # noqa: T201


if __name__ == "__main__":
    with torch.no_grad():
        main()
