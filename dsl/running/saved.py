"""Look at what was saved: show, query and export circuits and runs, without their models and without torch.

Only `show` of a `.circ` file, which traces the model, imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from dsl.options import ExportOptions, ShowOptions
from dsl.running import tables
from dsl.running.folder import find_run, read_run, saved_circuits
from dsl.running.progress import plain
from graphir.circuit import Circuit
from graphir.display import format_node, render, simple_table
from graphir.errors import GraphirError, SaveFormatError
from graphir.ir import Graph, NodeKind

if TYPE_CHECKING:
    from dsl.spec import QuerySpec

FIXED_NAMES = {"mib": "eap", "edges": "edge-pruning", "circuit": "ours"}
"""Formats that have names of their own."""


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer as JSON data and as text."""

    data: Mapping[str, Any]
    text: str = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        result: dict[str, Any] = plain(self.data)
        return result

    def __str__(self) -> str:
        return self.text


def one_circuit(path: Path) -> Circuit:
    """The saved circuit in a folder: of a run, its only one. `GraphirError` where there are several."""
    found = saved_circuits(path)
    if len(found) != 1:
        named = [str(place) for place in found.values()]
        message = f"{path} has {len(found) or 'no'} circuits"
        raise GraphirError(message, [f"name one: {' or '.join(named)}"] if named else [])
    return Circuit.load(next(iter(found.values())))


# --- query -----------------------------------------------------------------------------------------------------------


def ask_path(path: Path, query: QuerySpec) -> Answer:
    """See `dsl.execute.query`."""
    from dsl.translate import to_query
    from graphir.query import run_query

    answer = run_query(to_query(query), one_circuit(path))
    rows = answer.records()
    return Answer({"kind": query.kind, "count": len(rows), "rows": rows}, str(answer))


# --- show ------------------------------------------------------------------------------------------------------------


def show_path(path: Path, options: ShowOptions) -> Answer:
    """See `dsl.execute.show`."""
    if path.is_file():
        return _show_file(path, options)
    found = saved_circuits(path)
    if options.node is None and len(found) != 1:
        return _show_run(path)
    return _show_circuit(one_circuit(path), options)


def _show_file(path: Path, options: ShowOptions) -> Answer:
    """The graphs of a specification, traced."""
    from dsl.reading import load
    from dsl.running.progress import Reporter
    from dsl.running.stage import refuse_unsupported
    from dsl.running.workplace import Workplace

    spec = load(path)
    refuse_unsupported(spec)
    reporter = Reporter(quiet=False)
    try:
        workplace = Workplace.of(spec, reporter)
        graphs = {each.name: workplace.graph(each) for each in spec.graphs}
    finally:
        workplace.close()
        reporter.close()
    if not graphs:
        raise GraphirError(f"{path} has no graph to show", ["add `graph g = trace MODEL`"])
    if options.node is not None:
        graph = next((g for g in graphs.values() if options.node in g.node_index), next(iter(graphs.values())))
        return _node_answer(graph, options.node, None)
    data = {name: graph_data(graph) for name, graph in graphs.items()}
    text = "\n\n".join(format_graph_summary(name, graph, options) for name, graph in graphs.items())
    return Answer({"graphs": data}, text)


def graph_data(graph: Graph) -> dict[str, Any]:
    """A graph in numbers."""
    from graphir.cost import edge_count

    kinds = [node.kind.value for node in graph.nodes]
    return {
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
        "ungrouped_edges": int(edge_count(graph, ungrouped=True)),
        "kinds": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "opaque": {node.name: node.note for node in graph.opaque},
        "granularity": str(graph.granularity),
        "equivalence": graph.equivalence,
        "model_hash": graph.model_hash,
        "notes": list(graph.notes),
    }


def format_graph_summary(name: str, graph: Graph, options: ShowOptions) -> str:
    """A graph by layer: how many nodes of each kind it has, and how many edges they read."""
    kinds = [kind.value for kind in NodeKind if any(node.kind is kind for node in graph.nodes)]
    incoming = np.bincount(graph.edge_dst, minlength=len(graph.ports))
    rows: dict[int | None, dict[str, int]] = {}
    for node in graph.nodes:
        row = rows.setdefault(node.layer, dict.fromkeys([*kinds, "parameters"], 0))
        row[node.kind.value] += 1
        row["parameters"] += node.weights.size
    reads: dict[int | None, int] = {}
    for index, port in enumerate(graph.ports):
        layer = graph.nodes[port.nodes[0]].layer
        reads[layer] = reads.get(layer, 0) + int(incoming[index])
    for weights, ports in graph.shared_weights.items():
        rows[graph.nodes[graph.ports[ports[0]].nodes[0]].layer]["parameters"] += weights.size
    order = sorted(rows, key=lambda layer: -1 if layer is None else layer)
    table = [
        ("-" if layer is None else layer, *(row[k] or "" for k in kinds), reads.get(layer, 0), row["parameters"])
        for layer, row in ((layer, rows[layer]) for layer in order)
    ]
    headers = ("layer", *kinds, "edges in", "parameters")
    data = graph_data(graph)
    ungrouped = data["ungrouped_edges"]
    more = f"{ungrouped:,} edges with key and value ports for each head" if ungrouped != len(graph.edges) else ""
    return render(tables.graph_line(name, graph), *([more] if more else []), "", simple_table(headers, table, headers))


def _show_run(path: Path) -> Answer:
    """The circuits of a run, side by side."""
    run = find_run(path)
    manifest = read_run(run)
    circuits = manifest["circuits"]
    shown = [m for m in tables.METRICS if any(m in each.get("metrics", {}) for each in circuits.values())]
    measured = {name: each.get("metrics", {}) for name, each in circuits.items()}
    rows = [
        (name, each["method"], each["edges"], f"{each['density']:.2%}", *(measured[name].get(m) for m in shown))
        for name, each in circuits.items()
    ]
    headers = ("circuit", "method", "edges", "density", *shown)
    lines = [f"run {run}: {manifest['status']}" + (f" ({manifest['reason']})" if manifest.get("reason") else "")]
    failed = [check for check in manifest["checks"] if not check["passed"]]
    lines += [f"check of {check['circuit']} failed: {check['condition']}" for check in failed]
    return Answer(manifest, render(*lines, "", simple_table(headers, rows, headers[2:])))


def _show_circuit(circuit: Circuit, options: ShowOptions) -> Answer:
    if options.node is not None:
        return _node_answer(circuit.graph, options.node, circuit)
    named = renamed(circuit, options.names)
    strongest = strongest_edges(named, options.top)
    scores = named.scores.get("edges")
    rows = [(str(named.graph.edges[i]), None if scores is None else float(scores[i])) for i in strongest]
    data = {
        "name": circuit.name,
        "graph": graph_data(circuit.graph),
        "counts": circuit.counts(),
        "densities": circuit.densities(),
        "metrics": dict(circuit.metrics),
        "ablation": circuit.ablation,
        "provenance": dict(circuit.provenance),
        "strongest": [{"edge": edge, "score": score} for edge, score in rows],
    }
    kept = int(circuit.edges.sum())
    header = f"strongest {len(rows)} of {kept:,} edges" if len(rows) < kept else "edge"
    parts: list[Any] = [_title(circuit), "", _counts_table(circuit)]
    if circuit.metrics:
        parts += ["", simple_table(("metric", "value"), circuit.metrics.items(), ("value",))]
    parts += ["", simple_table((header, "score"), rows, ("score",)) if rows else "nothing is kept"]
    return Answer(data, render(*parts))


def _title(circuit: Circuit) -> str:
    made = circuit.provenance
    by = f", by {made['method']}" if "method" in made else ""
    state = f", interrupted at step {made['interrupted']}" if "interrupted" in made else ""
    return f"circuit {circuit.name or '(unnamed)'} of {circuit.graph.name}{by}, {circuit.ablation} ablation{state}"


def _counts_table(circuit: Circuit) -> Table:
    kinds = [node.kind.value for node in circuit.graph.nodes]
    totals = {"edges": len(circuit.edges), "nodes": len(circuit.nodes)} | {k: kinds.count(k) for k in kinds}
    rows = [(k, n, totals[k], f"{n / totals[k]:.2%}" if totals[k] else "-") for k, n in circuit.counts().items()]
    return simple_table(("", "kept", "of", "share"), rows, ("kept", "of", "share"))


def _node_answer(graph: Graph, name: str, circuit: Circuit | None) -> Answer:
    node = graph.node(name)
    index = graph.node_index[name]
    keep = np.ones(len(graph.edges), bool) if circuit is None else circuit.edges
    reads = {
        graph.ports[p].name: [graph.nodes[w].name for w in graph.edge_src[(graph.edge_dst == p) & keep].tolist()]
        for p in node.ports
    }
    read_by = [graph.ports[p].name for p in graph.edge_dst[(graph.edge_src == index) & keep].tolist()]
    weights = [{"slice": str(part), "parameter": part.parameter, "size": part.size} for part in node.weights]
    data: dict[str, Any] = {
        "name": node.name,
        "kind": node.kind.value,
        "layer": node.layer,
        "source": str(node.source),
        "weights": weights,
        "reads": reads,
        "read_by": read_by,
        "note": node.note,
        "kept": None if circuit is None else bool(circuit.nodes[index]),
    }
    from graphir.aliases import aliases_of
    from graphir.names import is_name

    data["aliases"] = dict(aliases_of(name)) if is_name(name) else {}
    state = "" if circuit is None else f"\n  {'in the circuit' if circuit.nodes[index] else 'not in the circuit'}"
    return Answer(data, format_node(graph, name, circuit) + state)


# --- export ----------------------------------------------------------------------------------------------------------


def export_path(path: Path, options: ExportOptions) -> Answer:
    """See `dsl.execute.export`."""
    from dsl.export import export

    circuit = one_circuit(path)
    if options.top is not None:
        circuit = only_strongest(circuit, options.top)
    for place, form in options.targets:
        fixed = FIXED_NAMES.get(form)
        if fixed is not None and options.names not in (fixed, "ours"):
            raise GraphirError(f"`{place}` has names of its own: `--names {options.names}` does not go with `{form}`")
        _check_replaces_no_folder(place, form)
    written = []
    for place, form in options.targets:
        named = circuit if form in FIXED_NAMES else renamed(circuit, options.names)
        written.append({"path": str(export(named, place, form)), "format": form})
    return Answer({"written": written}, "\n".join(f"wrote {each['path']}" for each in written))


def _check_replaces_no_folder(place: Path, form: str) -> None:
    if form == "circuit" and place.is_file():
        raise SaveFormatError(f"{place} is a file; a saved circuit is a folder")


def strongest_edges(circuit: Circuit, count: int) -> list[int]:
    """Positions of the kept edges with the largest scores, largest first; without scores the first ones. Scores that
    a method ranks by size, or that come from elsewhere, count by size; learned ones as they are."""
    kept = np.flatnonzero(circuit.edges)
    scores = circuit.scores.get("edges")
    if scores is None:
        return [int(i) for i in kept[:count]]
    by_size = circuit.provenance.get("absolute", "method" not in circuit.provenance)
    values = np.abs(scores[kept]) if by_size else scores[kept]
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")
    return [int(i) for i in kept[order[:count]]]


def only_strongest(circuit: Circuit, count: int) -> Circuit:
    """The circuit of its strongest edges, whether or not they lie on a path."""
    mask = np.zeros(len(circuit.edges), bool)
    mask[strongest_edges(circuit, count)] = True
    nodes = Circuit.of_edges(circuit.graph, mask).nodes
    return circuit.with_(edges=mask, nodes=nodes & circuit.nodes, metrics={})


def renamed(circuit: Circuit, scheme: str) -> Circuit:
    """The circuit with nodes and ports called as `scheme` calls them, where it has a word for them."""
    if scheme == "ours":
        return circuit
    graph = circuit.graph
    nodes = tuple(replace(node, name=_word(node.name, scheme)) for node in graph.nodes)
    ports = tuple(replace(port, name=_word(port.name, scheme)) for port in graph.ports)
    return circuit.with_(graph=graph.with_(nodes=nodes, ports=ports))


def _word(name: str, scheme: str) -> str:
    from graphir.aliases import to_alias
    from graphir.names import is_name

    return (to_alias(name, scheme) if is_name(name) else None) or name
