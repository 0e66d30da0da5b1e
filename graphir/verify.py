"""The rules of the IR, checked: what is wrong with a graph, as a list, in the order of the rules.

Given the shapes of the model's parameters, ownership is checked exactly: every scalar belongs to one node, one shared
port or the declared rest. Boxes of indices are counted on the grid of their own bounds, so the cost depends on how
finely a parameter is divided, not on its size. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from graphir.errors import VerifyError
from graphir.ir import Graph, NodeKind, WeightSet, WeightSlice
from graphir.names import is_name
from graphir.reach import Links, levels, links_of, sweep

Shapes = Mapping[str, tuple[int, ...]]
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: its name, the node, port, edge or parameter it concerns, and what is wrong."""

    rule: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: `{self.where}` {self.message}"


def verify(graph: Graph, parameters: Shapes | None = None) -> list[Violation]:
    """Every rule that `graph` breaks; with `parameters` (shapes by name), ownership of the weights too."""
    broken = [*_names(graph), *_indices(graph)]
    if not broken:  # the other rules follow indices
        broken = [*_ports(graph), *_edges(graph), *_flow(graph)]
    if graph.equivalence is not None and not np.isfinite(graph.equivalence):
        broken.append(Violation("equivalence", graph.name or "graph", f"is {graph.equivalence}"))
    if parameters is not None:
        broken += _ownership(graph, parameters)
    return broken


def raise_if(violations: list[Violation]) -> None:
    """`VerifyError` with the violations, at most 20 of them spelled out; nothing when there are none."""
    if not violations:
        return
    shown = [f"  {violation}" for violation in violations[:_SHOWN]]
    more = [f"  and {len(violations) - _SHOWN} more"] if len(violations) > _SHOWN else []
    count = "a rule" if len(violations) == 1 else f"{len(violations)} rules"
    raise VerifyError("\n".join([f"the graph breaks {count} of the IR", *shown, *more]))


def _names(graph: Graph) -> Iterator[Violation]:
    seen: set[str] = set()
    for what, names in (("node", [n.name for n in graph.nodes]), ("port", [p.name for p in graph.ports])):
        for name in names:
            if name in seen:
                yield Violation("names", name, f"is the name of two things, a {what} among them")
            seen.add(name)
            if not is_name(name):
                yield Violation("names", name, f"is no name for a {what}")


def _indices(graph: Graph) -> Iterator[Violation]:
    n_nodes, n_ports = len(graph.nodes), len(graph.ports)
    for node in graph.nodes:
        if not all(0 <= port < n_ports for port in node.ports):
            yield Violation("indices", node.name, f"reads ports {node.ports} of {n_ports}")
    for port in graph.ports:
        if not all(0 <= node < n_nodes for node in port.nodes):
            yield Violation("indices", port.name, f"serves nodes {port.nodes} of {n_nodes}")
    if graph.edge_src.shape != graph.edge_dst.shape or graph.edge_src.ndim != 1:
        yield Violation("indices", "edges", f"have ends of shapes {graph.edge_src.shape} and {graph.edge_dst.shape}")
        return
    for what, ends, size in (("writers", graph.edge_src, n_nodes), ("ports", graph.edge_dst, n_ports)):
        if not np.issubdtype(ends.dtype, np.integer):
            yield Violation("indices", what, f"of edges are {ends.dtype}, not integers")
        elif len(ends) and (ends.min() < 0 or ends.max() >= size):
            yield Violation("indices", what, f"of edges go from {ends.min()} to {ends.max()}, of {size}")


def _ports(graph: Graph) -> Iterator[Violation]:
    for index, port in enumerate(graph.ports):
        if not port.nodes:
            yield Violation("ports", port.name, "is read by no node")
        for reader in port.nodes:
            if index not in graph.nodes[reader].ports:
                yield Violation("ports", port.name, f"serves `{graph.nodes[reader].name}`, which does not read it")
        if len(port.nodes) == 1 and len(port.weights) and len(graph.shared_weights[port.weights]) == 1:
            yield Violation("ports", port.name, "serves one node, so its weights belong to that node")
    for index, node in enumerate(graph.nodes):
        if list(node.ports) != sorted(set(node.ports)):
            yield Violation("ports", node.name, "names its ports out of order or twice")
        for at in node.ports:
            if index not in graph.ports[at].nodes:
                yield Violation("ports", graph.ports[at].name, f"is read by `{node.name}`, which it does not serve")


def _edges(graph: Graph) -> Iterator[Violation]:
    links = links_of(graph)
    keys = links.dst * max(links.n_nodes, 1) + links.src
    for place in np.flatnonzero(np.diff(keys) <= 0).tolist():
        twice = keys[place] == keys[place + 1]
        message = "occurs twice" if twice else "stands before its place: edges go by port, then by writer"
        yield Violation("edges", str(graph.edges[place + 1]), message)
    fed = np.bincount(links.dst, minlength=links.n_ports)
    for port, count in zip(graph.ports, fed, strict=True):
        if not count:
            yield Violation("edges", port.name, "is written by no node")
    read = np.bincount(links.src, minlength=links.n_nodes)
    for node, count in zip(graph.nodes, read, strict=True):
        if not count and node.kind is not NodeKind.OUTPUT:
            yield Violation("edges", node.name, "writes, and nothing reads it")
        if count and node.kind is NodeKind.OUTPUT:
            yield Violation("edges", node.name, "is an output, and something reads it")


def _flow(graph: Graph) -> Iterator[Violation]:
    links = links_of(graph)
    if levels(links) is None:
        for name in _on_cycles(graph, links):
            yield Violation("cycle", name, "depends on itself")
    if graph.nodes and not any(node.kind is NodeKind.OUTPUT for node in graph.nodes):
        yield Violation("flow", graph.name or "graph", "has no output")
    if graph.nodes and all(node.ports for node in graph.nodes):
        yield Violation("flow", graph.name or "graph", "has no node that starts from the input alone")


def _on_cycles(graph: Graph, links: Links) -> list[str]:
    found = []
    for index, node in enumerate(graph.nodes):
        start = np.zeros(links.n_ports, bool)
        start[links.dst[links.src == index]] = True
        nodes, _ = sweep(links, np.zeros(links.n_nodes, bool), start)
        if nodes[index]:
            found.append(node.name)
    return found


# --- ownership -----------------------------------------------------------------------------------------------------


def _ownership(graph: Graph, parameters: Shapes) -> Iterator[Violation]:
    by_name: dict[str, list[tuple[str, WeightSlice]]] = {name: [] for name in parameters}
    for owner, weights in _owners(graph):
        for part in weights:
            shape = parameters.get(part.parameter)
            if shape is None:
                yield Violation("ownership", owner, f"owns part of `{part.parameter}`, which the model does not have")
            elif problem := bad_slice(part, tuple(shape)):
                yield Violation("ownership", owner, f"owns `{part}`, {problem}")
            else:
                by_name[part.parameter].append((owner, part))
    for name, parts in by_name.items():
        yield from _count_owners(name, tuple(parameters[name]), parts)


def _owners(graph: Graph) -> Iterator[tuple[str, WeightSet]]:
    yield from ((node.name, node.weights) for node in graph.nodes)
    yield from ((graph.ports[ports[0]].name, weights) for weights, ports in graph.shared_weights.items())
    yield "rest", graph.rest


def bad_slice(part: WeightSlice, shape: tuple[int, ...]) -> str:
    """Why it is no part of a parameter of that shape; empty where it is."""
    if part.shape != shape:
        return f"but its shape is {shape}, not {part.shape}"
    if len(part.index) != len(shape):
        return f"which has {len(shape)} axes"
    for spans, length in zip(part.index, shape, strict=True):
        for start, stop in spans or ():
            if not 0 <= start < stop <= length:
                return f"where {start}:{stop} is no range of {length}"
    return ""


def _count_owners(name: str, shape: tuple[int, ...], parts: list[tuple[str, WeightSlice]]) -> Iterator[Violation]:
    """Owners of each scalar, on the grid that all bounds span; each cell stands for the scalars between bounds."""
    axes = [
        [((0, length),) if part.index[axis] is None else part.index[axis] or () for _, part in parts]
        for axis, length in enumerate(shape)
    ]
    bounds = [
        np.unique([0, length, *(edge for spans in axis for span in spans for edge in span)])
        for axis, length in zip(axes, shape, strict=True)
    ]
    owners = np.zeros([len(b) - 1 for b in bounds], np.int32)
    for position in range(len(parts)):
        for box in product(*(axis[position] for axis in axes)):
            cells = tuple(
                slice(int(np.searchsorted(b, start)), int(np.searchsorted(b, stop)))
                for b, (start, stop) in zip(bounds, box, strict=True)
            )
            owners[cells] += 1
    sizes = np.ones(owners.shape, np.int64)
    for axis, b in enumerate(bounds):
        sizes *= np.diff(b).reshape([-1 if i == axis else 1 for i in range(len(bounds))])
    for mask, verb in ((owners == 0, "no owner"), (owners > 1, "more than one owner")):
        missing = int(sizes[mask].sum())
        if missing:
            first = [int(b[i]) for b, i in zip(bounds, np.argwhere(mask)[0], strict=True)]
            claim = f" ({', '.join(_claimants(first, parts))})" if verb != "no owner" else ""
            yield Violation("ownership", name, f"has {missing:,} scalars with {verb}, the first at {first}{claim}")


def _claimants(at: list[int], parts: list[tuple[str, WeightSlice]]) -> list[str]:
    """Names of the owners of one scalar, a few of them."""

    def holds(part: WeightSlice) -> bool:
        return all(spans is None or any(a <= i < b for a, b in spans) for spans, i in zip(part.index, at, strict=True))

    return [owner for owner, part in parts if holds(part)][:3]
