"""Several timesteps at once: every layer computes them all before the next layer starts, as rows of one batch.

Synapses work on few rows as slowly as on several; only neurons have to go through timesteps one after the other. On a CPU
nothing is rounded differently, as a row does not depend on its company (see `methods.packed`); on a GPU cuDNN chooses its
kernels by the number of rows, as it does for batches of different sizes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from methods.fused import fuses
from methods.neurons import IFNeuron, SpikingNeuron, Stateful
from methods.tracing import SYNAPSES, is_addition, module_of, place_module


class _Turn:
    """Into how many timesteps the rows fall, and the counts of every row: spikes, SynOps, and a unit that SynOps are in."""

    def __init__(self) -> None:
        self.steps = 1
        self.counts: tuple[Tensor, Tensor, int] | None = None


class InTurn(nn.Module):
    """Gives a stateful module the rows of several timesteps, [steps * B, ...], one timestep after the other.

    Args:
        module: any.
        in_place: whether its spikes may be written where its input was, which nobody else reads.
        constant: whether its input is that of one timestep, [B, ...], the same in all of them.
    """

    def __init__(self, module: Stateful, in_place: bool, constant: bool):
        super().__init__()
        self.module = module
        self.in_place = in_place
        self.constant = constant
        self.turn = _Turn()
        self._own_forward = isinstance(module, SpikingNeuron) and type(module).forward is SpikingNeuron.forward
        self._own_fire = isinstance(module, IFNeuron) and type(module).fire is IFNeuron.fire

    def forward(self, current: Tensor) -> Tensor:
        """What the module gives, in the same order; `turn.counts` are then those of the rows."""
        module, turn = self.module, self.turn
        parts = (current,) * turn.steps if self.constant else _parts(current, turn.steps)
        if module._forward_hooks or module._forward_pre_hooks:
            return self._forward_in_turn(parts)
        if self._own_forward and fuses(current):
            assert isinstance(module, SpikingNeuron)
            fused = module.fire_fused(current, turn.steps, self.constant, self.in_place)
            if fused is not None:
                turn.counts = None if module.counts is None else (*module.counts, 1)
                return fused
        if self._own_fire:
            assert isinstance(module, IFNeuron)
            together = current if self.in_place else self._empty(current)
            module.fire_each(parts, parts if self.in_place else _parts(together, turn.steps))
        elif self._own_forward:
            assert isinstance(module, SpikingNeuron)
            together = _joined([module.fire(part) for part in parts])
        else:
            return self._forward_in_turn(parts)
        if module.tally is not None:
            turn.counts = module.tally.in_units(together)
        return together

    def _empty(self, current: Tensor) -> Tensor:
        """For the rows of all timesteps, in the memory format of `current`."""
        if not self.constant or self.turn.steps == 1:
            return torch.empty_like(current)
        return torch.empty_like(current[:1].expand(self.turn.steps * len(current), *current.shape[1:]))

    def _forward_in_turn(self, parts: tuple[Tensor, ...]) -> Tensor:
        given, counts = [], []
        for part in parts:
            given.append(self.module(part))
            if isinstance(self.module, SpikingNeuron) and self.module.counts is not None:
                counts.append(self.module.counts)
        if counts:
            spikes, synops = zip(*counts, strict=True)
            self.turn.counts = torch.cat(spikes), torch.cat(synops), 1
        return _joined(given)


def _parts(rows: Tensor, steps: int) -> tuple[Tensor, ...]:
    return (rows,) if steps == 1 else rows.chunk(steps)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Ahead(nn.Module):
    """Runs a graph of one timestep for several timesteps at once; its modules, with their states, are those of the graph.

    For float32 without gradients. Where nobody else reads a sum of currents, it is formed in the first of them, and spikes
    take the place of the currents that made them: a hook that keeps the output of a layer has to copy it.
    """

    def __init__(self, body: fx.GraphModule):
        super().__init__()
        self._body = fx.GraphModule(body, copy.deepcopy(body.graph))
        self._turns: list[_Turn] = []
        constant: set[fx.Node] = set()
        for node in list(self._body.graph.nodes):
            module = module_of(self._body, node)
            if isinstance(module, Stateful):
                source = node.all_input_nodes[0]
                if source.op == "placeholder" and len(source.users) == 1:
                    constant.add(source)
                in_turn = InTurn(module, _is_read_once(self._body, source), source in constant)
                place_module(self._body, node, in_turn, fallback=node.name)
                self._turns.append(in_turn.turn)
            elif is_addition(node) and _adds_to_own(self._body, node):
                node.target = _added
        self._constant = [node in constant for node in self._body.graph.find_nodes(op="placeholder")]
        self._body.recompile()

    def forward(self, currents: tuple[Tensor, ...], steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """All rows' logits [steps * R, K], spikes float64 [L, steps * R] and SynOps float64 [steps * R].

        Args:
            currents: [R, ...] each, the same in all timesteps.
            steps: number of timesteps.
        """
        for turn in self._turns:
            turn.steps, turn.counts = steps, None
        rows = (
            current if constant or steps == 1 else torch.cat([current] * steps)
            for current, constant in zip(currents, self._constant, strict=True)
        )
        logits: Tensor = self._body(*rows)
        spikes, synops, units = zip(*(turn.counts for turn in self._turns if turn.counts is not None), strict=True)
        by_layer = torch.stack(synops).double()
        if any(unit != 1 for unit in units):
            by_layer.mul_(torch.tensor(units, dtype=torch.float64, device=logits.device)[:, None])
        return logits, torch.stack(spikes).double(), by_layer.sum(0)


def folds(device: torch.device) -> bool:
    """Whether several timesteps pay off on this device without packed layers: on GPUs, unless weights are cast (autocast)."""
    return device.type == "cuda" and not torch.is_autocast_enabled("cuda")


def _is_read_once(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node gives a tensor of its own, which a single other node reads."""
    return len(node.users) == 1 and (isinstance(module_of(graph, node), SYNAPSES) or node.target in (torch.add, _added))


def _adds_to_own(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an addition may be made in its first input."""
    return node.target is torch.add and len(node.args) == 2 and _is_read_once(graph, node.all_input_nodes[0])


def _added(first: Tensor, second: Tensor, alpha: float = 1.0) -> Tensor:
    """As `torch.add`, in the memory of `first`."""
    if first.shape != second.shape:
        return torch.add(first, second, alpha=alpha)
    return first.add_(second, alpha=alpha)
