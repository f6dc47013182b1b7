"""Exact rewritings of a network in eval mode: batch norm folded, what a spike is worth folded, shifts taken away."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from methods.neurons import SpikingNeuron
from methods.pooling import SpikeMaxPool
from methods.tracing import (
    BATCH_NORMS,
    CONCATENATIONS,
    CONVOLUTIONS,
    SIZE_FUNCTIONS,
    SYNAPSES,
    Untraced,
    is_addition,
    is_average,
    is_call,
    is_reshaping,
    keeps_shape,
    module_of,
    place_module,
)


class ChannelScale(Untraced):
    """Multiplies each channel by its own constant: [B, C, ...] in and out."""

    factor: Tensor

    def __init__(self, factor: Tensor):
        super().__init__()
        self.register_buffer("factor", factor.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] times `factor` [C]."""
        factor = self.factor.to(x.dtype)
        return x * factor.reshape(-1, *[1] * (x.dim() - 2))  # type: ignore[no-any-return]


def fold_batch_norms(graph: fx.GraphModule) -> int:
    """Fold each batch norm into the convolution or linear layer whose only consumer it is; returns how many.

    W' = W * g / sqrt(var + eps), b' = beta + (b - mean) * g / sqrt(var + eps). The others stay: in eval mode they
    are affine per timestep, which is as exact.
    """
    folded = 0
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        if not isinstance(norm, BATCH_NORMS) or norm.running_mean is None:
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node) or len(source.users) > 1:
            continue
        layer = module_of(graph, source)
        if isinstance(layer, CONVOLUTIONS):
            place_module(graph, source, fuse_conv_bn_eval(layer, norm), fallback=source.name)
        elif isinstance(layer, nn.Linear):
            place_module(graph, source, fuse_linear_bn_eval(layer, norm), fallback=source.name)
        else:
            continue
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
        folded += 1
    _clean(graph)
    return folded


Worth = float | Tensor


def fold_amplitudes(graph: fx.GraphModule) -> int:
    """Let neurons emit unit spikes by moving what a spike is worth into the synapses behind them.

    The weight of a convolution or linear layer is multiplied by it, per input channel where channels differ; pooling,
    reshaping and concatenation are passed; an identity shortcut becomes an addition with that weight. Where none of
    these follows, a multiplication by a constant stays. Shapes of a previous shape propagation are used where there are
    any. Returns the number of neurons handled.
    """
    worth: dict[fx.Node, Worth] = {}
    neurons = 0
    for node in list(graph.graph.nodes):
        module = module_of(graph, node)
        carried = {source: worth[source] for source in node.all_input_nodes if source in worth}
        if carried and not is_call(node, SIZE_FUNCTIONS):
            passed = _absorb(graph, node, module, carried)
            if passed is not None:
                worth[node] = passed
        if isinstance(module, SpikingNeuron) and not isinstance(module, SpikeMaxPool):
            neurons += 1
            amplitude = module.amplitude
            if isinstance(amplitude, Tensor) or amplitude != 1.0:
                worth[node] = amplitude
    _clean(graph)
    return neurons


def _absorb(
    graph: fx.GraphModule, node: fx.Node, module: nn.Module | None, carried: dict[fx.Node, Worth]
) -> Worth | None:
    """Make `node` right for inputs in units of `carried`; returns what its own output is worth, if that is not 1."""
    value = next(iter(carried.values()))
    # A linear layer works on the last axis, which is that of the channels in vectors alone.
    fits = not isinstance(module, nn.Linear) or not isinstance(value, Tensor) or _is_vector(graph, *carried)
    if isinstance(module, SYNAPSES) and fits:
        place_module(graph, node, _scaled(module, value), fallback=node.name)
        return None
    if isinstance(module, SpikeMaxPool) or _passes(graph, node, value):
        return value
    if is_call(node, CONCATENATIONS):
        joined = _joined(graph, node, carried)
        if joined is not None:
            return joined
    if is_addition(node) and "alpha" not in node.kwargs:
        scalar = next((each for each, worth in carried.items() if isinstance(worth, float)), None)
        if scalar is not None:
            factor = carried.pop(scalar)
            other = next((each for each in node.all_input_nodes if each is not scalar), scalar)
            if other in carried:
                other = _multiplied(graph, node, other, carried[other])
            node.op, node.target = "call_function", torch.add
            node.args, node.kwargs = (other, scalar), {"alpha": factor}
            return None
    for each, worth in carried.items():
        node.replace_input_with(each, _multiplied(graph, node, each, worth))
    return None


def _passes(graph: fx.GraphModule, node: fx.Node, value: Worth) -> bool:
    """Whether a node's output is worth what its input is, channel by channel, and those behind it can deal with that."""
    if is_average(graph, node):
        return not isinstance(value, Tensor) or not is_call(node, (torch.mean, "mean"))
    if not is_reshaping(graph, node):
        return False
    if not isinstance(value, Tensor) or keeps_shape(graph, node):
        return True
    return _flattens(graph, node) and _ends_in_linear(graph, node)


def _flattens(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node makes one vector of each image, channel after channel."""
    module = module_of(graph, node)
    if isinstance(module, nn.Flatten):
        return bool(module.start_dim == 1 and module.end_dim == -1)
    if is_call(node, (torch.flatten, "flatten")):
        given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
        return bool(given.get("start_dim", 0) == 1 and given.get("end_dim", -1) == -1)
    return False


def _ends_in_linear(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether all that reads a vector is a linear layer."""
    return all(
        isinstance(module_of(graph, user), nn.Linear) or (keeps_shape(graph, user) and _ends_in_linear(graph, user))
        for user in node.users
    )


def _is_vector(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is known to give [B, F]."""
    if "tensor_meta" in node.meta:
        return len(node.meta["tensor_meta"].shape) == 2
    while keeps_shape(graph, node):
        node = node.all_input_nodes[0]
    return _flattens(graph, node)


def _joined(graph: fx.GraphModule, node: fx.Node, carried: dict[fx.Node, Worth]) -> Worth | None:
    """What a concatenation of channels is worth, if all its inputs say so."""
    inputs = list(node.args[0]) if isinstance(node.args[0], (tuple, list)) else []
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    values = [carried[each] for each in inputs if isinstance(each, fx.Node) and each in carried]
    if len(values) != len(inputs):
        return None
    scalars = {value for value in values if isinstance(value, float)}
    if len(scalars) == 1 and len(values) == sum(isinstance(value, float) for value in values):
        return scalars.pop()
    if axis != 1:
        return None
    parts = []
    for each, value in zip(inputs, values, strict=True):
        channels = _channels(graph, each)
        part = value if isinstance(value, Tensor) else torch.full((channels or 0,), value, dtype=torch.float64)
        if len(part) != channels:
            return None
        parts.append(part.double())
    return torch.cat(parts)


def _channels(graph: fx.GraphModule, node: fx.Node) -> int | None:
    """The channels of a node's output, from its shape if that is known, else from the layers before it."""
    if "tensor_meta" in node.meta:
        return int(node.meta["tensor_meta"].shape[1])
    module = module_of(graph, node)
    for kinds, name in ((CONVOLUTIONS, "out_channels"), (nn.Linear, "out_features"), (BATCH_NORMS, "num_features")):
        if isinstance(module, kinds):
            return int(getattr(module, name))
    parts = [_channels(graph, source) for source in node.all_input_nodes]
    if is_call(node, CONCATENATIONS):
        return None if None in parts else sum(part for part in parts if part is not None)
    moved = is_reshaping(graph, node) and not keeps_shape(graph, node)
    return None if moved or not parts else parts[0]


def _scaled(layer: Any, value: Worth) -> nn.Module:
    """A copy of a convolution or linear layer for inputs in units of `value`."""
    scaled = copy.deepcopy(layer)
    with torch.no_grad():
        if not isinstance(value, Tensor):
            scaled.weight.mul_(value)
            return scaled  # type: ignore[no-any-return]
        value = value.to(scaled.weight)
        if isinstance(layer, nn.Linear):
            scaled.weight.mul_(value.repeat_interleave(layer.in_features // len(value)))
        else:
            weight = scaled.weight
            grouped = weight.view(layer.groups, -1, *weight.shape[1:])
            grouped.mul_(value.reshape(layer.groups, 1, -1, *[1] * (weight.dim() - 2)))
    return scaled  # type: ignore[no-any-return]


def _multiplied(graph: fx.GraphModule, user: fx.Node, source: fx.Node, value: Worth) -> fx.Node:
    """A node before `user` that is `source` times `value`."""
    with graph.graph.inserting_before(user):
        if not isinstance(value, Tensor):
            return graph.graph.call_function(torch.mul, (source, value))
        product = graph.graph.call_function(torch.mul, (source,))
    place_module(graph, product, ChannelScale(value), fallback=f"worth_{source.name}")
    return product


def without_shifts(graph: fx.GraphModule) -> fx.GraphModule:
    """The same network for timesteps without any drive: no biases, no shifts of batch norm, no constants added.

    Weights and neurons, with their state, are shared with `graph`; its placeholders are to be fed with zeros.
    """
    bare = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    for node in list(bare.graph.nodes):
        module = module_of(bare, node)
        if isinstance(module, SYNAPSES) and module.bias is not None:
            plain = _sharing(module)
            plain._parameters["bias"] = None
            place_module(bare, node, plain, fallback=node.name)
        elif isinstance(module, BATCH_NORMS):
            plain = _sharing(module)
            plain._buffers["running_mean"] = torch.zeros_like(module.running_mean)  # type: ignore[arg-type]
            if module.bias is not None:
                plain._parameters["bias"] = nn.Parameter(torch.zeros_like(module.bias), requires_grad=False)
            place_module(bare, node, plain, fallback=node.name)
    _without_constants(bare)
    _clean(bare)
    return bare


def _without_constants(graph: fx.GraphModule) -> None:
    """Put zeros in the place of what is made of parameters alone; only additions can read it."""
    made: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "get_attr" or (node.all_input_nodes and made.issuperset(node.all_input_nodes)):
            made.add(node)
    for node in made:
        readers = [user for user in node.users if user not in made]
        if readers:
            with graph.graph.inserting_after(node):
                nothing = graph.graph.call_function(torch.zeros_like, (node,))
            for reader in readers:
                reader.replace_input_with(node, nothing)


def _sharing(module: nn.Module) -> nn.Module:
    """A module of its own with the same parameters and buffers."""
    twin = copy.copy(module)
    twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
    return twin


def _clean(graph: fx.GraphModule) -> None:
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
