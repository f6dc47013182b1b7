"""A converted network as a NeuroBench model, so that NeuroBench's own code counts its operations.

`NeuroBenchNetwork(network, timesteps)` is what `neurobench.benchmarks.Benchmark` takes; data are pairs of images
[B, ...] and labels, not trains of spikes, and predictions are the logits of every timestep, which NeuroBench's
`ChooseMaxCount` sums and takes the largest of.

How NeuroBench 2.3.0 counts (Yik et al. 2025, arXiv:2304.04640), beside our SynOps and MACs:

* Only convolutions and linear layers are looked at. An operation is a pair of an input and a weight that both are not
  zero; padding and biases do not count. Inputs that all are -1, 0 or 1, over a whole batch in one timestep, make it an AC,
  others a MAC. Our spikes are units, so a layer behind spikes does ACs.
* `Effective_ACs` is the sum of our SynOps over the timesteps, prelude included, less those that are no operation there:
  the windows of a pooling, and the one synapse of an identity shortcut.
* `Effective_MACs` leaves out inputs that are zero, pixels and averages alike; our MACs are dense. The stem is run once per
  image and counted once, as we do, not once per timestep. An average of spikes is a MAC, unless all of a batch happen
  to be 0 or 1.
* `Dense` is our MACs, once and per timestep, and for every timestep all synapses of convolutions and linear layers behind
  spikes.
* Weights that are exactly zero are no synapses there, but for `Dense`; here they are.
* Both count negative spikes like positive ones, and give numbers per image.

NeuroBench sums in the precision of the layer: in float32, counts beyond 2^24 per layer, batch and timestep are rounded.
`MembraneUpdates` and `NeuronOperations` know the neurons of snnTorch alone; for ours `Benchmark` reports 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from benchmark.errors import UsageError
from methods.network import SpikingNetwork

try:
    from neurobench.models import NeuroBenchModel
except ImportError as error:
    raise UsageError(
        f"This needs NeuroBench, which cannot be imported: {error}.", 'pip install "dynconf-bench[neurobench]"'
    ) from error


class NeuroBenchNetwork(NeuroBenchModel):
    """A converted network, simulated for a fixed number of timesteps, as NeuroBench sees it.

    NeuroBench keeps the inputs of all layers and timesteps until its metrics have run: use small batches.

    Args:
        network: the converted network.
        timesteps: how long each image is simulated, after the prelude.
    """

    def __init__(self, network: SpikingNetwork, timesteps: int):
        super().__init__()
        self.network = network
        self.timesteps = timesteps

    def __call__(self, batch: Tensor) -> Tensor:
        """Images [B, ...] to the logits of every timestep [B, T, K]. Forgets what was recorded of an earlier batch."""
        # Accounting for a new image shape runs every layer once; that is no simulation, and must not count.
        self.network.account(batch[:1])
        self.reset_hooks()
        self.network.begin(batch)
        logits = torch.stack([self.network.step() for _ in range(self.timesteps)], 1)
        self._forget_duplicates(len(batch))
        return logits

    def __net__(self) -> fx.GraphModule:
        """The graph alone: the network also holds it in parts, and layers would be found several times."""
        return self.network.graph

    def activation_layers(self) -> list[dict[str, Any]]:
        """The spiking layers, under their full names."""
        return [{"layer_name": name, "layer": neuron} for name, neuron in self.network.neurons.items()]

    def _forget_duplicates(self, count: int) -> None:
        """Keep the rows of the images only: the network computes a lone image in duplicate."""
        for hook in self.connection_hooks:
            hook.inputs[:] = [tuple(value[:count] for value in inputs) for inputs in hook.inputs]
        for hook in self.activation_hooks:
            hook.activation_outputs[:] = [output[:count] for output in hook.activation_outputs]
            hook.activation_inputs[:] = [tuple(value[:count] for value in inputs) for inputs in hook.activation_inputs]
