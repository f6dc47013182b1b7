"""A converted network as a file that other simulators and chips read: the Neuromorphic Intermediate Representation (NIR).

What NIR (1.0.8, Pedersen et al. 2024, arXiv:2311.14641) says, and what of ours it has no words for:

* Its IF is dv/dt = R I in continuous time, fires at v > v_threshold and is then set to v_reset; where v begins is left
  open. Ours is v += I once per timestep, fires at v >= v_threshold, and v_threshold is subtracted from it. So R is 1 for
  timesteps of length 1, v_reset is 0, and the rest is in the metadata of each IF node: `reset` = "subtract", `fires` =
  "v >= v_threshold", and `v_init`, the membrane before the first timestep, one number per neuron. A simulator that
  ignores them runs another network: hard reset loses what lies above the threshold.
* The graph's metadata says how to run it: `timestep` = 1.0, `synaptic_delay` = 0 (a spike arrives in the timestep in which
  it is fired), `input` (the image is a constant current in every timestep, as all biases are) and `output` (the logits
  are the sum of the outputs over the timesteps).
* Spikes have the value 1; what they are worth is in the weights behind them. Several edges into one node add up.

Why metadata: v(0) could be said in NIR itself by shifting the membrane, v_threshold = th - v(0) and v_reset = -v(0), or by a
second input that is 1 in the first timestep only; soft reset by an integrator, a Threshold node and an edge back. But
the simulators and chips with soft reset subtract v_threshold, which is then the wrong amount, most readers expect one
input, and none takes the last for a neuron.

What could only be written inexactly is refused.
"""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn

from benchmark.errors import UsageError
from methods.accounting import Signal, signals
from methods.errors import ConversionError
from methods.network import SpikingNetwork
from methods.neurons import IFNeuron, SpikingNeuron
from methods.rewrite import ChannelScale
from methods.tracing import describe, is_addition, is_average, is_call, is_reshaping, module_of

try:
    import nir
except ImportError as error:
    raise UsageError(
        f"NIR files need the package nir, which cannot be imported: {error}.", 'pip install "dynconf-bench[nir]"'
    ) from error

RUN = {
    "timestep": 1.0,
    "synaptic_delay": 0,
    "input": "constant current in every timestep",
    "output": "logits are the sum over timesteps",
}


def to_nir(network: SpikingNetwork) -> nir.NIRGraph:
    """The NIR graph of a converted network, in the precision of its weights; shapes are those of one image.

    IF nodes carry the names of `network.neurons`. See the module for what is in the metadata.

    Raises:
        ConversionError: something that NIR cannot say exactly (neurons other than `IFNeuron`, preludes, drive windows,
            maxima, concatenations, averages over padding), or that its own check of shapes gets wrong (grouped
            convolutions, kernels that are not square); names it.
        RuntimeError: no image shape is known yet; call `begin`, or convert with calibration images.
    """
    if network.prelude_steps:
        raise ConversionError(
            f"NIR cannot say that {network.report.method} runs a prelude of {network.prelude_steps} timesteps."
        )
    if network.schedule.drive is not None or network.schedule.settle is not None:
        raise ConversionError(
            f"NIR cannot say that in {network.report.method} the image and the biases act for some timesteps only."
        )
    neurons = sum(site.neurons for site in network.sites)
    writer = _Writer(network.graph)
    for node in network.graph.graph.nodes:
        writer.add(node)
    metadata = {**RUN, "method": network.report.method, "neurons": neurons}
    return nir.NIRGraph(nodes=writer.nodes, edges=writer.edges, metadata=metadata)


def write_nir(network: SpikingNetwork, path: str | Path) -> None:
    """Write `to_nir(network)` to an HDF5 file, by convention `*.nir`; raises what `to_nir` does, or OSError."""
    nir.write(path, to_nir(network))


class _Writer:
    """Adds the operations of a graph in order. The value of an fx node is the sum of the NIR nodes in `carriers`."""

    def __init__(self, graph: fx.GraphModule):
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self._graph = graph
        self._signals = signals(graph)
        self._carriers: dict[fx.Node, tuple[str, ...]] = {}
        wide = any(parameter.dtype == torch.float64 for parameter in graph.parameters())
        self._dtype = torch.float64 if wide else torch.float32

    def add(self, node: fx.Node) -> None:
        if node.op == "output":
            (result,) = node.all_input_nodes
            self._place("output", nir.Output(np.array(_shape(result))), self._carriers[result])
        elif self._signals[node] is not Signal.SIZE:
            self._carriers[node] = self._carried_by(node)

    def _carried_by(self, node: fx.Node) -> tuple[str, ...]:
        if node.op == "placeholder":
            if "input" in self.nodes:
                self._refuse(node, "a second input")
            return self._place("input", nir.Input(np.array(_shape(node))), ())
        if node.op == "get_attr":
            self._refuse(node, "a constant that is added")
        if is_addition(node):
            return self._sum(node)
        module = module_of(self._graph, node)
        source = next(each for each in node.all_input_nodes if each in self._carriers)
        before, after = _shape(source), _shape(node)
        if is_average(self._graph, node):
            pool = self._place(_name(node), self._pool(node, before, after), self._carriers[source])
            return pool if len(after) == len(before) else self._flattened(node, (before[0], 1, 1), pool)
        if is_reshaping(self._graph, node):
            if not is_call(node, (torch.permute, torch.transpose, "permute", "transpose")):
                if before == after:
                    return self._carriers[source]
                if len(after) == 1:
                    return self._flattened(node, before, self._carriers[source])
            self._refuse(node, f"a change of shape from {before} to {after}")
        return self._place(_name(node), self._layer(node, module, before, after), self._carriers[source])

    def _layer(
        self, node: fx.Node, module: nn.Module | None, before: tuple[int, ...], after: tuple[int, ...]
    ) -> nir.NIRNode:
        if isinstance(module, nn.Conv2d):
            return self._convolution(node, module, before, after)
        if isinstance(module, nn.Linear) and len(before) == 1:
            weight = self._array(module.weight)
            return nir.Linear(weight) if module.bias is None else nir.Affine(weight, self._array(module.bias))
        if isinstance(module, SpikingNeuron):
            return self._neuron(node, module, after)
        if isinstance(module, ChannelScale):
            return nir.Scale(self._array(module(torch.ones(1, *before).to(module.factor))[0]))
        factor = [value for value in node.args if isinstance(value, (int, float))]
        if is_call(node, (torch.mul, operator.mul)) and len(factor) == 1:
            return self._scale(after, factor[0])
        self._refuse(node, "what this operation does")

    def _convolution(
        self, node: fx.Node, layer: nn.Conv2d, before: tuple[int, ...], after: tuple[int, ...]
    ) -> nir.NIRNode:
        if layer.padding_mode != "zeros":
            self._refuse(node, f"{layer.padding_mode} padding")
        weight = self._array(layer.weight)
        bias = np.zeros(len(weight), weight.dtype) if layer.bias is None else self._array(layer.bias)
        padding = layer.padding
        made = nir.Conv2d(before[1:], weight, layer.stride, padding, layer.dilation, layer.groups, bias)
        shapes = made.input_type["input"], made.output_type["output"]
        if not (np.array_equal(shapes[0], before) and np.array_equal(shapes[1], after)):
            # nir 1.0.8 takes C / groups for C, and the height of a kernel for its width.
            self._refuse(
                node,
                f"groups or kernels like these ({layer.groups} groups, {layer.kernel_size}), for whose shapes nir takes "
                f"{shapes[0].tolist()} and {shapes[1].tolist()} instead of {list(before)} and {list(after)}",
            )
        return made

    def _neuron(self, node: fx.Node, neuron: SpikingNeuron, shape: tuple[int, ...]) -> nir.NIRNode:
        # A subclass fires or resets in some other way.
        if type(neuron) is not IFNeuron:
            self._refuse(node, f"{neuron.kind} neurons like {type(neuron).__name__}")
        membrane = neuron.start(torch.zeros(1, *shape, dtype=self._dtype))[0]
        threshold = torch.zeros_like(membrane) + neuron.level(membrane[None])
        return nir.IF(
            r=np.ones(shape, _numpy(membrane).dtype),
            v_threshold=_numpy(threshold.reshape(shape)),
            v_reset=np.zeros(shape, _numpy(membrane).dtype),
            metadata={"reset": "subtract", "fires": "v >= v_threshold", "v_init": _numpy(membrane)},
        )

    def _pool(self, node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> nir.NIRNode:
        if len(before) != 3:
            self._refuse(node, f"an average over inputs of shape {before}")
        module = module_of(self._graph, node)
        if is_call(node, (torch.mean, "mean")):
            given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | dict(node.kwargs)
            dims = given.get("dim")
            if not isinstance(dims, (tuple, list)) or {int(dim) % 4 for dim in dims} != {2, 3}:  # type: ignore[arg-type]
                self._refuse(node, f"a mean over dimensions {dims}")
            kernel = stride = before[1:]
        elif "daptive" in (type(module).__name__ if module is not None else getattr(node.target, "__name__", "")):
            if any(size % parts for size, parts in zip(before[1:], after[1:], strict=True)):
                self._refuse(node, f"windows of different sizes, {before[1:]} to {after[1:]}")
            kernel = stride = (before[1] // after[1], before[2] // after[2])
        else:
            names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
            given = (
                (dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)) if module is None else vars(module)
            )
            if _pair(given.get("padding", 0)) != (0, 0) or given.get("divisor_override") is not None:
                self._refuse(node, "whether padding counts in an average, or another divisor")
            kernel = _pair(given["kernel_size"])
            stride = _pair(given.get("stride") or kernel)
        whole = tuple((size - k) // s + 1 for size, k, s in zip(before[1:], kernel, stride, strict=True))
        if len(after) == 3 and whole != after[1:]:
            self._refuse(node, "windows over the edge (ceil_mode)")
        return nir.AvgPool2d(np.array(kernel), np.array(stride), np.array((0, 0)))

    def _sum(self, node: fx.Node) -> tuple[str, ...]:
        """The terms of an addition: no node of its own, as edges into the same node add up."""
        given: dict[str, Any] = dict(zip(("input", "other"), node.args, strict=False)) | dict(node.kwargs)
        first, second = given["input"], given["other"]
        if not _shape(first) == _shape(second) == _shape(node):
            self._refuse(node, f"a sum of shapes {_shape(first)} and {_shape(second)}")
        terms, alpha = list(self._carriers[first]), given.get("alpha", 1)
        more = self._carriers[second]
        if alpha != 1:
            more = self._place(f"{_name(node)}.alpha", self._scale(_shape(node), alpha), more)
        for term in more:
            # NIR allows one edge between two nodes; a term that is there twice takes a way round.
            again = term in terms
            terms += self._place(f"{_name(node)}.again", self._scale(_shape(node), 1), (term,)) if again else (term,)
        return tuple(terms)

    def _flattened(self, node: fx.Node, before: tuple[int, ...], carriers: tuple[str, ...]) -> tuple[str, ...]:
        made = nir.Flatten({"input": np.array(before)}, start_dim=0, end_dim=-1)
        return self._place(_name(node), made, carriers)

    def _scale(self, shape: tuple[int, ...], factor: float) -> nir.NIRNode:
        return nir.Scale(_numpy(torch.full(shape, factor, dtype=self._dtype)))

    def _array(self, tensor: Tensor) -> np.ndarray[Any, Any]:
        return _numpy(tensor.to(self._dtype))

    def _place(self, name: str, made: nir.NIRNode, carriers: tuple[str, ...]) -> tuple[str, ...]:
        free, number = name, 0
        while free in self.nodes:
            number += 1
            free = f"{name}_{number}"
        self.nodes[free] = made
        self.edges += [(carrier, free) for carrier in carriers]
        return (free,)

    def _refuse(self, node: fx.Node, what: str) -> NoReturn:
        raise ConversionError(f"{describe(self._graph, node)}: NIR cannot say {what}.")


def _name(node: fx.Node) -> str:
    """A module's path, else the operation's name; never one that `input` and `output` need."""
    name = str(node.target) if node.op == "call_module" else node.name
    return f"{name}_" if name in ("input", "output") else name


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape[1:])


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return int(first), int(second)


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy()
