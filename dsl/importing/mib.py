"""Circuit files of the MIB benchmark and EAP-IG, JSON and PT.

The PT form is `{cfg, src_nodes, dst_nodes, edges_scores (F, B), edges_in_graph (F, B), nodes_in_graph (F,),
[nodes_scores (F,)], [neurons_in_graph (F, D)]}`: rows are writers, columns readers (`a3.h4<q>`, `m3`, `logits`); a
pair that is no edge of the model is simply not in the graph. What MIB calls neurons are dimensions of what a node
writes: a node without any is not in the graph, one with some is refused, since a node here is kept whole.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsl.export.mib import read_value
from dsl.importing.resolving import Resolver
from graphir.circuit import Circuit
from graphir.errors import DataError
from graphir.ir import Graph


def from_json(value: Any, graph: Graph, path: Path) -> Circuit:
    """The circuit of a JSON file (see `dsl.export.mib`)."""
    if not isinstance(value, dict):
        raise DataError(f"{path} is no MIB circuit file", ["its keys are cfg, nodes, edges"])
    value = _without_dead(value, path)
    resolver = Resolver(graph, path)
    nodes, edges = value.get("nodes"), value.get("edges")
    for name in nodes if isinstance(nodes, dict) else ():
        resolver.nodes(name, every_embedding=True)
    for name in edges if isinstance(edges, dict) else ():
        writer, arrow, reader = name.partition("->")
        if arrow:
            resolver.edges(writer, reader, every_embedding=True)
    resolver.check()
    return read_value(value, graph, path)


def from_tensors(value: Any, graph: Graph, path: Path) -> Circuit:
    """The circuit of a PT file. Edges that are not in the circuit and not in the graph (pairs out of order) are
    passed over."""
    sources, readers, kept, scores = _tables(value, path)
    resolver = Resolver(graph, path)
    found = np.zeros(len(graph.edges), bool)
    values = np.full(len(graph.edges), np.nan)
    known = graph.edge_lookup
    for column, reader in enumerate(readers):
        port = resolver.port(reader)
        for row, source in enumerate(sources):
            for node in resolver.nodes(source, every_embedding=True):
                edge = known.get((node, -1 if port is None else port))
                if edge is None:
                    if kept[row, column] and port is not None:
                        resolver.edges(source, reader, every_embedding=True)
                    continue
                found[edge] |= kept[row, column]
                if not math.isnan(score := float(scores[row, column])):
                    values[edge] = score + (0.0 if math.isnan(values[edge]) else values[edge])
    resolver.check()
    nodes, node_scores = _nodes(value, sources, graph, resolver, _dead_rows(value, sources, path))
    all_scores = {"edges": values} if not np.isnan(values).all() else {}
    all_scores |= {} if node_scores is None else {"nodes": node_scores}
    cfg = {str(key): item for key, item in dict(value["cfg"]).items() if isinstance(item, bool | int | float | str)}
    return Circuit(graph, found, nodes, scores=all_scores, provenance={"imported": {"cfg": cfg}})


def _without_dead(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """The JSON with nodes out of the graph of which no neuron is kept."""
    nodes = value.get("nodes")
    if not isinstance(nodes, dict):
        return value
    found = dict(nodes)
    for name, node in nodes.items():
        if isinstance(node, dict) and isinstance(kept := node.get("neurons"), list) and kept and not all(kept):
            _check_whole(name, sum(map(bool, kept)), len(kept), bool(node.get("in_graph", True)), path)
            found[name] = {**node, "in_graph": False}
    return {**value, "nodes": found}


def _dead_rows(value: Mapping[str, Any], sources: list[str], path: Path) -> list[int]:
    """Of the PT form the writers of which no neuron is kept."""
    if value.get("neurons_in_graph") is None:
        return []
    table = value["neurons_in_graph"]
    kept = np.asarray(table.cpu().numpy() if hasattr(table, "cpu") else table).astype(bool)
    if kept.ndim != 2 or len(kept) != len(sources):
        raise DataError(f"{path}: `neurons_in_graph` has shape {kept.shape} for {len(sources)} writers")
    rows = np.flatnonzero(~kept.all(1)).tolist()
    for row in rows:
        _check_whole(sources[row], int(kept[row].sum()), kept.shape[1], bool(value["nodes_in_graph"][row]), path)
    return rows


def _check_whole(name: str, kept: int, total: int, in_graph: bool, path: Path) -> None:
    if kept and in_graph:
        raise DataError(
            f"{path} keeps {kept} of the {total} neurons of `{name}`: a circuit here keeps a node or drops it",
            ["leave `neurons` out of the file, or mask single neurons with `neuron_attribution` or `discogp`"],
        )


def _tables(value: Any, path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    needed = ("cfg", "src_nodes", "dst_nodes", "edges_scores", "edges_in_graph", "nodes_in_graph")
    missing = [key for key in needed if not isinstance(value, Mapping) or key not in value]
    if missing:
        raise DataError(
            f"{path} is no MIB circuit file: it has no `{missing[0]}`", [f"its keys are {', '.join(needed)}"]
        )
    sources, readers = [str(n) for n in value["src_nodes"]], [str(n) for n in value["dst_nodes"]]
    tables = []
    for key in ("edges_in_graph", "edges_scores"):
        table = np.asarray(value[key].cpu().numpy() if hasattr(value[key], "cpu") else value[key])
        if table.shape != (len(sources), len(readers)):
            raise DataError(
                f"{path}: `{key}` has shape {table.shape} for {len(sources)} writers and {len(readers)} readers"
            )
        tables.append(table)
    return sources, readers, tables[0].astype(bool), tables[1].astype(np.float64)


def _nodes(
    value: Mapping[str, Any], sources: list[str], graph: Graph, resolver: Resolver, dead: Collection[int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Kept nodes (outputs are, they are not in the file) and scores."""
    kept = np.array([not graph.nodes[i].ports for i in range(len(graph.nodes))], bool)
    kept[:] = [node.kind.value == "output" for node in graph.nodes]
    scores = np.full(len(graph.nodes), np.nan) if "nodes_scores" in value else None
    for row, source in enumerate(sources):
        for node in resolver.nodes(source, every_embedding=True):
            kept[node] = bool(value["nodes_in_graph"][row]) and row not in dead
            if scores is not None:
                scores[node] = float(value["nodes_scores"][row])
    return kept, scores
