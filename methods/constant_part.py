"""A network in two parts: what depends on the image alone, computed once, and what changes with time."""

from __future__ import annotations

from torch import fx

from methods.accounting import Signal, signals


def split_constant_part(graph: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule]:
    """What depends on the image alone, and the rest; the first returns the tuple that the second takes."""
    carried = signals(graph)
    nodes = list(graph.graph.nodes)
    constant = {node for node, signal in carried.items() if signal is Signal.CONSTANT}
    # What is made of parameters alone has no batch dimension to compact; each part computes it for itself.
    parameters: set[fx.Node] = set()
    # Sizes are read in each part, from what has been compacted there.
    sizes: set[fx.Node] = set()
    for node in nodes:
        if node in constant and node.op != "placeholder" and parameters.issuperset(node.all_input_nodes):
            parameters.add(node)
        if carried.get(node) is Signal.SIZE and (constant | sizes).issuperset(node.all_input_nodes):
            sizes.add(node)
    changing: set[fx.Node] = set()
    for node in reversed(nodes):
        needed = any(user in changing for user in node.users)
        if node not in constant | sizes or (needed and node in parameters | sizes):
            changing.add(node)
    boundary = [
        node for node in nodes if node in constant - parameters and any(user in changing for user in node.users)
    ]

    copied: dict[fx.Node, fx.Node] = {}
    before = fx.Graph()
    for node in nodes:
        if node in constant | sizes:
            copied[node] = before.node_copy(node, lambda source: copied[source])
    before.output(tuple(copied[node] for node in boundary))

    body = fx.Graph()
    copied = {node: body.placeholder(node.name) for node in boundary}
    for node in nodes:
        if node in changing:
            copied[node] = body.node_copy(node, lambda source: copied[source])
    return fx.GraphModule(graph, before), fx.GraphModule(graph, body)
