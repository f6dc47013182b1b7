"""Several timesteps at once: every layer computes them all before the next layer starts, as rows of one batch.

Synapses work on few rows as slowly as on several; only neurons have to go through timesteps one after the other. Nothing
is rounded differently, as a row does not depend on its company (see `methods.packed`).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from methods.neurons import IFNeuron, SpikingNeuron, Stateful
from methods.tracing import module_of, place_module


class InTurn(nn.Module):
    """Gives a stateful module the rows of `steps` timesteps, [steps * B, ...], one timestep after the other."""

    def __init__(self, module: Stateful):
        super().__init__()
        self.module = module
        self.steps = 1
        self.counts: tuple[Tensor, Tensor] | None = None
        self._own_forward = isinstance(module, SpikingNeuron) and type(module).forward is SpikingNeuron.forward
        self._own_fire = isinstance(module, IFNeuron) and type(module).fire is IFNeuron.fire

    def forward(self, current: Tensor) -> Tensor:
        """What the module gives, in the same order; `counts` are then spikes and SynOps of every row."""
        module, parts = self.module, current.chunk(self.steps)
        if self._own_fire:
            assert isinstance(module, IFNeuron)
            together = torch.empty_like(current)
            for part, spikes in zip(parts, together.chunk(self.steps), strict=True):
                module.fire_into(part, spikes)
        elif self._own_forward:
            assert isinstance(module, SpikingNeuron)
            together = torch.cat([module.fire(part) for part in parts])
        else:
            return self._forward_in_turn(parts)
        if module.tally is not None:
            self.counts = module.tally(together)
        return together

    def _forward_in_turn(self, parts: tuple[Tensor, ...]) -> Tensor:
        given, counts = [], []
        for part in parts:
            given.append(self.module(part))
            if isinstance(self.module, SpikingNeuron) and self.module.counts is not None:
                counts.append(self.module.counts)
        if counts:
            spikes, synops = zip(*counts, strict=True)
            self.counts = torch.cat(spikes), torch.cat(synops)
        return torch.cat(given)


class Ahead:
    """Runs a graph of one timestep for several timesteps at once; its modules, with their states, are those of the graph."""

    def __init__(self, body: fx.GraphModule):
        self._body = fx.GraphModule(body, copy.deepcopy(body.graph))
        self._turns: list[InTurn] = []
        for node in list(self._body.graph.nodes):
            module = module_of(self._body, node)
            if isinstance(module, Stateful):
                turn = InTurn(module)
                place_module(self._body, node, turn, fallback=node.name)
                self._turns.append(turn)
        self._body.recompile()

    def __call__(self, currents: tuple[Tensor, ...], steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """All rows' logits [steps * R, K], spikes float64 [L, steps * R] and SynOps float64 [steps * R].

        Args:
            currents: [R, ...] each, the same in all timesteps.
            steps: number of timesteps.
        """
        for turn in self._turns:
            turn.steps, turn.counts = steps, None
        logits: Tensor = self._body(*(torch.cat([current] * steps) for current in currents))
        counts = [turn.counts for turn in self._turns if turn.counts is not None]
        return (
            logits,
            torch.stack([spikes for spikes, _ in counts]),
            torch.stack([synops for _, synops in counts]).sum(0),
        )
