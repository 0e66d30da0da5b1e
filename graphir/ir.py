"""The computation-graph IR: nodes, ports, weight sets, edges, and the immutable graph of them.

A *node* writes a value into a residual stream (or is an output of the model); a *port* is a place where a stream is
read; an *edge* says that a node's value reaches a port. Scores, masks and tensors never live here: they are arrays
beside the graph, indexed by node, port or edge position. Nothing in this module imports torch.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from graphir.errors import UnknownNameError
from graphir.names import closest
from graphir.notebook_views import InNotebook

if TYPE_CHECKING:
    import networkx as nx

    from graphir.granularity import Granularity


class NodeKind(enum.StrEnum):
    """What a node is; the names are the field's."""

    EMBED = "embed"
    HEAD = "head"
    MLP = "mlp"
    NEURON = "neuron"
    NORM = "norm"
    LAYER = "layer"
    CHANNEL = "channel"
    OUTPUT = "output"
    OPAQUE = "opaque"


Span = tuple[int, int]
"""A half-open index range."""


@dataclass(frozen=True, slots=True)
class WeightSlice:
    """A box-shaped part of one parameter: for each axis the half-open ranges it takes, or None for the whole axis."""

    parameter: str
    index: tuple[tuple[Span, ...] | None, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of scalars in the slice."""
        total = 1
        for spans, length in zip(self.index, self.shape, strict=True):
            total *= length if spans is None else sum(stop - start for start, stop in spans)
        return total

    def __str__(self) -> str:
        axes = (":" if spans is None else "+".join(f"{a}:{b}" for a, b in spans) for spans in self.index)
        return f"{self.parameter}[{','.join(axes)}]"


@dataclass(frozen=True, slots=True)
class WeightSet:
    """Parts of parameters owned together."""

    slices: tuple[WeightSlice, ...] = ()

    @property
    def size(self) -> int:
        """Number of scalars in the set."""
        return sum(part.size for part in self.slices)

    def __iter__(self) -> Iterator[WeightSlice]:
        return iter(self.slices)

    def __len__(self) -> int:
        return len(self.slices)

    def __or__(self, other: WeightSet) -> WeightSet:
        return WeightSet(self.slices + other.slices)

    def __str__(self) -> str:
        return " ".join(map(str, self.slices))


@dataclass(frozen=True, slots=True)
class Source:
    """Where in the user's model a node comes from: module path and, when known, a line of source."""

    module: str = ""
    location: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.module, self.location and f"({self.location})") if part)


@dataclass(frozen=True, slots=True)
class Port:
    """A place where a stream is read. `nodes` are the nodes whose value depends on it: a key/value port of grouped
    attention serves several heads. `weights` is an entry projection that no single node owns: that of a port that
    serves several, or one that several ports share, all of which then have the same set (key/value ports that were
    ungrouped). What a port of one node does not share belongs to that node."""

    name: str
    kind: str
    nodes: tuple[int, ...]
    weights: WeightSet = WeightSet()


@dataclass(frozen=True, slots=True)
class Node:
    """A writer (or an output). `ports` are indices of the ports it reads, `weights` all it owns (the entry projections
    of its private ports included), `members` the finest units merged into it, `layer` its layer when it has one."""

    name: str
    kind: NodeKind
    ports: tuple[int, ...] = ()
    weights: WeightSet = WeightSet()
    layer: int | None = None
    members: tuple[str, ...] = ()
    source: Source = Source()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """Identity of an edge: the writing node and the reading port, by index and by name."""

    index: int
    src: int
    dst: int
    src_name: str
    dst_name: str

    def __str__(self) -> str:
        return f"{self.src_name} -> {self.dst_name}"


class EdgeSequence(Sequence[Edge]):
    """The edges in order, made on demand from two index arrays (a graph may have millions)."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __len__(self) -> int:
        return len(self._graph.edge_src)

    @overload
    def __getitem__(self, index: int) -> Edge: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Edge]: ...
    def __getitem__(self, index: int | slice) -> Edge | Sequence[Edge]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        src, dst = int(self._graph.edge_src[index]), int(self._graph.edge_dst[index])
        return Edge(index, src, dst, self._graph.nodes[src].name, self._graph.ports[dst].name)

    def __repr__(self) -> str:
        return f"<{len(self)} edges>"


@dataclass(frozen=True, eq=False)
class Graph(InNotebook):
    """An immutable computation graph.

    `edge_src` (node indices) and `edge_dst` (port indices) are parallel int32 arrays of length E, ordered by port and
    then by writer; `edges` presents them as `Edge` values. `rest` declares every parameter scalar that no node or
    port owns (norms, shared biases). `equivalence` is max |Δoutput| between the original model and the lowered
    program with all masks at one (None until measured). `lifted` is the traced model behind the graph, None for a
    graph that was parsed or loaded.
    """

    nodes: tuple[Node, ...]
    ports: tuple[Port, ...]
    edge_src: np.ndarray
    edge_dst: np.ndarray
    rest: WeightSet = WeightSet()
    name: str = ""
    granularity: Granularity | None = None
    model_hash: str = ""
    notes: tuple[str, ...] = ()
    equivalence: float | None = None
    symbols: Mapping[str, Any] = field(default_factory=dict)
    lifted: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for array in (self.edge_src, self.edge_dst):
            array.setflags(write=False)

    @property
    def edges(self) -> EdgeSequence:
        """The edges, ordered by port and then by writer."""
        return EdgeSequence(self)

    @property
    def opaque(self) -> tuple[Node, ...]:
        """Nodes that were not recognised; each `note` says what granularity is lost."""
        return tuple(node for node in self.nodes if node.kind is NodeKind.OPAQUE)

    @cached_property
    def node_index(self) -> Mapping[str, int]:
        """Node positions by name."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    @cached_property
    def port_index(self) -> Mapping[str, int]:
        """Port positions by name; a grouped key/value port answers to each of its heads' names too."""
        index = {f"{self.nodes[n].name}.{port.kind}": i for i, port in enumerate(self.ports) for n in port.nodes}
        # A node with one port may be named without it: `m3` for `m3.in`.
        index.update({node.name: node.ports[0] for node in self.nodes if len(node.ports) == 1})
        index.update({port.name: i for i, port in enumerate(self.ports)})
        return index

    @cached_property
    def shared_weights(self) -> Mapping[WeightSet, tuple[int, ...]]:
        """Every set of weights that ports own, once, with the positions of those ports."""
        found: dict[WeightSet, list[int]] = {}
        for i, port in enumerate(self.ports):
            if len(port.weights):
                found.setdefault(port.weights, []).append(i)
        return {weights: tuple(ports) for weights, ports in found.items()}

    @cached_property
    def edge_lookup(self) -> Mapping[tuple[int, int], int]:
        """Edge positions by (node index, port index)."""
        return {pair: i for i, pair in enumerate(zip(self.edge_src.tolist(), self.edge_dst.tolist(), strict=True))}

    def node(self, name: str) -> Node:
        """The node of that name; `UnknownNameError` with suggestions otherwise."""
        if name not in self.node_index:
            raise UnknownNameError("node", name, closest(name, self.node_index))
        return self.nodes[self.node_index[name]]

    def port(self, name: str) -> Port:
        """The port of that name (`a10.h7.q`, `m3.in`, or `m3` where there is one); `UnknownNameError` otherwise."""
        if name not in self.port_index:
            raise UnknownNameError("port", name, closest(name, self.port_index))
        return self.ports[self.port_index[name]]

    def edge(self, text: str) -> Edge:
        """The edge written `writer -> port`; `UnknownNameError` otherwise."""
        src, arrow, dst = (part.strip() for part in text.partition("->"))
        if not arrow:
            raise UnknownNameError("edge", text, ["write an edge as `writer -> port`"])
        self.node(src), self.port(dst)
        pair = (self.node_index[src], self.port_index[dst])
        if pair not in self.edge_lookup:
            raise UnknownNameError("edge", text, [f"`{src}` does not write before `{dst}` reads"])
        return self.edges[self.edge_lookup[pair]]

    def to_networkx(self) -> nx.DiGraph[str]:
        """The graph as networkx: nodes and ports are vertices; edges writer → port (with `index`) and port → node."""
        from graphir.views import to_networkx

        return to_networkx(self)

    def with_(self, **changes: Any) -> Graph:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def _repr_svg_(self) -> str | None:
        """The drawing for notebooks; None where the graph is too large or nothing can draw."""
        from graphir.notebook_views import graph_svg

        return graph_svg(self)

    def __str__(self) -> str:
        from graphir.text import format_graph

        return format_graph(self)

    def __repr__(self) -> str:
        opaque = f", {len(self.opaque)} opaque" if self.opaque else ""
        return f"Graph({self.name or 'unnamed'}: {len(self.nodes)} nodes, {len(self.edges)} edges{opaque})"
