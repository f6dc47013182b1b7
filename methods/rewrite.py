"""Exact rewritings of a network in eval mode: folding batch norm, and folding what a spike is worth."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from methods.neurons import SpikingNeuron
from methods.tracing import (
    BATCH_NORMS,
    CONVOLUTIONS,
    SIZE_FUNCTIONS,
    SYNAPSES,
    is_addition,
    is_average,
    is_call,
    is_reshaping,
    module_of,
    place_module,
)


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


def fold_amplitudes(graph: fx.GraphModule) -> int:
    """Let neurons emit unit spikes by moving what a spike is worth into the synapses behind them.

    The weight of a convolution or linear layer is multiplied by the amplitude; an average pooling or reshaping, being
    linear, is passed; an identity shortcut becomes an addition with that weight. Where none of these follows, the
    multiplication stays. Returns the number of neurons handled.
    """
    neurons = [node for node in graph.graph.nodes if isinstance(module_of(graph, node), SpikingNeuron)]
    for node in neurons:
        neuron = module_of(graph, node)
        assert isinstance(neuron, SpikingNeuron)
        for user in list(node.users):
            _scale_input(graph, node, user, neuron.amplitude)
    _clean(graph)
    return len(neurons)


def _scale_input(graph: fx.GraphModule, source: fx.Node, user: fx.Node, factor: float) -> None:
    """Make `user` see `source` times `factor`."""
    layer = module_of(graph, user)
    if is_call(user, SIZE_FUNCTIONS):
        return
    if isinstance(layer, SYNAPSES):
        scaled = copy.deepcopy(layer)
        with torch.no_grad():
            scaled.weight.mul_(factor)
        place_module(graph, user, scaled, fallback=user.name)
    elif is_average(graph, user) or is_reshaping(graph, user):
        for follower in list(user.users):
            _scale_input(graph, user, follower, factor)
    elif is_addition(user) and "alpha" not in user.kwargs:
        other = next((node for node in user.all_input_nodes if node is not source), source)
        user.op, user.target = "call_function", torch.add
        user.args, user.kwargs = (other, source), {"alpha": factor}
    else:
        with graph.graph.inserting_before(user):
            product = graph.graph.call_function(torch.mul, (source, factor))
        user.replace_input_with(source, product)


def _clean(graph: fx.GraphModule) -> None:
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
