"""From a module to a graph of operations (torch.fx), and what the operations are."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from methods.errors import ConversionError


class Untraced(nn.Module):
    """Marks modules that are one node of the graph, never traced through."""


class QuantisedActivation(Untraced):
    """Marks the activations that a conversion turns into spiking neurons."""


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
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
SHAPE_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, *DROPOUTS)

RELU_FUNCTIONS: tuple[Any, ...] = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
MAX_POOL_FUNCTIONS: tuple[Any, ...] = (
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    torch.max_pool1d,
    torch.max_pool2d,
    torch.max_pool3d,
)
ADD_FUNCTIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
# Parts of a tensor that share its memory. They are no operations of a spiking network, but may be written into.
VIEWS: tuple[Any, ...] = (
    operator.getitem,
    torch.narrow,
    "narrow",
    torch.select,
    "select",
    torch.chunk,
    "chunk",
    "split",
)
IN_PLACE: tuple[Any, ...] = (F.relu_, torch.relu_, "relu_", F.hardtanh_, operator.iadd, "add_")
SHAPE_FUNCTIONS: tuple[Any, ...] = (
    torch.flatten,
    torch.reshape,
    torch.squeeze,
    torch.unsqueeze,
    torch.permute,
    torch.transpose,
    "flatten",
    "view",
    "reshape",
    "squeeze",
    "unsqueeze",
    "permute",
    "transpose",
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


class _Proxy(fx.Proxy):
    def __iadd__(self, other: Any) -> fx.Proxy:
        # Without this, fx records `x += y` as an addition that leaves x alone.
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, Untraced) or super().is_leaf_module(module, qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of `model`, sharing its parameters, without operations that write into their input.

    Raises ConversionError where the forward pass depends on values (torch.fx cannot follow it), or writes into a tensor
    that is read later through a reshaped view.
    """
    try:
        model = _with_separate_activations(model)
        graph = fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # fx raises whatever the forward pass raises on symbolic values
        raise ConversionError(
            f"{type(model).__name__} cannot be traced by torch.fx: {error}. "
            "Rewrite its forward pass without branches on tensor values."
        ) from error
    for node in list(graph.graph.nodes):
        if is_call(node, (F.dropout,)):
            # As a module it follows train() and eval(), instead of the mode at the time of tracing.
            given = dict(zip(("p", "training", "inplace"), node.args[1:], strict=False)) | dict(node.kwargs)
            source = node.all_input_nodes[0]
            dropout = nn.Dropout(float(given.get("p", 0.5)), bool(given.get("inplace", False)))  # type: ignore[arg-type]
            dropout.train(bool(given.get("training", True)))
            place_module(graph, node, dropout, fallback=node.name)
            node.args, node.kwargs = (source,), {}
    _resolve_in_place(graph)
    graph.graph.lint()
    graph.recompile()
    return graph


def _with_separate_activations(model: nn.Module) -> nn.Module:
    """The model itself, or a copy in which batch norms that carry an activation (timm's) are a norm, then the activation."""
    if not any(_carries_activation(module) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _carries_activation(child):
                setattr(parent, name, _separated(child))
    return model


def _carries_activation(module: nn.Module) -> bool:
    return isinstance(module, BATCH_NORMS) and isinstance(getattr(module, "act", None), nn.Module)


def _separated(norm: Any) -> nn.Module:
    kind = next(kind for kind in BATCH_NORMS if isinstance(norm, kind))
    plain = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    kept = {key: value for key, value in norm.state_dict().items() if key in plain.state_dict()}
    plain.to(next((value for value in kept.values() if value.is_floating_point()), torch.zeros(())))
    plain.load_state_dict(kept)
    drop = getattr(norm, "drop", None)
    parts = [plain, *([drop] if isinstance(drop, nn.Module) else []), norm.act]
    return nn.Sequential(*parts).train(norm.training)


def _resolve_in_place(graph: fx.GraphModule) -> None:
    """Write out what in-place operations do: whoever reads the overwritten tensor later gets the result.

    Afterwards the order of nodes alone says what is read, and in-place additions become plain ones: spikes and cached
    currents must not be overwritten.
    """
    nodes = list(graph.graph.nodes)
    order = {node: position for position, node in enumerate(nodes)}
    for node in nodes:
        if not _writes_in_place(graph, node):
            continue
        for alias, same_shape in _aliases(graph, node.all_input_nodes[0], order, order[node]).items():
            for user in [user for user in alias.users if order[user] > order[node]]:
                if is_call(user, SIZE_FUNCTIONS):
                    continue
                if not same_shape:
                    raise ConversionError(
                        f"{describe(graph, node)} writes in place into what {describe(graph, user)} reads through a view "
                        "or a dropout; use the operation that is not in place."
                    )
                user.replace_input_with(alias, node)
        if is_addition(node):
            node.op, node.target = "call_function", torch.add


def _writes_in_place(graph: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(graph, node)
    if module is not None:
        return bool(getattr(module, "inplace", False)) and (is_relu(graph, node) or isinstance(module, DROPOUTS))
    # torch.nn.functional passes `inplace` on by name, however it was given.
    return is_call(node, IN_PLACE) or (is_relu(graph, node) and bool(node.kwargs.get("inplace")))


def _aliases(graph: fx.GraphModule, start: fx.Node, order: dict[fx.Node, int], before: int) -> dict[fx.Node, bool]:
    """The nodes up to `before` that share the memory of `start`, and whether all of it in the same shape."""
    found, waiting = {start: True}, [start]
    while waiting:
        node = waiting.pop()
        steps = [(user, _keeps_memory(graph, user)) for user in node.users if _is_alias(graph, user)]
        if _is_alias(graph, node):
            steps.append((node.all_input_nodes[0], _keeps_memory(graph, node)))
        for other, same_shape in steps:
            if order[other] < before and other not in found:
                found[other] = found[node] and same_shape
                waiting.append(other)
    return found


def _is_alias(graph: fx.GraphModule, node: fx.Node) -> bool:
    return is_reshaping(graph, node) or _writes_in_place(graph, node) or is_call(node, VIEWS)


def _keeps_memory(graph: fx.GraphModule, node: fx.Node) -> bool:
    if _writes_in_place(graph, node):
        return True
    # A dropout passes its input itself on in eval mode, but makes a tensor of its own in training mode.
    module = module_of(graph, node)
    return keeps_shape(graph, node) and not (isinstance(module, DROPOUTS) and module.training)


def keeps_shape(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node does nothing in eval mode."""
    return isinstance(module_of(graph, node), (nn.Identity, *DROPOUTS))


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The submodule that a node calls, or None."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_call(node: fx.Node, functions: tuple[Any, ...]) -> bool:
    """Whether a node calls one of the functions (or methods, given by name)."""
    return node.op in ("call_function", "call_method") and any(node.target is f or node.target == f for f in functions)


def is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a ReLU, clipped (ReLU6) or not, as a module or a function."""
    return relu_ceiling(graph, node) is not None


def relu_ceiling(graph: fx.GraphModule, node: fx.Node) -> float | None:
    """Where a ReLU ends: infinity for a plain one, 6 for ReLU6; None if the node is no ReLU."""
    module = module_of(graph, node)
    if isinstance(module, nn.ReLU) or is_call(node, RELU_FUNCTIONS):
        return math.inf
    if isinstance(module, nn.ReLU6) or is_call(node, (F.relu6,)):
        return 6.0
    if isinstance(module, nn.Hardtanh):
        low, high = module.min_val, module.max_val
    elif is_call(node, (F.hardtanh, F.hardtanh_)):
        given = dict(zip(("min_val", "max_val"), node.args[1:3], strict=False)) | dict(node.kwargs)
        low, high = given.get("min_val", -1.0), given.get("max_val", 1.0)  # type: ignore[assignment]
    else:
        return None
    return float(high) if low == 0 and high > 0 else None


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two tensors."""
    return is_call(node, ADD_FUNCTIONS) and len(node.all_input_nodes) == 2


def is_max_pool(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a max-pool with windows, as a module or a function."""
    return isinstance(module_of(graph, node), MAX_POOLS) or is_call(node, MAX_POOL_FUNCTIONS)


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
        return f"{module._get_name()} {str(node.target)!r}"
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
