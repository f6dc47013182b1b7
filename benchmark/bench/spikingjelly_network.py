"""SpikingJelly's way to simulate the network: integrate-and-fire nodes with soft reset.

Wei Fang et al., "SpikingJelly: An open-source machine learning infrastructure platform for spike-based intelligence", Science
Advances 9, 2023. Its nodes choose their implementation by the device: torch on a CPU, Triton or CUDA kernels on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from benchmark.bench.foreign_neurons import NotAvailable, with_neurons
from benchmark.bench.source_network import SourceNetwork


def single_step(source: SourceNetwork) -> Callable[[Tensor, int], Tensor]:
    """One call per timestep, step mode `s`. Raises NotAvailable without the package."""
    functional, _ = _package()
    before, body = with_neurons(source.network, lambda threshold: _node(threshold, "s"))

    def run(images: Tensor, timesteps: int) -> Tensor:
        functional.reset_net(body)
        currents = before(images)
        total = body(*currents)
        for _ in range(timesteps - 1):
            total = total + body(*currents)
        functional.reset_net(body)
        return total  # type: ignore[no-any-return]

    return run


def multi_step(source: SourceNetwork) -> Callable[[Tensor, int], Tensor]:
    """One call for all timesteps, step mode `m`: layers without state see time folded into the batch.

    Raises NotAvailable without the package.
    """
    functional, _ = _package()
    before, body = with_neurons(source.network, lambda threshold: _Unfolding(_node(threshold, "m")))
    nodes = [module for module in body.modules() if isinstance(module, _Unfolding)]

    def run(images: Tensor, timesteps: int) -> Tensor:
        functional.reset_net(body)
        for node in nodes:
            node.timesteps = timesteps
        repeated = (current.expand(timesteps, *current.shape).flatten(0, 1) for current in before(images))
        total = body(*repeated).unflatten(0, (timesteps, -1)).sum(0)
        functional.reset_net(body)
        return total  # type: ignore[no-any-return]

    return run


class _Unfolding(nn.Module):
    """Shows a node [T x B, ...] as the sequence [T, B, ...], as the package's own layers do."""

    timesteps = 1

    def __init__(self, node: nn.Module):
        super().__init__()
        self.node = node

    def forward(self, currents: Tensor) -> Tensor:
        spikes: Tensor = self.node(currents.unflatten(0, (self.timesteps, -1)))
        return spikes.flatten(0, 1)


def _node(threshold: float, step_mode: str) -> nn.Module:
    """Soft reset, and half the threshold in the membrane after each `reset`."""
    _, neuron = _package()
    node: Any = neuron.IFNode(v_threshold=threshold, v_reset=None, step_mode=step_mode)
    node.set_reset_value("v", threshold / 2)
    node.reset()
    return node.eval()  # type: ignore[no-any-return]


def _package() -> tuple[Any, Any]:
    try:
        from spikingjelly.activation_based import functional, neuron
    except ImportError as error:
        raise NotAvailable("not installed") from error
    return functional, neuron
