"""Groups of units: by normalized cuts of a graph of units, by a tree of what they correlate with, or as communities of
a circuit's graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsl.running.analyzing import collect, describe_distance, pooling_of
from dsl.running.failures import located
from dsl.running.samples import data_stage
from dsl.running.stage import Stage
from dsl.running.storing import read_numbers, write_numbers
from dsl.running.units import by_owner, chosen_nodes, describe_units, subject, units_of
from graphir.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dsl.running.workplace import Workplace
    from dsl.spec import ClusterSpec
    from graphir.circuit import Circuit
    from passes.analyze.hierarchy import Hierarchy
    from passes.analyze.unit_graphs import UnitGraph

OF_UNITS = ("neurons", "channels")
KINDS = {"heads": "head", "mlps": "mlp", "neurons": "neuron", "channels": "channel"}
WIDEST = 2048
"""Outputs that units are correlated with at most."""
TREE = "tree.safetensors"


@dataclass(frozen=True, eq=False)
class Grouped:
    """Groups of units. `labels` (U,) number them from 0, −1 is in none; `facts` is plain data that the method gives
    besides; `tree` is that of a hierarchy."""

    method: str
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    facts: Mapping[str, Any] = field(default_factory=dict)
    tree: Hierarchy | None = None

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The units of each group, `c0`, `c1` …"""
        found: dict[str, list[str]] = {f"c{label}": [] for label in sorted({*self.labels.tolist()} - {-1})}
        for name, label in zip(self.names, self.labels.tolist(), strict=True):
            if label >= 0:
                found[f"c{label}"].append(name)
        return {key: tuple(names) for key, names in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the tree."""
        return {
            "method": self.method, "names": list(self.names), "labels": self.labels.tolist(), "facts": dict(self.facts),
        }  # fmt: skip


class ClusterStage(Stage[Grouped]):
    """Group units."""

    kind = "cluster"

    def __init__(self, spec: ClusterSpec) -> None:
        super().__init__(spec.name, spec.method.span, f"grouping {spec.units} by {spec.method.name}")
        self.spec = spec

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Units, samples where there are any, method; of a circuit its scores as well, which weigh edges."""
        spec = self.spec
        found = describe_units(spec, place) | {"method": describe_distance(spec.method)}
        if spec.data is not None:
            found |= {"data": data_stage(spec.data, spec.graph.model), "pooling": pooling_of(spec.data)}
        circuit = subject(spec, place)
        if circuit is not None and spec.method.name == "communities" and "edges" in circuit.scores:
            found["scores"] = np.asarray(circuit.scores["edges"], np.float64).tobytes().hex()
        return found

    def run(self, place: Workplace) -> Grouped:
        """Group. `StageError` for more groups than units, graphs in pieces, units that the method cannot group."""
        make = {"ncut": _ncut, "hierarchy": _hierarchy, "communities": _communities}[self.spec.method.name]
        with located(self.doing, self.span), place.reporter.stage(f"{self.spec.name}: {self.spec.method.name}"):
            return make(self.spec, place)

    def save(self, value: Grouped, folder: Path) -> None:
        """JSON; a tree as safetensors."""
        from safetensors.numpy import save_file

        about = value.to_json()
        if value.tree is not None:
            tree = value.tree
            arrays = {"features": tree.features, "signs": tree.signs, "tree": tree.tree}
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / TREE)
            about["tree"] = {"inputs": tree.inputs, "constant": list(tree.constant)}
        write_numbers(folder, about)

    def load(self, folder: Path, place: Workplace) -> Grouped:
        """The same."""
        from safetensors.numpy import load_file

        from passes.analyze.hierarchy import Hierarchy

        about = read_numbers(folder)
        names, told, tree = tuple(about["names"]), about.get("tree"), None
        if told is not None:
            tree = Hierarchy(names, inputs=told["inputs"], constant=tuple(told["constant"]), **load_file(folder / TREE))
        return Grouped(about["method"], names, np.array(about["labels"], np.int64), about["facts"], tree)


def _ncut(spec: ClusterSpec, place: Workplace) -> Grouped:
    from passes.analyze.clusterability import cluster_units

    _of_units(spec)
    options = spec.method.options
    found = cluster_units(
        _activations(spec, place) if options.graph == "activations" else _weights(spec, place), options
    )
    facts = {
        "k": options.k, "ncut": found.ncut, "z": found.z, "p_more": found.p_more, "p_less": found.p_less,
        "pieces": found.pieces, "dropped": list(found.dropped), "null": found.null.tolist(),
        "settings": dict(found.settings),
    }  # fmt: skip
    return Grouped("ncut", found.graph.names, found.labels, facts)


def _of_units(spec: ClusterSpec) -> None:
    if spec.units not in OF_UNITS:
        raise DataError(
            f"`{spec.method.name}` groups neurons or channels, not {spec.units}",
            ["write `neurons of …`, and trace with `mlp: neuron`", "group heads or nodes `with communities`"],
        )


def _weights(spec: ClusterSpec, place: Workplace) -> UnitGraph:
    """The weights between units; inputs and outputs stay where some units are left out."""
    from passes.analyze.unit_graphs import weight_graph

    made = weight_graph(place.program(spec.graph), fold_norms=spec.method.options.fold_norms)
    if chosen_nodes(spec, place) is None:
        return made
    from graphir.run.collect import site_names

    every, chosen = set(site_names(place.program(spec.graph), spec.units)), set(units_of(spec, place))
    return _part(made, np.array([name in chosen or name not in every for name in made.names]))


def _part(graph: UnitGraph, kept: NDArray[np.bool_]) -> UnitGraph:
    number = np.cumsum(kept) - 1
    links = []
    for link in graph.links:
        rows, columns = kept[link.target], kept[link.source]
        cut = link.weights[np.ix_(rows, columns)]
        links.append(replace(link, target=number[link.target[rows]], source=number[link.source[columns]], weights=cut))
    names = tuple(name for name, keep in zip(graph.names, kept, strict=True) if keep)
    return replace(graph, names=names, layers=graph.layers[kept], links=tuple(links))


def _activations(spec: ClusterSpec, place: Workplace) -> UnitGraph:
    from passes.analyze.unit_graphs import activation_graph

    names = units_of(spec, place)
    made = activation_graph(collect(spec, place, by_owner(names)))
    return replace(made, names=_in_layers(names))


def _in_layers(names: Sequence[str]) -> tuple[str, ...]:
    """The names as they stand once they are put together by layer."""
    parts = by_owner(names)
    letter = {name.rpartition(".")[0]: name.rpartition(".")[2][0] for name in names}
    return tuple(f"{owner}.{letter[owner]}{unit}" for owner, (_, units) in parts.items() for unit in units)


def _hierarchy(spec: ClusterSpec, place: Workplace) -> Grouped:
    from passes.analyze.hierarchy import find_hierarchy, should_align

    _of_units(spec)
    names, program, options = units_of(spec, place), place.program(spec.graph), spec.method.options
    parts = by_owner(names)
    if options.k is not None and options.k > len(names):
        raise DataError(f"{options.k} modules of {len(names)} units", [f"between 1 and {len(names)}"])
    inputs, outputs = _ends(spec, place)
    units = np.concatenate(collect(spec, place, parts).arrays, axis=1)
    ends = collect(spec, place, [*inputs, *outputs])
    left = np.concatenate([ends[name] for name in inputs], axis=1)
    right = np.concatenate([ends[name] for name in outputs], axis=1)[:, :WIDEST]
    odd = should_align(options, program, list(parts))
    made = find_hierarchy(units, left, right, _in_layers(names), odd=odd, by=options.by)
    whole = options.k is None and options.height is None
    labels = np.full(len(names), -1, np.int64) if whole else made.cut(options.k, height=options.height)
    facts = {
        "k": options.k, "height": options.height, "by": options.by, "odd": odd, "inputs": left.shape[1],
        "outputs": right.shape[1], "constant": list(made.constant), "samples": len(units),
    }  # fmt: skip
    return Grouped("hierarchy", made.names, labels, facts, made)


def _ends(spec: ClusterSpec, place: Workplace) -> tuple[list[str], list[str]]:
    """Names of what holds the inputs (embeddings) and of what holds the outputs."""
    from graphir.ir import NodeKind

    found: dict[NodeKind, list[str]] = {NodeKind.EMBED: [], NodeKind.OUTPUT: []}
    units = place.program(spec.graph).neurons
    for node in place.graph(spec.graph).nodes:
        if node.kind in found:
            stem = node.name.rpartition(".")[0]
            whole = stem if stem and node.name.rpartition(".")[2][:1] in ("n", "c") and stem not in units else node.name
            if whole not in found[node.kind]:
                found[node.kind].append(whole)
    if not found[NodeKind.EMBED] or not found[NodeKind.OUTPUT]:
        raise DataError("the graph shows no inputs or no outputs, which units are correlated with")
    return found[NodeKind.EMBED], found[NodeKind.OUTPUT]


def _communities(spec: ClusterSpec, place: Workplace) -> Grouped:
    from passes.analyze.communities import find_communities

    circuit = _communicating(spec, place)
    found = find_communities(circuit, spec.method.options)
    place_of = {name: number for number, group in enumerate(found.groups) for name in group}
    names = tuple(node.name for node in circuit.graph.nodes if node.name in place_of)
    facts = {
        "modularity": found.modularity, "centrality": {k: dict(v) for k, v in found.centrality.items()},
        "dominators": dict(found.dominators), "motifs": {name: asdict(each) for name, each in found.motifs.items()},
        "settings": dict(found.settings),
    }  # fmt: skip
    return Grouped("communities", names, np.array([place_of[name] for name in names], np.int64), facts)


def _communicating(spec: ClusterSpec, place: Workplace) -> Circuit:
    """The circuit, or whole graph, less the nodes that are not asked for."""
    from graphir.circuit import Circuit

    graph = place.graph(spec.graph)
    circuit = subject(spec, place) or Circuit.full(graph)
    if spec.units not in ("nodes", *KINDS):
        raise DataError(f"communities are groups of nodes, not of {spec.units}", ["write `nodes of …`"])
    kept = chosen_nodes(spec, place)
    kept = circuit.nodes.copy() if kept is None else kept & circuit.nodes
    if spec.units in KINDS:
        kept &= np.array([node.kind.value == KINDS[spec.units] for node in graph.nodes])
    read = np.array([any(kept[node] for node in port.nodes) for port in graph.ports], bool)
    edges = circuit.edges & kept[graph.edge_src] & read[graph.edge_dst]
    return circuit.with_(nodes=kept, edges=edges)
