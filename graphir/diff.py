"""Differences: between two graphs (are they the same?) and between two circuits (what was gained, what lost?)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphir.circuit import Circuit
from graphir.ir import Graph, Node, Port


def graph_differences(a: Graph, b: Graph, *, structure: bool = False) -> list[str]:
    """What differs between two graphs, `lifted` left aside; empty when they are equal. With `structure` only nodes,
    ports, edges and weights are compared: not names, notes, sources, measured equivalence."""
    found = []
    if a.model_hash != b.model_hash and not structure:
        found.append(f"model hash: {a.model_hash[:12] or 'none'} and {b.model_hash[:12] or 'none'}")
    sides: tuple[tuple[str, Sequence[Node | Port], Sequence[Node | Port]], ...] = (
        ("nodes", a.nodes, b.nodes),
        ("ports", a.ports, b.ports),
    )
    for what, ours, theirs in sides:
        mine, other = [x.name for x in ours], [x.name for x in theirs]
        if mine != other:
            lost, gained = sorted(set(mine) - set(other)), sorted(set(other) - set(mine))
            names = f"{_few(lost, '-')} {_few(gained, '+')}".strip()
            found.append(f"{what}: {names or 'order'}")
            continue
        for x, y in zip(ours, theirs, strict=True):
            fields = ["kind", "layer", "ports", "nodes", "weights", "members"]
            fields += [] if structure else ["source", "note"]
            found += [f"{x.name}: {f}" for f in fields if getattr(x, f, None) != getattr(y, f, None)]
    if not (np.array_equal(a.edge_src, b.edge_src) and np.array_equal(a.edge_dst, b.edge_dst)):
        found.append(f"edges: {len(a.edges)} and {len(b.edges)}")
    if a.rest != b.rest:
        found.append("rest")
    if not structure:
        for name in ("name", "notes", "equivalence"):
            if getattr(a, name) != getattr(b, name):
                found.append(f"{name}: {getattr(a, name)!r} and {getattr(b, name)!r}")
        if str(a.granularity) != str(b.granularity):
            found.append(f"granularity: {a.granularity} and {b.granularity}")
        if {k: str(v) for k, v in a.symbols.items()} != {k: str(v) for k, v in b.symbols.items()}:
            found.append("symbols")
    return found


def _few(names: list[str], sign: str) -> str:
    shown = " ".join(f"{sign}{name}" for name in names[:4])
    return shown + (f" ({len(names) - 4} more)" if len(names) > 4 else "")


@dataclass(frozen=True)
class CircuitDiff:
    """How the second of two circuits differs from the first, by name, so that graphs of two traces compare too.

    `edges_*` hold edge texts, `nodes_*` node names, all in the order of the circuits' graphs. `foreign` counts kept
    edges of either circuit whose edge does not exist in the other's graph. `weights` are the numbers of weights that
    were added, removed and are shared, of the parameters that either circuit masks; None where neither does.
    """

    edges_added: tuple[str, ...]
    edges_removed: tuple[str, ...]
    edges_shared: tuple[str, ...]
    nodes_added: tuple[str, ...]
    nodes_removed: tuple[str, ...]
    nodes_shared: tuple[str, ...]
    metrics: tuple[tuple[str, float | None, float | None], ...] = ()
    foreign: int = 0
    weights: tuple[int, int, int] | None = None

    @property
    def same(self) -> bool:
        """Whether both keep the same edges, nodes and weights."""
        parts = (self.edges_added, self.edges_removed, self.nodes_added, self.nodes_removed)
        return not any(parts) and (self.weights is None or not any(self.weights[:2]))

    @property
    def counts(self) -> tuple[tuple[str, int, int, int, float], ...]:
        """For edges, nodes and, where either circuit masks them, weights: what, added, removed, shared, IoU."""
        edges = (len(self.edges_added), len(self.edges_removed), len(self.edges_shared))
        nodes = (len(self.nodes_added), len(self.nodes_removed), len(self.nodes_shared))
        named = (("edges", edges), ("nodes", nodes), *((("weights", self.weights),) if self.weights else ()))
        return tuple((what, *found, found[2] / sum(found) if sum(found) else 1.0) for what, found in named)

    @property
    def edge_iou(self) -> float:
        """Shared edges over edges of either, 1 when both are empty."""
        return _iou(self.edges_shared, self.edges_added, self.edges_removed)

    @property
    def node_iou(self) -> float:
        """Shared nodes over nodes of either, 1 when both are empty."""
        return _iou(self.nodes_shared, self.nodes_added, self.nodes_removed)

    def to_json(self) -> dict[str, Any]:
        """The diff as JSON values."""
        return {
            "edges": {
                "added": list(self.edges_added),
                "removed": list(self.edges_removed),
                "shared": len(self.edges_shared),
                "iou": self.edge_iou,
            },
            "nodes": {
                "added": list(self.nodes_added),
                "removed": list(self.nodes_removed),
                "shared": len(self.nodes_shared),
                "iou": self.node_iou,
            },
            "metrics": {name: [before, after] for name, before, after in self.metrics},
            "foreign": self.foreign,
            **{
                what: {"added": added, "removed": removed, "shared": shared, "iou": iou}
                for what, added, removed, shared, iou in self.counts
                if what == "weights"
            },
        }

    def __str__(self) -> str:
        from graphir.display import format_diff

        return format_diff(self)


def _iou(shared: tuple[str, ...], added: tuple[str, ...], removed: tuple[str, ...]) -> float:
    union = len(shared) + len(added) + len(removed)
    return len(shared) / union if union else 1.0


def diff_circuits(first: Circuit, second: Circuit) -> CircuitDiff:
    """What `second` adds to and removes from `first`, edges and nodes by name, weights by parameter and place."""
    edges = [tuple(map(str, circuit.kept_edges())) for circuit in (first, second)]
    nodes = [tuple(node.name for node in circuit.kept_nodes()) for circuit in (first, second)]
    foreign = 0
    if first.graph is not second.graph:
        known = [{str(edge) for edge in circuit.graph.edges} for circuit in (first, second)]
        foreign = sum(edge not in known[1] for edge in edges[0]) + sum(edge not in known[0] for edge in edges[1])
    names = dict.fromkeys([*first.metrics, *second.metrics])
    metrics = tuple((name, first.metrics.get(name), second.metrics.get(name)) for name in names)
    return CircuitDiff(*_split(*edges), *_split(*nodes), metrics, foreign, _weights(first, second))


def _weights(first: Circuit, second: Circuit) -> tuple[int, int, int] | None:
    """(added, removed, shared): a parameter that only one circuit masks the other keeps whole; where a parameter has
    another shape in each, nothing of it is shared."""
    if not (first.weights or second.weights):
        return None
    added = removed = shared = 0
    for name in dict.fromkeys([*first.weights, *second.weights]):
        masks = [each.weights.get(name) for each in (first, second)]
        known = next(mask for mask in masks if mask is not None)
        before, after = (np.ones_like(known) if mask is None else mask for mask in masks)
        both = int((before & after).sum()) if np.shape(before) == np.shape(after) else 0
        added, removed, shared = added + int(after.sum()) - both, removed + int(before.sum()) - both, shared + both
    return added, removed, shared


def _split(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(added, removed, shared)."""
    before, after = set(first), set(second)
    return (
        tuple(x for x in second if x not in before),
        tuple(x for x in first if x not in after),
        tuple(x for x in first if x in after),
    )
