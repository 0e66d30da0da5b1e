"""What a graph costs: parameters, edges, and FLOPs of one forward pass, symbolic in batch B and sequence length S.

Counts of edges are of two sorts: of the graph as it is, where heads of a group share key and value ports, and
*ungrouped*, where each head has its own, as the literature counts them. FLOPs count a multiplication and an addition as
two, and matrix products only (norms, activations and softmax are of lower order).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import sympy

from graphir.ir import Graph, Node, NodeKind, WeightSlice

if TYPE_CHECKING:
    from numpy.typing import NDArray

B, S = sympy.symbols("B S", positive=True, integer=True)


@dataclass(frozen=True)
class Cost:
    """Costs of a graph or of a part of it. `flops` is in `B` and `S`; `notes` say what could not be counted."""

    nodes: int
    edges: sympy.Expr
    ungrouped_edges: sympy.Expr
    parameters: int
    flops: sympy.Expr
    notes: tuple[str, ...] = ()

    def flops_at(self, batch: int, length: int) -> int:
        """FLOPs of a forward pass at this batch size and length."""
        return int(self.flops.subs({B: batch, S: length}))

    def __str__(self) -> str:
        lines = [
            f"nodes       {self.nodes:,}",
            f"edges       {int(self.edges):,}",
            f"ungrouped   {int(self.ungrouped_edges):,}",
            f"parameters  {self.parameters:,}",
            f"FLOPs       {self.flops}",
            *(f"note        {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def measure_cost(graph: Graph, nodes: NDArray[np.bool_] | None = None, edges: NDArray[np.bool_] | None = None) -> Cost:
    """The cost of the graph, or of the nodes and edges that two masks keep."""
    keep = np.ones(len(graph.nodes), bool) if nodes is None else nodes
    kept = [i for i in range(len(graph.nodes)) if keep[i]]
    flops, notes = sympy.Integer(0), []
    for i in kept:
        part, note = node_flops(graph, graph.nodes[i])
        flops += part
        notes += [note] if note else []
    shared = [
        weights
        for weights, ports in graph.shared_weights.items()
        if any(keep[n] for p in ports for n in graph.ports[p].nodes)
    ]
    flops += sum((_linear(part) for weights in shared for part in weights), sympy.Integer(0))
    parameters = sum(graph.nodes[i].weights.size for i in kept) + sum(weights.size for weights in shared)
    if nodes is None:
        parameters += graph.rest.size
    return Cost(
        len(kept),
        edge_count(graph, edges=edges),
        edge_count(graph, ungrouped=True, edges=edges),
        parameters,
        sympy.factor(flops) if flops.is_Mul else sympy.collect(sympy.expand(flops), S),
        tuple(dict.fromkeys(notes)),
    )


def edge_count(graph: Graph, *, ungrouped: bool = False, edges: NDArray[np.bool_] | None = None) -> sympy.Integer:
    """Number of edges (of those in the mask `edges`); `ungrouped` counts one for each head behind a shared port."""
    dst = graph.edge_dst if edges is None else graph.edge_dst[edges]
    if not ungrouped:
        return sympy.Integer(len(dst))
    heads = [sum(graph.nodes[n].kind is NodeKind.HEAD for n in port.nodes) for port in graph.ports]
    users = np.maximum(heads, 1)  # the neurons of an MLP share its port in every count
    return sympy.Integer(int(users[dst].sum()))


def parameter_count(graph: Graph) -> int:
    """Scalars owned by nodes, by shared ports and by the rest: all of the model's, each once."""
    owned = sum(node.weights.size for node in graph.nodes) + sum(weights.size for weights in graph.shared_weights)
    return owned + graph.rest.size


def transformer_edges(
    layers: int | sympy.Expr,
    heads: int | sympy.Expr,
    groups: int | sympy.Expr | None = None,
    *,
    embeddings: int | sympy.Expr = 1,
    parallel: bool = False,
) -> sympy.Expr:
    """Edges of a decoder with split ports, in closed form; `groups` key/value groups, as many as heads by default.

    Layer l sees e + l(H + 1) writers before attention, H more before its MLP (none more when the two are parallel),
    so E = Σ_l [(H + 2G)(e + l(H+1)) + e + l(H+1) + H] + e + L(H+1), Bhaskar et al. 2024 with G = H.
    """
    layer = sympy.Symbol("l", integer=True, nonnegative=True)
    groups = heads if groups is None else groups
    seen = embeddings + layer * (heads + 1)
    ports = (heads + 2 * groups) * seen + seen + (0 if parallel else heads)
    total = sympy.summation(sympy.expand(ports), (layer, 0, layers - 1)) + embeddings + layers * (heads + 1)
    return sympy.expand(total)


def node_flops(graph: Graph, node: Node) -> tuple[sympy.Expr, str]:
    """FLOPs of one node in a forward pass, and what was not counted.

    A matrix costs 2·size·B·S; a table that is looked up costs nothing. A head adds scores and mixing, 4·width·B·S²,
    its width being that of its slices (taken to be all of one width, of key and value too where they are shared); a
    whole attention layer the same with the width of its output projection. An output that owns no matrix uses the
    embedding's (tied weights). Convolutions are not counted: their positions are not S.
    """
    if node.kind is NodeKind.EMBED:
        return sympy.Integer(0), ""
    if any(len(part.shape) > 2 for part in node.weights):
        return sympy.Integer(0), "convolutions and stacked experts are not counted"
    if node.kind is NodeKind.OUTPUT and not any(len(part.shape) == 2 for part in node.weights):
        tables = [p for n in graph.nodes if n.kind is NodeKind.EMBED for p in n.weights if len(p.shape) == 2]
        largest = max(tables, key=lambda part: part.size, default=None)
        return (sympy.Integer(0), "") if largest is None else (_linear(largest), "the output is tied to the embedding")
    flops = sum((_linear(part) for part in node.weights), sympy.Integer(0))
    note = "opaque nodes: matrix products with parameters only" if node.kind is NodeKind.OPAQUE else ""
    if node.kind is NodeKind.HEAD:
        flops += 4 * _head_width(graph, node) * B * S**2
    if node.kind is NodeKind.LAYER:
        flops += 4 * _layer_width(graph, node) * B * S**2
    return flops, note


def _linear(part: WeightSlice) -> sympy.Expr:
    return 2 * part.size * B * S if len(part.shape) == 2 else sympy.Integer(0)


def _head_width(graph: Graph, node: Node) -> int:
    """Width of a head: the rows of its slices over the number of projections that they are."""
    widths = [
        min(_taken(part, axis) for axis in range(2))
        for part in node.weights
        if len(part.shape) == 2 and any(spans is not None for spans in part.index)
    ]
    if not widths:  # a single head owns whole matrices
        whole = [part for part in node.weights if len(part.shape) == 2]
        return min((min(part.shape) for part in whole), default=0)
    projections = 1  # what it writes, and of what it reads the parts that it shares with no other head
    for port in (graph.ports[p] for p in node.ports if len(graph.ports[p].nodes) == 1):
        if len(port.weights):
            projections += port.kind == "in"
        else:
            projections += 3 if port.kind == "in" else 1
    return sum(widths) // projections


def _layer_width(graph: Graph, node: Node) -> int:
    """Width of all heads of a whole attention layer: what its last matrix, the output projection, reads."""
    matrices = [part.shape for part in node.weights if len(part.shape) == 2]
    tables = [part.shape[-1] for n in graph.nodes if n.kind is NodeKind.EMBED for part in n.weights]
    if not matrices:
        return 0
    others = [length for length in matrices[-1] if length not in tables]
    return others[0] if others else min(matrices[-1])


def _taken(part: WeightSlice, axis: int) -> int:
    spans = part.index[axis]
    return part.shape[axis] if spans is None else sum(stop - start for start, stop in spans)
