"""From scores to circuits: the top n, or greedily from the outputs; nodes, and the edges among them.

Every circuit made under a bound ends with `Circuit.on_path`, which prunes to a fixed point.
"""

from __future__ import annotations

import heapq

import numpy as np

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.ir import Graph, NodeKind
from graphir.reach import links_of
from passes.base import Pass, RunContext, count_for, keep_top, provenance_of


def edge_circuit(
    found: Pass, context: RunContext, scores: np.ndarray, *, absolute: bool, select: str = "top"
) -> Circuit:
    """The circuit of the best edges by `scores` (E,) that the bound on edges allows; every edge where there is none.

    `select` is `top` or `greedy` (see `greedy_edges`).
    """
    graph = context.graph
    bound = context.bound("edges")
    count = len(scores) if bound is None else count_for(bound, len(scores))
    values = np.abs(scores) if absolute else scores
    kept = greedy_edges(graph, values, count) if select == "greedy" else keep_top(values, count)
    circuit = Circuit(
        graph, kept, np.ones(len(graph.nodes), bool), scores={"edges": scores}, ablation=context.task.ablation,
        provenance=provenance_of(found, context),
    )  # fmt: skip
    return circuit if bound is None else circuit.on_path()


def greedy_edges(graph: Graph, values: np.ndarray, count: int) -> np.ndarray:
    """`count` edges (E,) bool grown from the outputs: the best edge into a node that is already in comes in, and with
    it its writer and that writer's own incoming edges as candidates (`apply_greedy` of Hanna et al. 2024).

    Fewer where the outputs reach fewer. Not-a-number ranks last; ties go to the earlier edge.
    """
    values = np.nan_to_num(values, nan=-np.inf)
    starts = np.searchsorted(graph.edge_dst, np.arange(len(graph.ports) + 1))
    kept, inside, seen = np.zeros(len(values), bool), np.zeros(len(graph.nodes), bool), np.zeros(len(graph.ports), bool)
    heap: list[tuple[float, int]] = []

    def enter(node: int) -> None:
        inside[node] = True
        for port in graph.nodes[node].ports:
            if not seen[port]:
                seen[port] = True
                for edge in range(starts[port], starts[port + 1]):
                    heapq.heappush(heap, (-float(values[edge]), edge))

    for index in np.flatnonzero([n.kind is NodeKind.OUTPUT for n in graph.nodes]).tolist():
        enter(index)
    for _ in range(count):
        if not heap:
            break
        _, edge = heapq.heappop(heap)
        kept[edge] = True
        if not inside[graph.edge_src[edge]]:
            enter(int(graph.edge_src[edge]))
    return kept


def fixed_nodes(graph: Graph) -> np.ndarray:
    """Inputs and outputs (N,) bool: they belong to every circuit and are not selected."""
    return np.array([not node.ports or node.kind is NodeKind.OUTPUT for node in graph.nodes], bool)


def node_circuit(found: Pass, context: RunContext, scores: np.ndarray, *, absolute: bool) -> Circuit:
    """The circuit of the best nodes by `scores` (N,), inputs and outputs besides, and the edges among them.

    Bounds: on nodes, all nodes counted; on edges, the edges among them. Without one every node stays. `scores["edges"]`
    then holds, for each edge, the lower of its two ends' values, so that a ranking of edges brings in nodes whole.
    Raises `GraphirError` where a bound leaves no room for inputs and outputs.
    """
    graph = context.graph
    fixed = fixed_nodes(graph)
    values = np.nan_to_num(np.abs(scores) if absolute else scores, nan=-np.inf)
    count = _nodes_allowed(context, fixed, values)
    kept = keep_top(np.where(fixed, np.inf, values), count)
    edges = edges_among(graph, kept)
    circuit = Circuit(
        graph, edges, kept, scores={"nodes": scores, "edges": rank_edges(graph, values, fixed)},
        ablation=context.task.ablation, provenance=provenance_of(found, context),
    )  # fmt: skip
    return circuit if count == len(scores) else circuit.on_path()


def edges_among(graph: Graph, kept: np.ndarray) -> np.ndarray:
    """Edges (E,) bool whose writer is in `kept` (N,) and whose port serves a node in it."""
    links = links_of(graph)
    ports = np.zeros(links.n_ports, bool)
    ports[links.link_port[kept[links.link_node]]] = True
    among: np.ndarray = kept[links.src] & ports[links.dst]
    return among


def rank_edges(graph: Graph, values: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """A value for each edge (E,) from those of nodes (N,): the lower of its ends', the reader being the highest node
    behind the port. Fixed nodes count as the highest."""
    links = links_of(graph)
    top = float(values[~fixed].max(initial=0.0))
    values = np.where(fixed, top, values)
    ports = np.full(links.n_ports, -np.inf)
    np.maximum.at(ports, links.link_port, values[links.link_node])
    ranked: np.ndarray = np.minimum(values[links.src], ports[links.dst])
    return ranked


def _nodes_allowed(context: RunContext, fixed: np.ndarray, values: np.ndarray) -> int:
    """How many nodes the bounds allow, fixed ones included."""
    graph, total = context.graph, len(values)
    bound = context.bound("nodes")
    count = total if bound is None else count_for(bound, total)
    if (limit := context.bound("edges")) is not None:
        # Rank of each node; an edge is there once both its ends are, so ranks of edges say how many edges n nodes have.
        rank = np.empty(total)
        rank[np.argsort(-np.where(fixed, np.inf, values), kind="stable")] = np.arange(1, total + 1)
        entered = np.sort(-rank_edges(graph, -rank, np.zeros(total, bool)))
        allowed = count_for(limit, len(entered))
        if allowed < len(entered):
            count = min(count, int(entered[allowed]) - 1)
    if count < int(fixed.sum()):
        raise GraphirError(
            f"the bound leaves room for {count} nodes, the inputs and outputs alone are {int(fixed.sum())}",
            [f"the smallest share of nodes is {int(fixed.sum()) / total:.4%}"],
        )
    return count
