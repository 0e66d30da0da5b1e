"""Structured pruning by magnitude: whole channels, neurons and heads, coupled ones together.

Units that a skip connection adds into each other go together or not at all (Fang et al. 2023, DepGraph, sec. 3.3; here
the coupling is read off the traced graph). A group's importance is, over its coupled tensors (rows of the products that
make its units, columns of those that read them), the mean of Σ|w|ᵖ; of every set of groups that lie in the same layers
the lowest go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from graphir.circuit import Circuit
from graphir.errors import GraphirError
from graphir.ir import NodeKind
from graphir.run.layer_program import LayerProgram
from graphir.run.program import Env, MaskedProgram
from graphir.tracing.assemble_layers import arrange
from graphir.tracing.canonical import operand
from graphir.tracing.layers import Feed
from passes.base import Pass, RunContext, provenance_of
from passes.options import StructuredOptions

_UNITS = (NodeKind.HEAD, NodeKind.NEURON, NodeKind.CHANNEL)


@dataclass(frozen=True)
class Structured(StructuredOptions, Pass):
    """Drop the same share of every layer's units, the smallest first."""

    name: ClassVar[str] = "structured"

    def run(self, context: RunContext) -> Circuit:
        """The circuit without the dropped units, ablated to zero: `circuit.shrink()` makes the smaller module."""
        if context.constraints:
            raise GraphirError(
                "structured pruning drops the share `ratio` of every layer and meets no other bound",
                ["leave the bound out", "ratio: 50%"],
            )
        found = structured_circuit(context.program, self.ratio, order=self.order)
        return found.with_(provenance=provenance_of(self, context))


def structured_circuit(
    program: MaskedProgram, ratio: float, *, order: int = 2, layers: Collection[int] | None = None
) -> Circuit:
    """The circuit that drops ⌊ratio · n⌋ of every n groups of coupled units, those of least magnitude.

    `order` is the p of Σ|w|ᵖ; with `layers` only units of these layers go. Raises `GraphirError` for a ratio outside
    [0, 1) and for a graph none of whose nodes is a unit.
    """
    if not 0 <= ratio < 1:
        raise GraphirError(f"a ratio of {ratio:g} leaves nothing", ["the ratio is the share that goes: 0 ≤ ratio < 1"])
    graph = program.graph
    if not any(node.kind in _UNITS for node in graph.nodes):
        raise GraphirError(
            "no node of this graph is a head, a neuron or a channel",
            ['trace with granularity "head", "neuron" or "channel"'],
        )
    groups = _layer_groups(program, order) if isinstance(program, LayerProgram) else _stream_groups(program, order)
    keep = np.ones(len(graph.nodes), bool)
    for group in groups:
        if layers is None or all(graph.nodes[int(n)].layer in layers for n in np.concatenate(group.members)):
            _drop_lowest(group, ratio, keep)
    links = keep[np.asarray(graph.edge_src)]
    ports = np.array([bool(keep[list(port.nodes)].any()) for port in graph.ports], bool)
    scores = np.zeros(len(graph.nodes))
    for group in groups:
        for members, value in zip(group.members, group.importance, strict=True):
            scores[members] = value
    edges = links & ports[np.asarray(graph.edge_dst)]
    return Circuit(graph, edges, keep, scores={"nodes": scores}, ablation="zero")


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of nodes that compete: `members` are node indices of each, `importance` its magnitude."""

    members: tuple[NDArray[np.int64], ...]
    importance: NDArray[np.float64]


def _drop_lowest(groups: Groups, ratio: float, keep: NDArray[np.bool_]) -> None:
    count = int(np.floor(ratio * len(groups.members) + 1e-9))
    for place in np.argsort(groups.importance, kind="stable")[:count].tolist():
        keep[groups.members[place]] = False


# --- layered models ---------------------------------------------------------------------------------------------------


def _layer_groups(program: LayerProgram, order: int) -> list[Groups]:
    """Units coupled by skips, those of the same layers together."""
    model, graph = program.model, program.graph
    assert graph.granularity is not None
    group = _coupled(model.count, [(layer.offset, skip) for layer in model.layers for skip in layer.feeds])
    node_of = arrange(model, graph.granularity).node
    fixed: set[int] = set()
    layer_of = np.zeros(model.count, np.int64)
    for i, layer in enumerate(model.layers):
        units = slice(layer.offset, layer.offset + layer.count)
        layer_of[units] = i
        if not layer.hidden or not layer.letter or len(np.unique(node_of[units])) < layer.count:
            fixed |= set(group[units].tolist())
    importance = _importance(program, group, order)
    sets: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number in np.unique(group).tolist():
        if number not in fixed:
            sets[tuple(np.unique(layer_of[group == number]).tolist())].append(number)
    return [
        Groups(tuple(node_of[group == n] for n in numbers), np.array([importance[n] for n in numbers]))
        for numbers in sets.values()
    ]


def _coupled(count: int, feeds: list[tuple[int, Feed]]) -> NDArray[np.int64]:
    """The group of every unit of a model: a skip adds unit reads[i] into unit writes[i] of its layer."""
    pairs = [np.zeros((0, 2), np.int64)]
    for offset, feed in feeds:
        if feed.product is None:
            both = np.stack([feed.reads, np.where(feed.writes < 0, -1, feed.writes + offset)], 1)
            pairs.append(both[(both >= 0).all(1)])
    left, right = np.concatenate(pairs).T
    links = coo_array((np.ones(len(left)), (left, right)), shape=(count, count))
    found: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return found


def _importance(program: LayerProgram, group: NDArray[np.int64], order: int) -> Mapping[int, float]:
    """Mean over coupled tensors of Σ|w|ᵖ, by group."""
    env = program.prologue(program.bind(program.traced.example))
    total = np.zeros(int(group.max()) + 1)
    tensors = np.zeros(int(group.max()) + 1)
    for layer in program.model.layers:
        for feed in layer.feeds:
            if feed.product is None:
                continue
            weight = _magnitude(env, feed.product, order)
            made = layer.offset + feed.writes
            _collect(total, tensors, group, np.where(feed.writes < 0, -1, made), weight.sum(1))
            columns = [part.sum(0) for part in np.split(weight, feed.groups)]
            _collect(total, tensors, group, feed.reads, np.concatenate(columns))
    means = total / np.maximum(tensors, 1)
    return dict(enumerate(means.tolist()))


def _magnitude(env: Env, product: fx.Node, order: int) -> NDArray[np.float64]:
    """Σ|w|ᵖ of each (row, column) of a product's weight."""
    weight: Tensor = env[operand(product, 1)]
    powers = weight.detach().abs().double().pow(order)
    found: NDArray[np.float64] = powers.reshape(*powers.shape[:2], -1).sum(-1).cpu().numpy()
    return found


def _collect(
    total: NDArray[np.float64], tensors: NDArray[np.float64], group: NDArray[np.int64], units: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:  # fmt: skip
    real = units >= 0
    np.add.at(total, group[units[real]], values[real])
    tensors[np.unique(group[units[real]])] += 1


# --- models with residual streams -------------------------------------------------------------------------------------


def _stream_groups(program: MaskedProgram, order: int) -> list[Groups]:
    """Heads of a key/value group, neurons of an MLP: each by the magnitude of the weights it owns."""
    graph, tensors = program.graph, program.traced.tensors
    competing: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, node in enumerate(graph.nodes):
        if node.kind in _UNITS:
            shared = tuple(graph.ports[p].name for p in node.ports if len(graph.ports[p].nodes) > 1)
            competing[(str(node.kind), str(node.layer), node.name.split(".")[0], *shared)].append(i)
    found = []
    for members in competing.values():
        sizes = []
        for i in members:
            parts = [_slice_of(tensors[w.parameter], w.index) for w in graph.nodes[i].weights]
            sizes.append(np.mean([float(p.abs().double().pow(order).sum()) for p in parts]) if parts else 0.0)
        found.append(Groups(tuple(np.array([i]) for i in members), np.array(sizes)))
    return found


def _slice_of(tensor: Tensor, index: tuple[tuple[tuple[int, int], ...] | None, ...]) -> Tensor:
    value = tensor.detach()
    for axis, spans in enumerate(index):
        if spans is not None:
            value = torch.cat([value.narrow(axis, a, b - a) for a, b in spans], axis)
    return value
