"""Which operations a converted network performs: SynOps behind every spike, MACs of every analog layer.

What counts as what is declared by the structure, never guessed from values:

* a spike that arrives at a convolution, a linear layer, a pooling or an identity shortcut is one SynOp per synapse it
  reaches, padding and stride counted exactly; the units of a max-pool of spikes are neurons with spikes of their own;
* a convolution or linear layer whose input is analog (the image, an average of spikes, another layer's current) does
  its dense MACs: once per image if its input is constant over time, else once per timestep. MACs at padded positions
  are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from methods.errors import ConversionError
from methods.neurons import SpikingNeuron, Stateful
from methods.pooling import CurrentMaxPool, SpikeMaxPool, max_pool_module
from methods.rewrite import ChannelScale
from methods.tracing import (
    BATCH_NORMS,
    CONCATENATIONS,
    CONVOLUTIONS,
    SIZE_FUNCTIONS,
    SYNAPSES,
    describe,
    is_addition,
    is_average,
    is_call,
    is_max_pool,
    is_relu,
    is_reshaping,
    module_of,
)


class Signal(Enum):
    """What a node's output carries."""

    CONSTANT = "the image, or something computed from it alone"
    SPIKE = "spikes"
    GRADED = "averages of spikes"
    CURRENT = "input current"
    SIZE = "no signal"


@dataclass(frozen=True)
class Site:
    """One spiking layer.

    `shape` is one image's; `fan_out` the mean number of synapses that a spike reaches; `synapses` their sum over the
    layer (its SynOps if every neuron spikes once); `kind` is `binary` or `signed`.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    fan_out: float
    synapses: int

    @property
    def neurons(self) -> int:
        """Number of neurons in the layer."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class AnalogLayer:
    """One layer that multiplies: its MACs per image, and whether it runs `once` per image or every `timestep`."""

    name: str
    macs: int
    runs: str
    input: str


def signals(graph: fx.GraphModule) -> dict[fx.Node, Signal]:
    """What every node carries. Raises ConversionError for an operation that has no spiking counterpart."""
    known: dict[fx.Node, Signal] = {}
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            known[node] = Signal.CONSTANT
        elif node.op == "output":
            continue
        else:
            known[node] = _signal(graph, node, [known[source] for source in node.all_input_nodes])
    return known


def _signal(graph: fx.GraphModule, node: fx.Node, inputs: list[Signal]) -> Signal:  # noqa: PLR0911  (one per kind of node)
    module = module_of(graph, node)
    if isinstance(module, SpikingNeuron):
        return Signal.SPIKE
    if is_relu(graph, node):
        raise ConversionError(
            f"{describe(graph, node)} was left: every ReLU must become a spiking neuron. "
            "Convert the network that `prepare` returned."
        )
    carried = [signal for signal in inputs if signal is not Signal.SIZE]
    if is_call(node, SIZE_FUNCTIONS) or not carried:
        return Signal.SIZE
    if all(signal is Signal.CONSTANT for signal in carried):
        return Signal.CONSTANT
    if isinstance(module, (*SYNAPSES, *BATCH_NORMS, CurrentMaxPool)) or is_addition(node):
        return Signal.CURRENT
    if is_average(graph, node):
        return Signal.CURRENT if Signal.CURRENT in carried else Signal.GRADED
    if is_max_pool(graph, node):
        return _pooled(graph, node, carried)
    if is_reshaping(graph, node) or is_call(node, CONCATENATIONS) or _is_scaling(graph, node):
        return _joined(carried)
    raise ConversionError(f"{describe(graph, node)} has no spiking counterpart here.")


def _joined(carried: Sequence[Signal]) -> Signal:
    """Spikes stay spikes only among themselves: beside anything analog they are no longer told apart."""
    if len(set(carried)) == 1:
        return carried[0]
    return Signal.GRADED if Signal.GRADED in carried else Signal.CURRENT


def _pooled(graph: fx.GraphModule, node: fx.Node, carried: Sequence[Signal]) -> Signal:
    """What a max-pool that is still to be replaced will send on."""
    if Signal.GRADED in carried:
        raise ConversionError(
            f"{describe(graph, node)} takes averages of spikes: their maximum is neither a spike nor a sum of currents. "
            "Use average pooling there."
        )
    max_pool_module(graph, node)
    return carried[0]


def _is_scaling(graph: fx.GraphModule, node: fx.Node) -> bool:
    factor = is_call(node, (torch.mul,)) and len(node.all_input_nodes) == 1
    return factor or isinstance(module_of(graph, node), ChannelScale)


class Accounting:
    """Fan-out maps and MACs of a converted graph, for one image shape.

    Args:
        graph: the converted network.
        image: [1, ...], an image of the shape to account for; its values do not matter.
    """

    def __init__(self, graph: fx.GraphModule, image: Tensor):
        self._graph = graph
        self._signals = signals(graph)
        ShapeProp(graph).propagate(image)
        for module in graph.modules():
            if isinstance(module, Stateful):
                module.reset()
        self.fan_out: dict[str, Tensor] = {}
        self.sites: tuple[Site, ...] = ()
        self.analog: tuple[AnalogLayer, ...] = ()
        for node in graph.graph.nodes:
            module = module_of(graph, node)  # type: ignore[assignment]
            if isinstance(module, SpikingNeuron):
                self._add_site(node, module)
            elif isinstance(module, (*SYNAPSES, *BATCH_NORMS)):
                self._add_analog(node, module)

    @property
    def macs_once(self) -> int:
        """MACs per image that do not depend on the number of timesteps."""
        return sum(layer.macs for layer in self.analog if layer.runs == "once")

    @property
    def macs_per_timestep(self) -> int:
        """MACs per image of every timestep."""
        return sum(layer.macs for layer in self.analog if layer.runs == "timestep")

    def _add_site(self, node: fx.Node, neuron: SpikingNeuron) -> None:
        fan_out = self._fan_out(node)
        name = str(node.target)
        self.fan_out[name] = fan_out
        synapses = int(fan_out.sum())
        self.sites += (Site(name, tuple(fan_out.shape), neuron.kind, synapses / fan_out.numel(), synapses),)

    def _add_analog(self, node: fx.Node, module: nn.Module) -> None:
        source = node.all_input_nodes[0]
        signal = self._signals[source]
        if signal is Signal.SPIKE:
            return
        if isinstance(module, BATCH_NORMS):
            macs = math.prod(_shape(node))
        else:
            macs = int((_synapses_of(module, _shape(source)) * self._analog_part(source)).sum())
        runs = "once" if signal is Signal.CONSTANT else "timestep"
        self.analog += (AnalogLayer(str(node.target), macs, runs, signal.name.lower()),)

    def _analog_part(self, node: fx.Node) -> Tensor:
        """1 where a node's values are analog, 0 where they are spikes, which a concatenation may hold too."""
        if is_call(node, CONCATENATIONS) and self._signals[node] is not Signal.SPIKE:
            axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
            axis = axis if axis < 0 else axis - 1  # type: ignore[operator]
            return torch.cat([self._analog_part(part) for part in node.args[0]], axis)  # type: ignore[union-attr,arg-type]
        return torch.full(_shape(node), float(self._signals[node] is not Signal.SPIKE), dtype=torch.float64)

    def _fan_out(self, node: fx.Node) -> Tensor:
        """Synapses behind every value of a node that carries spikes: float64, one image's shape."""
        total = torch.zeros(_shape(node), dtype=torch.float64)
        for user in node.users:
            if user.op != "output" and not is_call(user, SIZE_FUNCTIONS):
                total += self._fan_out_into(node, user)
        return total

    def _fan_out_into(self, node: fx.Node, user: fx.Node) -> Tensor:
        shape = _shape(node)
        module = module_of(self._graph, user)
        if isinstance(module, SYNAPSES):
            return _synapses_of(module, shape)
        if isinstance(module, SpikeMaxPool):
            return _pool_windows(vars(module.pool), shape)
        if is_average(self._graph, user):
            return _average_windows(self._graph, user, shape)
        if is_addition(user) or isinstance(module, (*BATCH_NORMS, SpikingNeuron)):
            return torch.ones(shape, dtype=torch.float64)
        if is_reshaping(self._graph, user) or is_call(user, CONCATENATIONS) or _is_scaling(self._graph, user):
            return self._pull_back(node, user, self._fan_out(user))
        raise ConversionError(f"{describe(self._graph, user)} takes spikes, but its synapses cannot be counted.")

    def _pull_back(self, node: fx.Node, user: fx.Node, beyond: Tensor) -> Tensor:
        """`beyond`, the map behind `user`'s output, as a map over `node`: user only moves values around."""
        with torch.enable_grad():
            values: dict[fx.Node, Any] = {
                source: torch.zeros((1, *_shape(source)), dtype=torch.float64)
                if "tensor_meta" in source.meta and hasattr(source.meta["tensor_meta"], "shape")
                else self._size_value(source)
                for source in user.all_input_nodes
            }
            values[node].requires_grad_(True)
            args, kwargs = fx.node.map_arg((user.args, user.kwargs), lambda source: values[source])
            moved: Any
            if _is_scaling(self._graph, user):
                moved = args[0]
            elif user.op == "call_module":
                moved = self._graph.get_submodule(str(user.target))(*args, **kwargs)
            elif user.op == "call_method":
                moved = getattr(args[0], str(user.target))(*args[1:], **kwargs)
            else:
                moved = user.target(*args, **kwargs)  # type: ignore[operator]
            (moved * beyond).sum().backward()
            gradient = values[node].grad
        return torch.zeros(_shape(node), dtype=torch.float64) if gradient is None else gradient[0]

    def _size_value(self, node: fx.Node) -> Any:
        """A size that the graph reads, for one image."""
        source = node.args[0]
        if (
            isinstance(source, fx.Node)
            and "tensor_meta" in source.meta
            and hasattr(source.meta["tensor_meta"], "shape")
        ):
            size = torch.Size((1, *_shape(source)))
            if node.target == "dim":
                return len(size)
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            return size[axis] if isinstance(axis, int) else size
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._size_value)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _shape(node: fx.Node) -> tuple[int, ...]:
    """One image's shape of a node's output."""
    return tuple(node.meta["tensor_meta"].shape[1:])


def _synapses_of(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """How many synapses of `layer` each value of an input of `shape` reaches; float64."""
    if isinstance(layer, nn.Linear):
        return torch.full(shape, float(layer.out_features), dtype=torch.float64)
    assert isinstance(layer, CONVOLUTIONS)
    # All output channels of a group see an input channel alike, so one channel with unit weights tells the rest.
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(layer.kernel_size)]
    with torch.enable_grad():
        pixels = torch.zeros(1, 1, *shape[1:], dtype=torch.float64, requires_grad=True)
        padded: Tensor = pixels
        padding: Any = layer.padding
        if layer.padding_mode != "zeros":
            padded, padding = F.pad(pixels, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), 0
        ones = torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64)
        convolve(padded, ones, None, layer.stride, padding, layer.dilation).sum().backward()
    assert pixels.grad is not None
    return (pixels.grad[0] * (layer.out_channels // layer.groups)).expand(shape).clone()


def _average_windows(graph: fx.GraphModule, node: fx.Node, shape: tuple[int, ...]) -> Tensor:
    """In how many windows of an average pooling each value of its input lies; float64."""
    module = module_of(graph, node)
    if is_call(node, (torch.mean, "mean")):
        return torch.ones(shape, dtype=torch.float64)
    if "Adaptive" in type(module).__name__ or "adaptive" in getattr(node.target, "__name__", ""):
        return _adaptive_windows(shape, _shape(node))
    if module is not None:
        return _pool_windows(vars(module), shape)
    names = ("kernel_size", "stride", "padding", "ceil_mode")
    return _pool_windows({**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}, shape)


def _pool_windows(settings: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
    """In how many pooling windows each value of an input of `shape` lies, padding and ceil_mode included; float64."""
    counts = torch.ones(shape, dtype=torch.float64)
    for axis in range(1, len(shape)):
        kernel, padding, dilation = (
            _per_axis(settings.get(name, default), axis)
            for name, default in (("kernel_size", 1), ("padding", 0), ("dilation", 1))
        )
        stride = _per_axis(settings.get("stride") or settings["kernel_size"], axis)
        reach = dilation * (kernel - 1) + 1
        span = shape[axis] + 2 * padding - reach
        starts = -(-span // stride) if settings.get("ceil_mode") else span // stride
        line = torch.zeros(shape[axis], dtype=torch.float64)
        for start in range(-padding, -padding + starts * stride + 1, stride):
            if start >= shape[axis]:
                continue  # torch drops a window that would begin behind the image
            for position in range(start, start + reach, dilation):
                if 0 <= position < shape[axis]:
                    line[position] += 1
        counts *= line.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return counts


def _adaptive_windows(shape: tuple[int, ...], out: tuple[int, ...]) -> Tensor:
    counts = torch.ones(shape, dtype=torch.float64)
    for axis in range(1, len(out)):
        line = torch.zeros(shape[axis], dtype=torch.float64)
        for position in range(out[axis]):
            first = position * shape[axis] // out[axis]
            last = -(-(position + 1) * shape[axis] // out[axis])
            line[first:last] += 1
        counts *= line.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return counts


def _per_axis(value: Any, axis: int) -> int:
    return int(value[min(axis, len(value)) - 1] if isinstance(value, (tuple, list)) else value)
