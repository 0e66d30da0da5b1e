"""Circuit files of the MIB benchmark and EAP-IG: written, and read onto a graph.

    {"cfg": {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"},
     "nodes": {"input": {"in_graph", "score"?}, "a0.h0": …, "m0": …, "logits": …},
     "edges": {"a0.h0->a1.h2<q>": {"score"?, "in_graph"}, …}}

The format knows one input, heads, MLPs and logits, and a query, key and value port for every head. So a port that heads
share is written once for each of them, a joint port three times, and two embedding nodes are one input (in the circuit
when either is, scores added). Reading adds the scores of what falls together. A missing score, or not-a-number, means
`always kept` there; it is not-a-number here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from dsl.export.registry import ExportError
from graphir.aliases import edge_from_eap, edge_to_eap
from graphir.circuit import Circuit
from graphir.errors import DataError
from graphir.ir import Graph, NodeKind
from graphir.names import closest, is_name, parse_name
from graphir.serial import json_text, read_json, write_text


def write(circuit: Circuit, path: Path) -> None:
    """Writes the file. `ExportError` when the graph has parts that the format does not know."""
    write_text(path, json_text(to_mib(circuit)))


def to_mib(circuit: Circuit) -> dict[str, Any]:
    """The file's content as JSON values."""
    graph = circuit.graph
    names = [_node_name(node.name, node.kind) for node in graph.nodes]
    foreign = [node.name for node, name in zip(graph.nodes, names, strict=True) if name is None]
    if foreign:
        shown = ", ".join(f"`{name}`" for name in foreign[:3])
        raise ExportError(
            f"the MIB format has no place for {shown}" + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""),
            ["it knows one input, heads, MLPs and logits of a decoder: trace at head granularity", "export as json"],
        )
    nodes: dict[str, dict[str, Any]] = {}
    scores = circuit.scores.get("nodes")
    for i, name in enumerate(names):
        _merge(nodes, str(name), bool(circuit.nodes[i]), None if scores is None else float(scores[i]))
    return {"cfg": _config(graph), "nodes": nodes, "edges": _edges(circuit)}


def _node_name(name: str, kind: NodeKind) -> str | None:
    if kind is NodeKind.EMBED:
        return "input"
    part = parse_name(name) if is_name(name) else None
    if part is None or part.scope:
        return None
    known = {NodeKind.HEAD: ("a", "h"), NodeKind.MLP: ("m", ""), NodeKind.OUTPUT: ("logits", "")}
    return name if known.get(kind) == (part.stem, part.unit) else None


def _merge(items: dict[str, dict[str, Any]], name: str, kept: bool, score: float | None) -> None:
    """Adds an item, or folds it into the one of that name; a score that is no number is left out."""
    item = items.setdefault(name, {})
    if score is not None and not math.isnan(score):
        item["score"] = item.get("score", 0.0) + score
    item["in_graph"] = item.pop("in_graph", False) or kept


def _edges(circuit: Circuit) -> dict[str, dict[str, Any]]:
    """Edges by writer, then by reader, the order of the published files."""
    graph, scores = circuit.graph, circuit.scores.get("edges")
    order = np.lexsort((graph.edge_dst, graph.edge_src)).tolist()
    readers = [_readers(graph, port) for port in range(len(graph.ports))]
    found: dict[str, dict[str, Any]] = {}
    for i in order:
        src = graph.nodes[int(graph.edge_src[i])]
        writer = "embed" if src.kind is NodeKind.EMBED else src.name
        for reader in readers[int(graph.edge_dst[i])]:
            name = edge_to_eap(writer, reader)
            assert name is not None, (writer, reader)
            _merge(found, name, bool(circuit.edges[i]), None if scores is None else float(scores[i]))
    return found


def _readers(graph: Graph, port: int) -> list[str]:
    """Our names of the ports that the format has for this one."""
    names = []
    for node in (graph.nodes[n] for n in graph.ports[port].nodes):
        kind = graph.ports[port].kind
        split = node.kind is NodeKind.HEAD and kind == "in"
        names += [f"{node.name}.{k}" for k in (("q", "k", "v") if split else (kind,))]
    return names


def _config(graph: Graph) -> dict[str, Any]:
    heads = [parse_name(node.name) for node in graph.nodes if node.kind is NodeKind.HEAD]
    layers = 1 + max((n.layer for n in graph.nodes if n.layer is not None), default=-1)
    counts = {layer: sum(head.layer == layer for head in heads) for layer in {head.layer for head in heads}}
    if len(set(counts.values())) > 1:
        raise ExportError("the MIB format needs as many heads in every layer")
    pairs = set(zip(graph.edge_src.tolist(), graph.edge_dst.tolist(), strict=True))
    beside = [
        (graph.node_index[str(head)], port) not in pairs
        for head in heads
        if (port := graph.port_index.get(f"m{head.layer}.in")) is not None
    ]
    embedding = next((n for n in graph.nodes if n.kind is NodeKind.EMBED), None)
    tables = [part.shape[-1] for part in (embedding.weights if embedding else ()) if len(part.shape) == 2]
    return {
        "n_layers": layers,
        "n_heads": next(iter(counts.values()), 0),
        "parallel_attn_mlp": bool(beside) and all(beside),
        "d_model": tables[0] if tables else 0,
    }


# --- reading -------------------------------------------------------------------------------------------------------


def read(path: str | Path, graph: Graph, name: str = "") -> Circuit:
    """The circuit of a MIB or EAP-IG file on `graph`: kept parts and scores.

    Errors: `SaveFormatError` (no such file, no JSON), `DataError` (another schema, a model of another size, a node or
    an edge that the graph does not have).
    """
    return read_value(read_json(Path(path)), graph, path, name)


def read_value(value: dict[str, Any], graph: Graph, path: str | Path, name: str = "") -> Circuit:
    """`read`, of a file's content as JSON values; `path` is for messages."""
    for key in ("cfg", "nodes", "edges"):
        if not isinstance(value.get(key), dict):
            raise DataError(f"{path} is no MIB circuit file: it has no `{key}`", ["its keys are cfg, nodes, edges"])
    _check_config(value["cfg"], graph, Path(path))
    nodes, node_scores = _read_nodes(value["nodes"], graph, Path(path))
    edges, edge_scores = _read_edges(value["edges"], graph, Path(path))
    scores = {"edges": edge_scores, "nodes": node_scores}
    return Circuit(
        graph,
        edges,
        nodes,
        scores={key: array for key, array in scores.items() if not np.isnan(array).all()},
        name=name or Path(path).stem,
        provenance={"imported": {"format": "mib", "cfg": value["cfg"]}},
    )


def _check_config(said: dict[str, Any], graph: Graph, path: Path) -> None:
    for key, ours in _config(graph).items():
        theirs = said.get(key, ours)
        if theirs != ours and ours != 0:
            raise DataError(f"{path} is about another model: its {key} is {theirs}, the graph's {ours}")


def _item(value: Any, name: str, path: Path) -> tuple[bool, float]:
    """(in_graph, score); a missing score is not-a-number."""
    if not isinstance(value, dict) or not isinstance(value.get("in_graph"), bool):
        raise DataError(f"{path}: `{name}` needs a truth value `in_graph`, it has {json.dumps(value)[:60]}")
    score = value.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise DataError(f"{path}: the score of `{name}` is no number: {json.dumps(score)[:60]}")
    try:
        return value["in_graph"], float("nan") if score is None else float(score)
    except OverflowError:
        raise DataError(f"{path}: the score of `{name}` is too large a number") from None


def _read_nodes(items: dict[str, Any], graph: Graph, path: Path) -> tuple[np.ndarray, np.ndarray]:
    kept, scores = np.zeros(len(graph.nodes), bool), np.full(len(graph.nodes), np.nan)
    embeddings = [i for i, node in enumerate(graph.nodes) if node.kind is NodeKind.EMBED]
    for name, value in items.items():
        inside, score = _item(value, name, path)
        places = embeddings if name == "input" else [graph.node_index.get(name, -1)]
        if places == [-1]:
            raise _unknown("node", name, list(graph.node_index), path)
        kept[places], scores[places] = inside, score
    return kept, scores


def _read_edges(items: dict[str, Any], graph: Graph, path: Path) -> tuple[np.ndarray, np.ndarray]:
    kept, scores = np.zeros(len(graph.edges), bool), np.full(len(graph.edges), np.nan)
    embeddings = [i for i, node in enumerate(graph.nodes) if node.kind is NodeKind.EMBED]
    for name, value in items.items():
        inside, score = _item(value, name, path)
        for place in _places(name, graph, embeddings, path):
            kept[place] |= inside
            if not math.isnan(score):
                scores[place] = score + (0.0 if np.isnan(scores[place]) else scores[place])
    return kept, scores


def _places(name: str, graph: Graph, embeddings: list[int], path: Path) -> list[int]:
    """The graph's edges that an edge of the file means: one, or one from each embedding node."""
    ends = edge_from_eap(name)
    if ends is None:
        raise DataError(f"{path}: `{name}` is no edge", ["edges look like `a0.h1->a3.h4<q>`, `input->m0`"])
    writer, reader = ends
    port = graph.port_index.get(reader)
    if port is None:  # a head whose query, key and value ports are one
        part = parse_name(reader)
        port = graph.port_index.get(f"{part.node}.in") if part.port in ("q", "k", "v") else None
    sources = embeddings if writer == "embed" else [graph.node_index.get(writer, -1)]
    found = [graph.edge_lookup.get((src, -1 if port is None else port), -1) for src in sources]
    if not found or -1 in found:
        known = [x for edge in graph.edges if (x := edge_to_eap(edge.src_name, edge.dst_name))]
        raise _unknown("edge", name, known if len(known) < 5000 else [], path)
    return found


def _unknown(what: str, name: str, known: list[str], path: Path) -> DataError:
    near = closest(name, known)
    hints = [f"did you mean {' or '.join(f'`{n}`' for n in near)}?"] if near else []
    return DataError(f"{path}: the graph has no {what} `{name}`", hints)
