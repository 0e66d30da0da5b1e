"""How a run's results look: lines and tables for rich. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from graphir.display import all_hold, format_number, simple_table

if TYPE_CHECKING:
    from dsl.running.judging import Curve, Judged, Verdict
    from graphir.circuit import Circuit
    from graphir.ir import Graph
    from graphir.query import Selection

METRICS = ("kl", "accuracy", "logit_diff", "faithfulness")
"""Metrics in tables, those that were measured; the manifest has the others."""
STRONGEST = 10


def graph_line(name: str, graph: Graph) -> str:
    """One line: size, opaque parts with their notes, equivalence."""
    opaque = [f"  opaque {node.name}: {node.note or 'kept whole'}" for node in graph.opaque]
    notes = [f"  note: {note}" for note in graph.notes]
    equivalence = "not measured" if graph.equivalence is None else f"{graph.equivalence:.3g}"
    counts = f"{len(graph.nodes):,} nodes, {len(graph.edges):,} edges, {len(graph.opaque)} opaque"
    line = f"graph {name}: {counts}; max |Δoutput| to the model {equivalence}"
    return "\n".join([line, *opaque, *notes])


def circuit_parts(judged: Judged) -> list[Any]:
    """A circuit between the empty one and the model, and its strongest edges; of a sheaf the share of the masked
    weights, too."""
    found, circuit = judged.found, judged.circuit
    total = len(circuit.edges)
    kept = int(circuit.edges.sum())
    by = found.origin
    if found.method is not None:
        by = f"by {by}" + (f", seed {found.chosen}" if hasattr(found.method.options, "seeds") else "")
    title = (
        f"{found.spec.kind} {found.spec.label}: {densities_text(circuit)}, {by}; judged on {judged.examples:,} "
        f"{judged.split} examples"
    )
    # Weights alone leave all edges to the complement (see `graphir.run.circuit_module.hard_masks`).
    rest = total if circuit.weights and kept == total else total - kept
    share = circuit.densities().get("weights", 1.0)
    rows = [
        ("empty", 0, 1.0, judged.empty),
        ("complement", rest, 1 - share, judged.complement),
        (circuit.name, kept, share, judged.metrics),
        ("model", total, 1.0, judged.full),
    ]
    metric = found.spec.task.metric if found.spec.task is not None else METRICS[2]
    shown = [name for name in dict.fromkeys([*METRICS[:2], metric, *METRICS[2:]]) if name in judged.full]
    sizes = ("edges", "density", "weights") if circuit.weights else ("edges", "density")
    headers = ("", *sizes, *shown)
    body = [
        (name, edges, f"{edges / total:.2%}", *([f"{weights:.2%}"] if circuit.weights else []), *map(each.get, shown))
        for name, edges, weights, each in rows
    ]
    parts: list[Any] = [title, simple_table(headers, body, headers[1:])]
    if found.stability is not None:
        seeds = ", ".join(f"seed {seed}: kl {format_number(kl)}" for seed, kl in found.validation.items())
        parts.append(f"stability: IoU of edges at least {found.stability:.3f} over seeds ({seeds} on validation)")
    return [*parts, *_orders(circuit), *_strongest(judged)]


def _orders(circuit: Circuit) -> list[Any]:
    """What each order of traversal gives, where a search was asked to compare them (`acdc`)."""
    found = circuit.provenance.get("orders")
    if not isinstance(found, Mapping):
        return []
    headers = ("order", "edges", "kl", "IoU with the circuit")
    rows = [(name, each.get("edges"), each.get("kl"), each.get("iou")) for name, each in found.items()]
    return [simple_table(headers, rows, headers[1:])]


def densities_text(circuit: Circuit) -> str:
    """`5 of 106 edges, 4 of 12 nodes`, and of a sheaf `120 of 6,000 weights`."""
    text = (
        f"{int(circuit.edges.sum()):,} of {len(circuit.edges):,} edges, {int(circuit.nodes.sum()):,} of "
        f"{len(circuit.nodes):,} nodes"
    )
    if circuit.weights:
        kept = sum(int(mask.sum()) for mask in circuit.weights.values())
        text += f", {kept:,} of {sum(mask.size for mask in circuit.weights.values()):,} weights"
    return text


def _strongest(judged: Judged) -> list[Any]:
    circuit = judged.circuit
    scores = circuit.scores.get("edges")
    kept = np.flatnonzero(circuit.edges)
    if scores is None or not len(kept):
        return []
    method = judged.found.method
    absolute = method is None or bool(getattr(method.options, "absolute", False))
    sizes = np.nan_to_num(np.abs(scores[kept]) if absolute else scores[kept])
    order = kept[np.argsort(-sizes, kind="stable")][:STRONGEST]
    rows = [(str(circuit.graph.edges[i]), float(scores[i])) for i in order.tolist()]
    header = "edge" if len(kept) <= STRONGEST else f"strongest {STRONGEST} of {len(kept):,} edges"
    return [simple_table((header, "score"), rows, ("score",))]


def by_circuit(curves: Iterable[Curve]) -> list[list[Curve]]:
    """Curves grouped by the circuit they belong to, in order."""
    return [list(group) for _, group in groupby(curves, key=lambda curve: curve.of)]


def curve_parts(curves: Sequence[Curve]) -> list[Any]:
    """Rankings side by side at each size, the model and the empty circuit at the ends. `edges` are those left when what
    is on no path from input to output is dropped."""
    first = curves[0]
    shown = [name for name in METRICS if name in first.full]
    headers = (_SCALES[first.scale], "edges", "ranking", *shown)
    rows: list[tuple[Any, ...]] = [(_size(first, 1.0), first.edges, "model", *(first.full.get(m) for m in shown))]
    for place, point in enumerate(first.points):
        for curve in curves:
            mine = curve.points[place]
            rows.append((_size(first, point.density), mine.edges, curve.name, *(mine.metrics.get(m) for m in shown)))
    rows.append((_size(first, 0.0), 0, "empty", *(first.empty.get(m) for m in shown)))
    return [f"curve of {first.of}:", simple_table(headers, rows, (headers[0], "edges", *shown))]


_SCALES = {"density": "density", "sparsity": "sparsity", "edges": "at most"}


def _size(curve: Curve, density: float) -> str:
    if curve.scale == "edges":
        return f"{round(density * curve.edges):,}"
    return percent(density if curve.scale == "density" else 1 - density)


def percent(share: float) -> str:
    """`96.6%`, with as many digits as it needs, four at most."""
    return f"{100 * share:.4g}%"


def query_parts(name: str, answer: Selection) -> list[Any]:
    """A query's answer under its name."""
    return [f"query {name}: {answer}"]


def check_parts(verdicts: Sequence[Verdict]) -> list[Any]:
    """Every condition, whether it holds, and the values of what it names."""
    if not verdicts:
        return []
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="")
    for header in ("check", "condition", "", "values"):
        table.add_column(header, overflow="fold")
    for verdict in verdicts:
        values = ", ".join(f"{key} = {format_number(value)}" for key, value in verdict.values.items())
        word = Text("pass", "green") if verdict.passed else Text("FAIL", "bold red")
        table.add_row(Text(verdict.circuit), Text(verdict.text), word, Text(values))
    failed = sum(not verdict.passed for verdict in verdicts)
    of = "the one condition" if len(verdicts) == 1 else f"{failed} of {len(verdicts)} conditions"
    tail = f"{of} failed" if failed else all_hold(len(verdicts))
    return [table, tail]
