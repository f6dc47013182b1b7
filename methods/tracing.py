"""From a module to a graph of operations (torch.fx), and what the operations are."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from methods.errors import ConversionError


class QuantisedActivation(nn.Module):
    """Marks the activations that a conversion turns into spiking neurons. Never traced through."""


LEAVES: tuple[type[nn.Module], ...] = (QuantisedActivation,)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SYNAPSES = (*CONVOLUTIONS, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AVERAGE_POOLS = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d)
SHAPE_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)

RELU_FUNCTIONS: tuple[Any, ...] = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
ADD_FUNCTIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
SHAPE_FUNCTIONS: tuple[Any, ...] = (
    torch.flatten,
    torch.reshape,
    torch.squeeze,
    torch.unsqueeze,
    torch.permute,
    "flatten",
    "view",
    "reshape",
    "squeeze",
    "unsqueeze",
    "permute",
    "contiguous",
)
AVERAGE_FUNCTIONS: tuple[Any, ...] = (
    F.avg_pool1d,
    F.avg_pool2d,
    F.avg_pool3d,
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    torch.mean,
    "mean",
)
# Reading a size is no arithmetic on the signal.
SIZE_FUNCTIONS: tuple[Any, ...] = (getattr, "size", "dim")
CONCATENATIONS: tuple[Any, ...] = (torch.cat, torch.concat)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, LEAVES) or super().is_leaf_module(module, qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of `model`, sharing its parameters.

    Raises ConversionError where the forward pass depends on values (torch.fx cannot follow it).
    """
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # fx raises whatever the forward pass raises on symbolic values
        raise ConversionError(
            f"{type(model).__name__} cannot be traced by torch.fx: {error}. "
            "Rewrite its forward pass without branches on tensor values."
        ) from error


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The submodule that a node calls, or None."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_call(node: fx.Node, functions: tuple[Any, ...]) -> bool:
    """Whether a node calls one of the functions (or methods, given by name)."""
    return node.op in ("call_function", "call_method") and any(node.target is f or node.target == f for f in functions)


def is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a plain ReLU, as a module or a function."""
    return isinstance(module_of(graph, node), nn.ReLU) or is_call(node, RELU_FUNCTIONS)


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two tensors."""
    return is_call(node, ADD_FUNCTIONS) and len(node.all_input_nodes) == 2


def is_average(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is an average pooling, as a module or a function."""
    return isinstance(module_of(graph, node), AVERAGE_POOLS) or is_call(node, AVERAGE_FUNCTIONS)


def is_reshaping(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node only moves values around (dropout is an identity in eval mode)."""
    return isinstance(module_of(graph, node), SHAPE_MODULES) or is_call(node, SHAPE_FUNCTIONS)


def describe(graph: fx.GraphModule, node: fx.Node) -> str:
    """A node in words, for error messages."""
    module = module_of(graph, node)
    if module is not None:
        return f"{type(module).__name__} {str(node.target)!r}"
    return f"{getattr(node.target, '__name__', node.target)} ({node.name})"


def place_module(graph: fx.GraphModule, node: fx.Node, module: nn.Module, fallback: str) -> None:
    """Make `node` call `module`, under the node's own path if no other node calls that, else under a new name."""
    if node.op == "call_module":
        path = str(node.target)
        callers = [other for other in graph.graph.nodes if other.op == "call_module" and other.target == node.target]
        if len(callers) > 1:
            path = _free_path(graph, path)
    else:
        path = _free_path(graph, fallback)
    graph.add_submodule(path, module)
    node.op, node.target = "call_module", path


def _free_path(graph: fx.GraphModule, path: str) -> str:
    taken = {name for name, _ in graph.named_modules()}
    candidate, number = path, 0
    while candidate in taken:
        number += 1
        candidate = f"{path}_{number}"
    return candidate


def replace_nodes(
    graph: fx.GraphModule, matches: Callable[[fx.Node], bool], make: Callable[[fx.Node], nn.Module]
) -> int:
    """Replace every matching node by a module made for it, with its first tensor input; returns how many."""
    count = 0
    for node in list(graph.graph.nodes):
        if not matches(node):
            continue
        source = node.all_input_nodes[0]
        place_module(graph, node, make(node), fallback=f"activation_{node.name}")
        node.args, node.kwargs = (source,), {}
        count += 1
    graph.graph.lint()
    graph.recompile()
    return count
