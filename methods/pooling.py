"""Max-pooling over time without multiplication: the maximum of what has arrived so far, sent on as differences.

The maximum of instantaneous spikes is not the maximum of rates, and neither is that of instantaneous currents. Of
cumulative counts it is, and as every count moves by at most one in a timestep, so does their maximum: the pool of binary
spikes emits binary spikes, the pool of signed ones emits -1, 0 or +1, and at every t the sum of its output is exactly the
maximum of the summed inputs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from methods.errors import ConversionError
from methods.neurons import SpikingNeuron, Stateful
from methods.tracing import (
    QuantisedActivation,
    describe,
    is_max_pool,
    module_of,
    place_module,
)


class SpikeMaxPool(SpikingNeuron):
    """Max-pool of spikes by their cumulative counts; a spiking layer of its own, whose units spike.

    Args:
        pool: the max-pool module, applied to the counts.
        kind: `binary` or `signed`, as its input.
    """

    state_names: ClassVar[tuple[str, ...]] = ("count", "peak")
    count: Tensor | None
    peak: Tensor | None

    def __init__(self, pool: nn.Module, kind: str):
        super().__init__()
        self.pool = pool
        self.kind = kind

    @property
    def amplitude(self) -> float | Tensor:
        return 1.0

    @property
    def replayable(self) -> bool:
        return True

    def initial_state(self, name: str, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def fire(self, current: Tensor) -> Tensor:
        # Another spike is worth as much behind the pool as before it, so unit counts are enough.
        self.count = current.clone() if self.count is None else self.count.add_(current)
        peak: Tensor = self.pool(self.count)
        spikes = peak.clone() if self.peak is None else peak - self.peak
        self.peak = peak
        return spikes


class CurrentMaxPool(Stateful):
    """Max-pool of currents by their sums: the sum of its output is the maximum of the summed inputs."""

    state_names: ClassVar[tuple[str, ...]] = ("total", "peak")
    total: Tensor | None
    peak: Tensor | None

    def __init__(self, pool: nn.Module):
        super().__init__()
        self.pool = pool
        self.reset()

    @property
    def replayable(self) -> bool:
        return True

    def initial_state(self, name: str, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def forward(self, current: Tensor) -> Tensor:
        """One timestep: [B, C, ...] currents to pooled ones."""
        self.total = current.clone() if self.total is None else self.total.add_(current)
        peak: Tensor = self.pool(self.total)
        pooled = peak.clone() if self.peak is None else peak - self.peak
        self.peak = peak
        return pooled


def move_max_pools_before_activations(graph: fx.GraphModule) -> int:
    """Swap every max-pool with the activation before it, which it commutes with; returns how many.

    An activation never decreases, so max(a(z)) = a(max z). The neurons are then fewer by the size of the pool, and a
    pool of the stem's constant current is computed once.
    """
    moved = 0
    for pool in list(graph.graph.nodes):
        if not is_max_pool(graph, pool):
            continue
        activation = pool.all_input_nodes[0]
        if not isinstance(module_of(graph, activation), QuantisedActivation) or len(activation.users) > 1:
            continue
        pool.replace_all_uses_with(activation)
        current = activation.all_input_nodes[0]
        pool.replace_input_with(activation, current)
        activation.replace_input_with(current, pool)
        pool.append(activation)
        moved += 1
    graph.graph.lint()
    graph.recompile()
    return moved


def max_pool_module(graph: fx.GraphModule, node: fx.Node) -> nn.Module:
    """The max-pool of a node as a module. Raises ConversionError if it also returns indices."""
    module = module_of(graph, node)
    if module is None:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        given: dict[str, Any] = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
        given.pop("input", None)
        kinds = {F.max_pool1d: nn.MaxPool1d, F.max_pool3d: nn.MaxPool3d}
        module = next((kinds[f] for f in kinds if node.target is f), nn.MaxPool2d)(**given)
    if getattr(module, "return_indices", False):
        raise ConversionError(f"{describe(graph, node)} returns indices, which spikes do not carry.")
    return module


def place_max_pool(graph: fx.GraphModule, node: fx.Node, pool: nn.Module) -> None:
    """Make `node` call `pool` with its first input alone."""
    source = node.all_input_nodes[0]
    place_module(graph, node, pool, fallback=f"max_pool_{node.name}")
    node.args, node.kwargs = (source,), {}
