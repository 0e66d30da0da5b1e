"""Merge neurons that need not be told apart: the same model with fewer writers.

A masked run holds what every writer writes: of a graph by neuron that is width × tokens numbers for each neuron, tens
of gigabytes for a small language model. Under hard masks most neurons of an MLP have the same edges, and what they
write can be summed first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graphir.ir import Graph
from graphir.tracing.assemble import assemble
from graphir.tracing.lift import Component, Lifted
from graphir.tracing.units import UnitPartition


@dataclass(frozen=True, eq=False)
class Merged:
    """A graph whose neurons are merged into groups.

    `nodes` (N,) is the node of `graph` that a node of the original one is in, `edges` (E',) the edge of the original
    graph that an edge of `graph` has a value from: that of the first neuron of its group. Ports are the same.
    """

    graph: Graph
    nodes: NDArray[np.int64]
    edges: NDArray[np.int64]


def merge_neurons(graph: Graph, group: Callable[[str, NDArray[np.int64]], NDArray[np.int64]]) -> Merged | None:
    """`graph`, of a model with residual streams, with groups of neurons as one node each; None where it has no neurons.

    `group(component, nodes)` gives for the nodes (U,) of an MLP the number of the group of each, from 0 without gaps.
    Merged nodes are called after their place among the groups, `m3.n0`, not after their neurons.
    """
    lifted = graph.lifted
    if not isinstance(lifted, Lifted) or graph.granularity is None:
        return None
    first, groups = _first_nodes(graph, lifted), {}
    for component in lifted.components:
        found = component.partition
        if found is not None and not found.mixes and graph.granularity.at(component.layer).mlp == "neuron":
            start = first[component.name]
            groups[component.name] = group(component.name, np.arange(start, start + len(found.units)))
    if not groups:
        return None
    components = tuple(
        replace(c, partition=_merge(c, groups[c.name])) if c.name in groups else c for c in lifted.components
    )
    made = assemble(replace(lifted, components=components), graph.granularity, graph.name, graph.model_hash)
    nodes = _places(graph, first, groups)
    return Merged(made, nodes, _representatives(graph, made, nodes))


def _first_nodes(graph: Graph, lifted: Lifted) -> dict[str, int]:
    """The first node of each component that has neurons of its own."""
    number = {node.name: i for i, node in enumerate(graph.nodes)}
    return {c.name: number[f"{c.name}.n0"] for c in lifted.components if f"{c.name}.n0" in number}


def _merge(component: Component, groups: NDArray[np.int64]) -> UnitPartition:
    found = component.partition
    assert found is not None
    features = np.concatenate(found.units)
    owners = np.repeat(groups, [len(unit) for unit in found.units])
    units = tuple(np.sort(features[owners == number]) for number in range(int(groups.max()) + 1))
    served = tuple(range(len(units)))
    return replace(found, units=units, ports=tuple(replace(port, units=served) for port in found.ports))


def _places(graph: Graph, first: Mapping[str, int], groups: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """The node that each node of the original graph is in."""
    sizes = np.ones(len(graph.nodes), np.int64)
    inside = np.zeros(len(graph.nodes), np.int64)
    for name, group in groups.items():
        start = first[name]
        sizes[start : start + len(group)] = 0
        sizes[start] = int(group.max()) + 1
        inside[start : start + len(group)] = group
    starts = np.cumsum(sizes) - sizes
    for name, group in groups.items():
        starts[first[name] : first[name] + len(group)] = starts[first[name]]
    found: NDArray[np.int64] = starts + inside
    return found


def _representatives(graph: Graph, made: Graph, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each edge of the merged graph that of the first member of its writer."""
    member = np.unique(nodes, return_index=True)[1]
    # Edges are ordered by port, then by writer (`assemble`), so that they can be searched.
    keys = np.asarray(graph.edge_dst, np.int64) * len(graph.nodes) + np.asarray(graph.edge_src)
    wanted = np.asarray(made.edge_dst, np.int64) * len(graph.nodes) + member[np.asarray(made.edge_src)]
    found: NDArray[np.int64] = np.searchsorted(keys, wanted)
    return found
