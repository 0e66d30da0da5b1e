"""A circuit: a graph with the edges, nodes and weights that are kept, and everything needed to judge and rerun it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphir.errors import GraphirError
from graphir.ir import Edge, Graph, Node, NodeKind
from graphir.notebook_views import InNotebook
from graphir.reach import links_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from graphir.algebra_sum import CircuitSum
    from graphir.shrink import ShrunkModule

ABLATIONS = ("interchange", "zero", "mean", "mean by position", "mean by template", "noise", "optimal")


@dataclass(frozen=True, eq=False)
class Circuit(InNotebook):
    """Kept parts of a graph.

    `edges` is (E,) and `nodes` (N,), boolean, in the graph's order. `scores` holds float arrays under `"edges"` (E,)
    and `"nodes"` (N,). `metrics` are measured values, `provenance` JSON values that say how the circuit came about.
    `ablation` is what stands in for a part that is not kept. `weights` maps parameter names to boolean keep masks of
    the parameter's shape; a parameter that is not named is kept whole. `example` is what the model was traced with
    (for a circuit that was loaded without its model); usually the graph has it. `constants` are the learned ablation
    values of `optimal` ablation by writer's name (`graphir.run.constants`). `scores` may hold `"neurons"` (F,) besides.
    """

    graph: Graph
    edges: NDArray[np.bool_]
    nodes: NDArray[np.bool_]
    scores: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    ablation: str = "interchange"
    name: str = ""
    weights: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    example: Any = field(default=None, repr=False)
    constants: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        sizes = {"edges": len(self.graph.edges), "nodes": len(self.graph.nodes)}
        for what, size in sizes.items():
            mask = np.array(getattr(self, what), dtype=bool)
            if mask.shape != (size,):
                raise GraphirError(f"the mask over {what} has shape {mask.shape}, the graph has {size} {what}")
            mask.setflags(write=False)
            object.__setattr__(self, what, mask)
            if what in self.scores and np.shape(self.scores[what]) != (size,):
                raise GraphirError(f"{np.shape(self.scores[what])} scores for {size} {what}")
        if unknown := set(self.scores) - set(sizes) - {"neurons"}:
            raise GraphirError(f"scores are over edges or nodes, not over {', '.join(sorted(unknown))}")
        if self.ablation not in ABLATIONS:
            raise GraphirError(f"no ablation named `{self.ablation}`", [f"one of {', '.join(ABLATIONS)}"])

    # --- making one ------------------------------------------------------------------------------------------------

    @classmethod
    def full(cls, graph: Graph, **fields: Any) -> Circuit:
        """The circuit that keeps everything."""
        return cls(graph, np.ones(len(graph.edges), bool), np.ones(len(graph.nodes), bool), **fields)

    @classmethod
    def of_edges(cls, graph: Graph, edges: Iterable[str | int] | NDArray[Any], **fields: Any) -> Circuit:
        """The circuit of these edges (indices, a mask, or text such as `a9.h6 -> a10.h7.q`) and the nodes they need:
        writers, the nodes behind the ports they reach, and every embedding and output."""
        mask = _edge_mask(graph, edges)
        links = links_of(graph)
        nodes = np.array([not n.ports or n.kind is NodeKind.OUTPUT for n in graph.nodes], bool)
        nodes[links.src[mask]] = True
        ports = np.zeros(len(graph.ports), bool)
        ports[links.dst[mask]] = True
        nodes[links.link_node[ports[links.link_port]]] = True
        return cls(graph, mask, nodes, **fields)

    def with_(self, **changes: Any) -> Circuit:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def on_path(self) -> Circuit:
        """Without what lies on no path from an input to an output.

        A node that reads needs a kept edge into one of its ports, a node that is no output needs a kept edge out of
        it; an edge needs its writer and a node behind its port (one head of the group, for a shared port). What
        breaks this is dropped, until nothing does. Ports of a kept node may stay empty.
        """
        links = links_of(self.graph)
        outputs = np.array([n.kind is NodeKind.OUTPUT for n in self.graph.nodes], bool)
        sources = np.array([not n.ports for n in self.graph.nodes], bool)
        nodes, edges = self.nodes.copy(), self.edges.copy()
        while True:
            before = int(nodes.sum()) + int(edges.sum())
            used = np.zeros(links.n_ports, bool)
            used[links.link_port[nodes[links.link_node]]] = True
            edges &= nodes[links.src] & used[links.dst]
            fed = np.zeros(links.n_ports, bool)
            fed[links.dst[edges]] = True
            reads = np.zeros(links.n_nodes, bool)
            reads[links.link_node[fed[links.link_port]]] = True
            read = np.zeros(links.n_nodes, bool)
            read[links.src[edges]] = True
            nodes &= (reads | sources) & (read | outputs)
            if int(nodes.sum()) + int(edges.sum()) == before:
                return self.with_(nodes=nodes, edges=edges)

    # --- asking ----------------------------------------------------------------------------------------------------

    @property
    def density(self) -> float:
        """Share of the graph's edges that are kept."""
        return float(self.edges.mean()) if len(self.edges) else 0.0

    @property
    def sparsity(self) -> float:
        """Share of the graph's edges that are dropped."""
        return 1.0 - self.density

    @property
    def effective_edges(self) -> NDArray[np.bool_]:
        """(E,) the edges that run: kept, from a kept node."""
        kept: NDArray[np.bool_] = self.edges & self.nodes[links_of(self.graph).src]
        return kept

    @property
    def masks_weights_alone(self) -> bool:
        """Whether it has masks on weights and every edge runs. Its complement has every edge, too: with none of them it
        would know nothing, whatever its weights were."""
        return bool(self.weights) and bool(self.effective_edges.all())

    def densities(self) -> dict[str, float]:
        """Kept shares of edges, nodes and, when weights are masked, of parameter scalars named in `weights`; of neurons
        where the provenance says how many of them these masks keep."""
        shares = {"edges": self.density, "nodes": float(self.nodes.mean()) if len(self.nodes) else 0.0}
        if self.weights:
            total = sum(mask.size for mask in self.weights.values())
            shares["weights"] = sum(int(mask.sum()) for mask in self.weights.values()) / max(total, 1)
            if neurons := self.provenance.get("neurons"):
                shares["neurons"] = neurons["kept"] / neurons["of"]
        return shares

    def counts(self) -> dict[str, int]:
        """Numbers of kept edges, kept nodes, and kept nodes of each kind that the graph has."""
        found = {"edges": int(self.edges.sum()), "nodes": int(self.nodes.sum())}
        for index, node in enumerate(self.graph.nodes):
            found[node.kind.value] = found.get(node.kind.value, 0) + int(self.nodes[index])
        return found

    def kept_nodes(self) -> tuple[Node, ...]:
        """The kept nodes, in order."""
        return tuple(self.graph.nodes[i] for i in np.flatnonzero(self.nodes).tolist())

    def kept_edges(self) -> tuple[Edge, ...]:
        """The kept edges, in order."""
        edges = self.graph.edges
        return tuple(edges[i] for i in np.flatnonzero(self.edges).tolist())

    # --- combining (see `graphir.algebra`) -------------------------------------------------------------------------

    def __or__(self, other: Circuit) -> Circuit:
        """What either keeps. Raises as `graphir.algebra.union`; its `ablation=` says what holds where they differ."""
        from graphir.algebra import union

        return union(self, other) if isinstance(other, Circuit) else NotImplemented

    def __and__(self, other: Circuit) -> Circuit:
        """What both keep."""
        from graphir.algebra import intersection

        return intersection(self, other) if isinstance(other, Circuit) else NotImplemented

    def __sub__(self, other: Circuit) -> Circuit:
        """What this one keeps and the other does not."""
        from graphir.algebra import difference

        return difference(self, other) if isinstance(other, Circuit) else NotImplemented

    def __xor__(self, other: Circuit) -> Circuit:
        """What exactly one keeps."""
        from graphir.algebra import symmetric_difference

        return symmetric_difference(self, other) if isinstance(other, Circuit) else NotImplemented

    def __invert__(self) -> Circuit:
        """What this one does not keep."""
        from graphir.algebra import complement

        return complement(self)

    def __add__(self, other: Circuit) -> CircuitSum:
        """The union, with weights added: see `graphir.algebra_sum`."""
        from graphir.algebra_sum import add

        return add(self, other) if isinstance(other, Circuit) else NotImplemented

    # --- keeping and running ---------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Writes the circuit to `folder` (created, or replaced when it holds a saved circuit), all or nothing."""
        from graphir.circuit_files import save_circuit

        return save_circuit(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, model: torch.nn.Module | None = None) -> Circuit:
        """The circuit saved in `folder`; with `model`, on that model's graph, traced anew, so that it runs.

        Errors: `SaveFormatError` for a truncated, foreign or newer file, `ModelMismatchError` for another model.
        """
        from graphir.circuit_files import load_circuit

        return load_circuit(Path(folder), model)

    def as_module(self, complement: bool = False) -> torch.nn.Module:
        """The circuit as a module with the model's own signature; with `complement`, everything but the circuit."""
        if self.graph.lifted is None:
            raise GraphirError(
                "this circuit has no model behind it", ["load it with the model: `Circuit.load(folder, model)`"]
            )
        from graphir.run.circuit_module import CircuitModule

        module: torch.nn.Module = CircuitModule(self, complement=complement)
        return module

    def shrink(self, **options: Any) -> ShrunkModule:
        """A really smaller module that computes this circuit, with its `report`: see `graphir.shrink.shrink`.

        Options: `means` (batches to average over, for mean ablation), `strict`, `tolerance`, `timed`. Raises
        `graphir.shrink.ShrinkError` where no smaller module computes it.
        """
        from graphir.shrink import shrink

        return shrink(self, **options)

    # --- showing ---------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        metrics = "".join(f", {key} {value:.4g}" for key, value in list(self.metrics.items())[:2])
        names = ", ".join(part for part in (self.name, self.graph.name) if part) or "unnamed"
        return f"Circuit({names}: {int(self.edges.sum())}/{len(self.edges)} edges{metrics})"

    def __str__(self) -> str:
        from graphir.display import format_circuit

        return format_circuit(self)

    def _repr_svg_(self) -> str | None:
        """The drawing for notebooks; None (so that the text is shown) where nothing can draw or nothing is kept."""
        from graphir.draw import DrawError, draw
        from graphir.errors import DataError, UnavailableError

        try:
            return str(draw(self, "svg"), "utf-8")
        except (UnavailableError, DataError, DrawError):
            return None


def _edge_mask(graph: Graph, edges: Iterable[str | int] | NDArray[Any]) -> NDArray[np.bool_]:
    if isinstance(edges, np.ndarray) and edges.dtype == np.bool_:
        return edges
    mask = np.zeros(len(graph.edges), bool)
    mask[[graph.edge(e).index if isinstance(e, str) else int(e) for e in edges]] = True
    return mask
