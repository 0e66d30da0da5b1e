"""What is left of a circuit when what nobody reads is dropped too, and what of it no smaller module can leave out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphir.circuit import Circuit
from graphir.ir import NodeKind
from graphir.reach import links_of


@dataclass(frozen=True, eq=False)
class Liveness:
    """`nodes` (N,) are kept and read by something live (outputs always are); `blocked` (E,) are the edges that are
    dropped although both ends live."""

    nodes: NDArray[np.bool_]
    blocked: NDArray[np.bool_]


def find_live(circuit: Circuit) -> Liveness:
    """The live nodes of `circuit`: an edge counts if it and the node that writes it are kept."""
    graph, links = circuit.graph, links_of(circuit.graph)
    outputs = np.array([n.kind is NodeKind.OUTPUT for n in graph.nodes], bool)
    kept = circuit.effective_edges
    live = circuit.nodes | outputs
    while True:
        used = np.zeros(links.n_ports, bool)
        used[links.link_port[live[links.link_node]]] = True
        read = np.zeros(links.n_nodes, bool)
        read[links.src[kept & used[links.dst]]] = True
        fewer = live & (read | outputs)
        if int(fewer.sum()) == int(live.sum()):
            return Liveness(live, ~kept & live[links.src] & used[links.dst])
        live = fewer
