"""A timestep recorded once as a CUDA graph and replayed: one launch for some hundred kernels, which a small batch waits for."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.fused import neurons_are_eager
from methods.neurons import State, Stateful

# Recording costs as much as some ten timesteps: not for a batch that is on its way to another size.
STEPS_BEFORE = 8
MOST_GRAPHS = 8

Outputs = tuple[Tensor, ...]
Simulate = Callable[[tuple[Tensor, ...]], Outputs]


@dataclass
class _Graph:
    """One recorded timestep: the tensors that it reads and writes, and how to run it."""

    currents: tuple[Tensor, ...]
    states: list[State]
    outputs: Outputs
    replay: Callable[[], None]


def cuda_graph(work: Callable[[], Outputs], pool: Any) -> tuple[Outputs, Callable[[], None]]:
    """Record `work`; gives the tensors that its results will be in after each call of the second."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = work()
    return outputs, graph.replay


class Replaying:
    """Runs timesteps, and replays those that come often.

    A recorded timestep works on fixed tensors. Before it is replayed, states and currents that lie elsewhere, because images
    have left, come or begun, are copied there; after that they are where they have to be.

    Args:
        stateful: the modules with states, all `replayable`.
    """

    def __init__(self, stateful: Sequence[Stateful]):
        self._stateful = stateful
        self.forget()

    def forget(self) -> None:
        """Drop what was recorded: the weights have moved."""
        self._graphs: dict[Hashable, list[_Graph]] = {}
        self._seen: Counter[Hashable] = Counter()
        # Between two timesteps nothing lives in it, so that all graphs can share it.
        self._pool: Any = None
        self._refused = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Replaying:
        return Replaying(copy.deepcopy(self._stateful, memo))

    def __call__(
        self, kind: Hashable, currents: tuple[Tensor, ...], simulate: Simulate
    ) -> tuple[Outputs, tuple[Tensor, ...]]:
        """One timestep.

        Args:
            kind: what else decides about the operations, besides the shapes of currents and states.
            currents: of the images [R, ...].
            simulate: from currents to outputs.

        Returns:
            Outputs, which are the caller's, and the currents to go on with: those of the graph, if it was replayed.
        """
        key = (kind, _rounding(), *((tuple(current.shape), current.dtype, current.device) for current in currents))
        for graph in self._graphs.get(key, []):
            if self._take_in(graph, currents):
                graph.replay()
                return tuple(output.clone() for output in graph.outputs), graph.currents
        outputs = simulate(currents)
        self._seen[key] += 1
        if self._seen[key] >= STEPS_BEFORE and sum(map(len, self._graphs.values())) < MOST_GRAPHS and not self._refused:
            self._add(key, currents, simulate)
        return outputs, currents

    def _take_in(self, graph: _Graph, currents: tuple[Tensor, ...]) -> bool:
        """Bring currents and states to where the graph reads them; False if it is not for states such as these."""
        copies: list[tuple[Tensor, Tensor]] = []
        for module, states in zip(self._stateful, graph.states, strict=True):
            for name, place in states.items():
                own = getattr(module, name)
                if own is place:
                    continue
                if place is None:
                    return False
                if own is None:
                    try:
                        own = module.initial_state(name, place)
                    except NotImplementedError:
                        return False
                if (own.shape, own.dtype) != (place.shape, place.dtype):
                    return False
                copies.append((place, own))
        copies += [(place, own) for place, own in zip(graph.currents, currents, strict=True) if own is not place]
        for place, own in copies:
            place.copy_(own)
        for module, states in zip(self._stateful, graph.states, strict=True):
            module.restore(dict(states))
        return True

    def _add(self, key: Hashable, currents: tuple[Tensor, ...], simulate: Simulate) -> None:
        """Record the timestep; the states as they are now become its places."""
        states = [module.set_aside() for module in self._stateful]
        places = tuple(current.clone() for current in currents)

        def work() -> Outputs:
            outputs = simulate(places)
            for module, own in zip(self._stateful, states, strict=True):
                for name, place in own.items():
                    found = getattr(module, name)
                    if found is not place and place is not None:
                        place.copy_(found)
            return outputs

        try:
            if self._pool is None:
                self._pool = new_pool()
            outputs, replay = cuda_graph(work, self._pool)
        except RuntimeError as error:
            # For example a layer of a plugin that asks the device for a number.
            self._refused = True
            warnings.warn(f"this network cannot be recorded as a CUDA graph: {error}", stacklevel=2)
            return
        finally:
            for module, own in zip(self._stateful, states, strict=True):
                module.restore(own)
        self._graphs.setdefault(key, []).append(_Graph(places, states, outputs, replay))


def new_pool() -> Any:
    """Memory for graphs."""
    return torch.cuda.graph_pool_handle()


def _rounding() -> Hashable:
    """The settings that decide which kernels run."""
    backends = torch.backends
    return (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        backends.cudnn.deterministic,
        backends.cudnn.benchmark,
    )


def plain(kind: Hashable, currents: tuple[Tensor, ...], simulate: Simulate) -> tuple[Outputs, tuple[Tensor, ...]]:
    """As `Replaying`, but never recorded."""
    return simulate(currents), currents


def replays(device: torch.device) -> bool:
    """Whether timesteps on this device are to be recorded: on GPUs, unless weights are cast on the way (autocast).

    Nor within `eager_neurons`, where all is to be plain torch code.
    """
    return device.type == "cuda" and not torch.is_autocast_enabled("cuda") and not neurons_are_eager()
