"""Assemble the immutable `Graph` of a lifted model at a granularity."""

from __future__ import annotations

import numpy as np
from torch import fx

from graphir.granularity import Granularity
from graphir.ir import Graph, Node, NodeKind, Port, WeightSet
from graphir.tracing.canonical import operand
from graphir.tracing.lift import Component, Lifted, Writer
from graphir.tracing.ownership import Ledger
from graphir.tracing.partition import Partition, WriterPart, entry_offsets, partition_components


def assemble(lifted: Lifted, granularity: Granularity, name: str = "", model_hash: str = "") -> Graph:
    """The graph of `lifted` at `granularity`: sources, then each component's writers and ports in execution order."""
    parts = _Parts(lifted)
    for source in lifted.sources:
        parts.add_source(source)
    for partition in partition_components(lifted, granularity):
        parts.add(partition)
    src, dst = parts.edges()
    return Graph(
        nodes=tuple(parts.nodes),
        ports=tuple(parts.ports),
        edge_src=src,
        edge_dst=dst,
        rest=parts.ledger.rest(),
        name=name,
        granularity=granularity,
        model_hash=model_hash,
        notes=lifted.traced.notes,
        lifted=lifted,
    )


class _Parts:
    """Nodes and ports as they are added, what each port reads, and which nodes write each leaf."""

    def __init__(self, lifted: Lifted) -> None:
        self.nodes: list[Node] = []
        self.ports: list[Port] = []
        self.ledger = Ledger(lifted.traced.tensors, lifted.traced.parameter_names)
        self._terms = lifted.anatomy.streams.terms
        self._reads: list[fx.Node] = []
        self._writers_of: dict[fx.Node, list[int]] = {}

    def add_source(self, source: Writer) -> None:
        """Add an embedding; it owns what its value is computed from."""
        self._writers_of[source.leaf] = [len(self.nodes)]
        weights = self.ledger.claim_whole(source.leaf, _ancestors(source.leaf))
        self.nodes.append(Node(source.name, NodeKind.EMBED, (), weights, None, (source.name,), source.source))

    def add(self, partition: Partition) -> None:
        """Add a component: a port that serves one writer adds its weights to it, a shared port keeps them."""
        component = partition.component
        first_node, first_port = len(self.nodes), len(self.ports)
        owned = _port_weights(partition, self.ledger)
        for port, (own, common) in zip(partition.ports, owned, strict=True):
            shared = own | common if len(port.writers) > 1 else common
            self.ports.append(Port(port.name, port.kind, tuple(first_node + w for w in port.writers), shared))
            self._reads.append(component.region.sites[port.site].value)
        for i, writer in enumerate(partition.writers):
            mine = [p for p, port in enumerate(partition.ports) if i in port.writers]
            private = (part for p in mine if len(partition.ports[p].writers) == 1 for part in owned[p][0])
            weights = WeightSet(tuple(private)) | _writer_weights(component, writer, self.ledger)
            self.nodes.append(
                Node(
                    name=writer.name,
                    kind=writer.kind,
                    ports=tuple(first_port + p for p in mine),
                    weights=weights,
                    layer=component.layer,
                    members=writer.members,
                    source=component.source,
                    note=component.note,
                )
            )
        if not component.region.output:
            self._writers_of[component.region.leaf] = list(range(first_node, len(self.nodes)))

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Writers and ports of all edges, int32: by port, then by writer."""
        visible = {value: self._visible(value) for value in dict.fromkeys(self._reads)}
        src = [visible[value] for value in self._reads]
        counts = [len(writers) for writers in src]
        dst = np.repeat(np.arange(len(src), dtype=np.int32), counts)
        return np.concatenate([np.zeros(0, dtype=np.int32), *src]), dst

    def _visible(self, value: fx.Node) -> np.ndarray:
        writers = [writer for term in self._terms[value] for writer in self._writers_of[term.leaf]]
        return np.array(sorted(writers), dtype=np.int32)


def _ancestors(leaf: fx.Node) -> list[fx.Node]:
    """The leaf and everything it is computed from."""
    found: dict[fx.Node, None] = {}
    stack = [leaf]
    while stack:
        node = stack.pop()
        if node not in found:
            found[node] = None
            stack += node.all_input_nodes
    return list(found)


def _port_weights(part: Partition, ledger: Ledger) -> list[tuple[WeightSet, WeightSet]]:
    """The rows of the entry products that each port reads into: those that it alone reads, and those that other ports
    read as well, in which case all of them have the same set."""
    region = part.component.region
    if region.exit is None:
        return [(WeightSet(), WeightSet()) for _ in part.ports]
    offsets = entry_offsets(part.component)
    reads = [port.features for port in part.ports if port.features is not None]
    counts = np.bincount(np.concatenate(reads), minlength=int(offsets[-1]))
    claimed: dict[bytes, WeightSet] = {}

    def claim(features: np.ndarray) -> WeightSet:
        key = features.tobytes()
        if key not in claimed:
            claimed[key] = _rows(part.component, features, offsets, ledger)
        return claimed[key]

    return [(claim(read[counts[read] == 1]), claim(read[counts[read] > 1])) for read in reads]


def _rows(component: Component, features: np.ndarray, offsets: np.ndarray, ledger: Ledger) -> WeightSet:
    found = WeightSet()
    for i, entry in enumerate(component.region.entries):
        rows = features[(features >= offsets[i]) & (features < offsets[i + 1])] - offsets[i]
        if len(rows):
            weight = operand(entry, 1)
            bias = operand(entry, 2) if len(entry.args) > 2 and entry.args[2] is not None else None
            found |= ledger.claim(component, weight, 0, rows)
            found |= ledger.claim(component, bias, 0, rows)
    return found


def _writer_weights(component: Component, writer: WriterPart, ledger: Ledger) -> WeightSet:
    if writer.features is None or component.region.exit is None:
        return ledger.claim_whole(component, component.region.body)
    return ledger.claim(component, operand(component.region.exit, 1), 1, writer.features)
