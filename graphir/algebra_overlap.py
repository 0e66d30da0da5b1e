"""How much circuits share: IoU, IoMin, shared and remaining fractions, of the whole, by layer and by kind.

IoU is |A & B| / |A or B|, IoMin, the overlap coefficient, |A & B| / min(|A|, |B|), over any number of circuits; both
are 1 where the sets are empty. Of each set A_i, shared is |A_i & (any other)| / |A_i|, and remaining
|A_i & A_1| / |A_1|, how much of the first it has (Csordás et al. 2021); of an empty set all is shared, all remains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.algebra import common_graph, common_weights
from graphir.circuit import Circuit
from graphir.columns import columns
from graphir.errors import GraphirError
from graphir.ir import Graph, NodeKind

Mask = NDArray[np.bool_]
PARTS = ("edges", "nodes", "weights")
LAYERS = 5
"""Layers that a table shows of each part, those with the most in common; what the others have is added up."""
HEADERS = ("part", "shared", "union", "IoU", "IoMin", "chance IoU", "shared of each", "remaining of first")
"""What a row of `overlap_rows` says."""


def compared(masks: Sequence[Mask]) -> Iterator[Mask]:
    """The sets that an overlap of sets (masks of one shape) counts: what all have, what any has, everything there is;
    each set; of each set what another has, too; of each set what the first has, too. One after the other: the masks of
    a model's weights are large."""
    if not masks:
        raise GraphirError("an overlap needs at least one circuit")
    times = np.zeros(np.shape(masks[0]), np.uint16)
    for mask in masks:
        times += mask
    yield times == len(masks)
    yield times > 0
    yield np.ones(times.shape, bool)
    yield from masks
    several = times > 1
    yield from (mask & several for mask in masks)
    yield from (mask & masks[0] for mask in masks)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Overlap of several sets: `shared` is how many all have, `either` how many any has, `total` how many there are to
    choose from; in the order of the operands `sizes`, how many of each another has too (`common`), and the first
    (`of_first`)."""

    shared: int
    either: int
    sizes: tuple[int, ...]
    total: int
    common: tuple[int, ...]
    of_first: tuple[int, ...]

    @classmethod
    def of(cls, masks: Sequence[Mask]) -> Overlap:
        """Of boolean masks of one shape."""
        return cls.of_counts([int(np.count_nonzero(each)) for each in compared(masks)])

    @classmethod
    def of_counts(cls, counts: Sequence[int]) -> Overlap:
        """From how many are in each set of `compared`."""
        shared, either, total, *rest = counts
        sets = len(rest) // 3
        sizes, common, of_first = (tuple(rest[start : start + sets]) for start in (0, sets, 2 * sets))
        return cls(shared, either, sizes, total, common, of_first)

    @property
    def iou(self) -> float:
        """Intersection over union."""
        return _share(self.shared, self.either)

    @property
    def iomin(self) -> float:
        """Intersection over the smallest set, the overlap coefficient."""
        return _share(self.shared, min(self.sizes))

    @property
    def shared_fractions(self) -> tuple[float, ...]:
        """Of each set the share that any other has."""
        return tuple(_share(part, size) for part, size in zip(self.common, self.sizes, strict=True))

    @property
    def remaining_fractions(self) -> tuple[float, ...]:
        """How much of the first set each has, as a share of the first."""
        return tuple(_share(part, self.sizes[0]) for part in self.of_first)

    @property
    def chance(self) -> float:
        """The IoU to expect of random sets of these sizes: expected intersection over expected union."""
        if not self.total:
            return 1.0
        inside = np.array(self.sizes, float) / self.total
        either = 1.0 - float(np.prod(1.0 - inside))
        return float(np.prod(inside)) / either if either else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "shared": self.shared,
            "union": self.either,
            "sizes": list(self.sizes),
            "total": self.total,
            "iou": self.iou,
            "iomin": self.iomin,
            "shared_fractions": list(self.shared_fractions),
            "remaining_fractions": list(self.remaining_fractions),
            "chance": self.chance,
        }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


@dataclass(frozen=True, eq=False)
class Groups:
    """The group that each element of a mask is in, as runs: `names` (R,) of the groups, as text, and `sizes` (R,) of
    the runs. The weights of a model are many, its parameters few."""

    names: NDArray[np.str_]
    sizes: NDArray[np.int64]

    def count(self, masks: Iterable[Mask]) -> dict[str, list[int]]:
        """How many elements of each flat mask are in each group, groups in the order of their first run."""
        names, first, codes = np.unique(self.names, return_index=True, return_inverse=True)
        counts = [np.bincount(codes, weights=self._of_runs(mask), minlength=len(names)) for mask in masks]
        return {str(names[i]): [int(count[i]) for count in counts] for i in np.argsort(first).tolist()}

    def _of_runs(self, mask: Mask) -> NDArray[np.int64]:
        """(R,) how many of each run."""
        if len(mask) == len(self.names):
            return mask.astype(np.int64)
        found, inside = np.zeros(len(self.sizes), np.int64), self.sizes > 0
        starts = (np.cumsum(self.sizes) - self.sizes)[inside]
        found[inside] = np.add.reduceat(mask, starts, dtype=np.int64) if len(starts) else 0
        return found


@dataclass(frozen=True, eq=False)
class CircuitOverlap:
    """Overlap of circuits. `names` are the circuits', `masks` for each part (edges, nodes, and weights where any are
    masked) one flat mask a circuit, `layers` and `kinds` the groups of its elements."""

    names: tuple[str, ...]
    masks: Mapping[str, tuple[Mask, ...]] = field(repr=False)
    layers: Mapping[str, Groups] = field(repr=False)
    kinds: Mapping[str, Groups] = field(repr=False)

    @cached_property
    def whole(self) -> dict[str, Overlap]:
        """By part."""
        return {part: Overlap.of(masks) for part, masks in self.masks.items()}

    @property
    def edges(self) -> Overlap:
        """Of edges that run."""
        return self.whole["edges"]

    @property
    def nodes(self) -> Overlap:
        """Of nodes."""
        return self.whole["nodes"]

    @property
    def weights(self) -> Overlap | None:
        """Of weights of masked parameters; None where none are masked."""
        return self.whole.get("weights")

    def by_layer(self, part: str = "edges") -> dict[str, Overlap]:
        """Of the parts of each layer (an edge's layer is its reader's); `-` for those outside of layers."""
        return self._by(part, self.layers)

    def by_kind(self, part: str = "edges") -> dict[str, Overlap]:
        """By kind: of the node; for edges of the port that reads (`q`, `k`, `v`, `mlp`, `output`, …)."""
        return self._by(part, self.kinds)

    def _by(self, part: str, groups: Mapping[str, Groups]) -> dict[str, Overlap]:
        if part not in self.masks:
            raise GraphirError(f"there is no overlap of {part}", [f"one of {', '.join(self.masks)}"])
        counted = groups[part].count(compared(self.masks[part]))
        return {name: Overlap.of_counts(counts) for name, counts in counted.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data: each part's whole, `by_layer` and `by_kind`."""
        found: dict[str, Any] = {"names": list(self.names)}
        for part, whole in self.whole.items():
            found[part] = whole.to_json() | {
                "by_layer": {name: overlap.to_json() for name, overlap in self.by_layer(part).items()},
                "by_kind": {name: overlap.to_json() for name, overlap in self.by_kind(part).items()},
            }
        return found

    def __str__(self) -> str:
        title = "overlap of " + ", ".join(name or "(unnamed)" for name in self.names)
        return f"{title}\n{columns(HEADERS, overlap_rows(self.to_json()))}"


def overlap_rows(found: Mapping[str, Any], *, layers: int | None = LAYERS) -> list[tuple[Any, ...]]:
    """The rows of a table (see `HEADERS`) of overlaps as `CircuitOverlap.to_json` has them: each part's whole, its
    kinds, and its layers: all with None, else only so many, those with the most in common, and the rest in one row.
    Kinds and layers of which no circuit keeps anything are left out."""
    rows = []
    for part in (part for part in PARTS if part in found):
        rows.append(_row(part, found[part]))
        kinds = {name: each for name, each in found[part]["by_kind"].items() if each["union"]}
        rows += [_row(f"  {part} of {name}", each) for name, each in kinds.items()]
        own = {name: each for name, each in found[part]["by_layer"].items() if each["union"]}
        if layers is not None and len(own) > layers + 1:
            ranked = sorted(own, key=lambda name: (-own[name]["shared"], -own[name]["iou"]))[:layers]
            rest = [each for name, each in own.items() if name not in ranked]
            shared, union = (sum(each[key] for each in rest) for key in ("shared", "union"))
            own = {name: own[name] for name in ranked}
        else:
            rest, shared, union = [], 0, 0
        rows += [_row(f"  {part} of {_layer_words(name)}", each) for name, each in own.items()]
        if rest:
            rows.append((f"  … {len(rest)} more layers", shared, union, shared / union, None, None, "", ""))
    return rows


def _layer_words(name: str) -> str:
    return "no layer" if name == "-" else f"layer {name}"


def _row(name: str, found: Mapping[str, Any]) -> tuple[Any, ...]:
    each = (" ".join(f"{share:.0%}" for share in found[key]) for key in ("shared_fractions", "remaining_fractions"))
    return name, found["shared"], found["union"], found["iou"], found["iomin"], found["chance"], *each


def overlap(*operands: Circuit, across_models: bool = False) -> CircuitOverlap:
    """How much the circuits share.

    Raises `ModelMismatchError` for circuits of different graphs (with `across_models` of different structures only).
    Ablation references may differ: nothing is run.
    """
    if not operands:
        raise GraphirError("an overlap needs at least one circuit")
    graph = common_graph(operands, across_models=across_models)
    masks: dict[str, tuple[Mask, ...]] = {
        "edges": tuple(circuit.effective_edges for circuit in operands),
        "nodes": tuple(circuit.nodes for circuit in operands),
    }
    groups = {"edges": _each(*edge_groups(graph)), "nodes": _each(*_node_groups(graph))}
    weights = common_weights(operands)
    if weights[0]:
        masks["weights"] = tuple(np.concatenate([m.ravel() for m in each.values()]) for each in weights)
        groups["weights"] = _weight_groups(graph, {name: mask.size for name, mask in weights[0].items()})
    return CircuitOverlap(
        tuple(circuit.name for circuit in operands),
        masks,
        {part: found[0] for part, found in groups.items()},
        {part: found[1] for part, found in groups.items()},
    )


def edge_groups(graph: Graph) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """For each edge its reader's layer and kind, as text, (E,) each."""
    readers = [graph.nodes[port.nodes[0]] if port.nodes else None for port in graph.ports]
    layers = [_layer(node.layer if node else None) for node in readers]
    kinds = [
        port.kind if node is None or node.kind is NodeKind.HEAD else node.kind.value
        for port, node in zip(graph.ports, readers, strict=True)
    ]
    dst = np.asarray(graph.edge_dst, np.int64)
    return np.array(layers, dtype=str)[dst], np.array(kinds, dtype=str)[dst]


def _node_groups(graph: Graph) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    layers = np.array([_layer(node.layer) for node in graph.nodes], dtype=str)
    return layers, np.array([node.kind.value for node in graph.nodes], dtype=str)


def _each(layers: NDArray[np.str_], kinds: NDArray[np.str_]) -> tuple[Groups, Groups]:
    """Groups of elements that are told one by one."""
    ones = np.ones(len(layers), np.int64)
    return Groups(layers, ones), Groups(kinds, ones)


def _weight_groups(graph: Graph, sizes: Mapping[str, int]) -> tuple[Groups, Groups]:
    """A parameter's layer and kind are those of the first node that owns a part of it."""
    owners = {part.parameter: node for node in reversed(graph.nodes) for part in node.weights}
    for port in graph.ports:
        for part in port.weights:
            owners.setdefault(part.parameter, graph.nodes[port.nodes[0]])
    counts = np.array(list(sizes.values()), np.int64)
    layers = [_layer(owners[name].layer if name in owners else None) for name in sizes]
    kinds = [owners[name].kind.value if name in owners else "-" for name in sizes]
    return Groups(np.array(layers, dtype=str), counts), Groups(np.array(kinds, dtype=str), counts)


def _layer(layer: int | None) -> str:
    return "-" if layer is None else str(layer)
