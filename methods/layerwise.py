"""Simulation layer after layer instead of timestep after timestep: a layer sees all its input before the next one starts.

That is how neurons can be calibrated one layer at a time, each on the spikes of layers that are calibrated already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from methods.neurons import SpikingNeuron, Stateful
from methods.tracing import module_of

# name, neuron, currents of every timestep [B, ...] -> spikes of every timestep
AtNeurons = Callable[[str, SpikingNeuron, list[Tensor]], list[Tensor]]


def fire_all(neuron: SpikingNeuron, currents: Sequence[Tensor]) -> list[Tensor]:
    """The spikes of one layer at each timestep, from its present state on."""
    return [neuron.fire(current) for current in currents]


class _Frames(list[Any]):
    """What a node gives at each timestep."""


class _Layerwise(fx.Interpreter):
    def __init__(self, body: fx.GraphModule, steps: int, at_neurons: AtNeurons):
        super().__init__(body)
        self._steps = steps
        self._at_neurons = at_neurons

    def run_node(self, n: fx.Node) -> Any:
        module = module_of(self.module, n)  # type: ignore[arg-type]
        sources = {source: self.env[source] for source in n.all_input_nodes}
        timed = any(isinstance(value, _Frames) for value in sources.values())
        if isinstance(module, SpikingNeuron):
            (value,) = sources.values()
            currents = list(value) if timed else [value] * self._steps
            return _Frames(self._at_neurons(str(n.target), module, currents))
        if not timed and not isinstance(module, Stateful):
            return super().run_node(n)
        frames = _Frames()
        for timestep in range(self._steps):
            for source, value in sources.items():
                self.env[source] = value[timestep] if isinstance(value, _Frames) else value
            frames.append(super().run_node(n))
        self.env.update(sources)
        return frames


@torch.no_grad()
def simulate_layerwise(
    body: fx.GraphModule, currents: Sequence[Tensor], steps: int, at_neurons: AtNeurons
) -> list[Tensor]:
    """Run `body` for `steps` timesteps, one node after the other; returns what it gives at each timestep.

    Args:
        body: a graph whose placeholders take `currents`, constant over time.
        currents: [B, ...] each.
        steps: number of timesteps.
        at_neurons: turns the currents of a spiking layer into its spikes; called for max-pools of spikes too.

    Every layer's frames are in memory only as long as a later layer needs them. Stateful modules must have been reset.
    """
    result = _Layerwise(body, steps, at_neurons).run(*currents)
    return list(result) if isinstance(result, _Frames) else [result] * steps
