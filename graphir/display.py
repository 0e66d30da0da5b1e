"""Tables for people: circuits, query results, paths, diffs, one node. Plain text, rendered by rich at a fixed width.

Colour is left to whoever prints; text is the same on a terminal, in a file and in a test.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from graphir.aliases import aliases_of
from graphir.ir import Graph, NodeKind
from graphir.text import consecutive, format_slice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graphir.circuit import Circuit
    from graphir.diff import CircuitDiff
    from graphir.path_selection import PathSelection
    from graphir.selection import EdgeSelection, NodeSelection

WIDTH = 120
ROWS = 40


def render(*parts: Any, width: int = WIDTH) -> str:
    """Tables and lines as plain text."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def format_number(value: Any) -> str:
    """A number for a table: four significant digits, thousands separated, a dash where there is none."""
    if isinstance(value, str | bool):
        return str(value)
    if value is None or math.isnan(value):
        return "-"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def simple_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Iterable[str] = ()) -> Table:
    """A table without frame: headers, and one line a row."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="")
    right = set(numeric)
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(format_number(value) for value in row))
    return table


def _more(count: int, what: str) -> list[str]:
    return [f"… and {count - ROWS:,} more {what}"] if count > ROWS else []


def format_circuit(circuit: Circuit) -> str:
    """Title, counts, metrics and the strongest edges of a circuit."""
    graph, counts = circuit.graph, circuit.counts()
    title = f"circuit {circuit.name or '(unnamed)'} of {graph.name or '(unnamed graph)'}, {circuit.ablation} ablation"
    totals = {"edges": len(graph.edges), "nodes": len(graph.nodes)}
    for node in graph.nodes:
        totals[node.kind.value] = totals.get(node.kind.value, 0) + 1
    rows = [
        (name, count, totals[name], f"{count / totals[name]:.2%}" if totals[name] else "-")
        for name, count in counts.items()
    ]
    parts: list[Any] = [title, "", simple_table(("", "kept", "of", "share"), rows, ("kept", "of", "share"))]
    if circuit.weights:
        parts.append(f"weights kept: {circuit.densities()['weights']:.2%} of the masked parameters")
    if circuit.metrics:
        parts += ["", simple_table(("metric", "value"), circuit.metrics.items(), ("value",))]
    parts += ["", *_strongest(circuit)] if counts["edges"] else ["", "nothing is kept"]
    return render(*parts)


def _strongest(circuit: Circuit) -> list[Any]:
    kept = np.flatnonzero(circuit.edges)
    scores = circuit.scores.get("edges")
    edges = circuit.graph.edges
    if scores is None:
        if len(kept) > ROWS:
            return []
        return [simple_table(("edge",), ((str(edges[i]),) for i in kept.tolist()))]
    order = kept[np.argsort(-np.abs(np.nan_to_num(scores[kept])), kind="stable")][:10]
    rows = ((str(edges[i]), float(scores[i])) for i in order.tolist())
    return [simple_table(("strongest edges", "score"), rows, ("score",))]


def format_rows(rows: NodeSelection | EdgeSelection) -> str:
    """Selected nodes or edges, one a line; columns that say nothing are left out."""
    shown = rows.limit(ROWS)
    names = ("name", "kind", "layer", "score", "weight", "in_degree", "out_degree")
    columns = {name: shown.column(name) for name in (names if rows.what == "nodes" else ("src", "dst", "score"))}
    columns = {n: c for n, c in columns.items() if c.dtype.kind != "f" or not np.isnan(c).all()}
    table = simple_table(
        tuple(columns),
        zip(*(column.tolist() for column in columns.values()), strict=True),
        [name for name, column in columns.items() if column.dtype.kind in "if"],
    )
    what = rows.what if len(rows) != 1 else rows.what[:-1]
    return render(f"{len(rows):,} {what}", *([table] if len(rows) else []), *_more(len(rows), rows.what))


def format_paths(found: PathSelection) -> str:
    """Paths, strongest first."""
    rows = [(path.strength, str(path)) for path in found.paths[:ROWS]]
    count = f"{len(found):,} path{'' if len(found) == 1 else 's'}" + (", the strongest of more" if found.cut else "")
    table = [simple_table(("strength", "path"), rows, ("strength",))] if rows else []
    return render(count, *table, *_more(len(found), "paths"), width=10_000)


def format_diff(diff: CircuitDiff) -> str:
    """Counts of a diff, and the first names on either side."""
    headers = ("", "added", "removed", "shared", "IoU")
    parts: list[Any] = [simple_table(headers, diff.counts, headers[1:])]
    if diff.metrics:
        parts += ["", simple_table(("metric", "before", "after"), diff.metrics, ("before", "after"))]
    gained, lost = (*diff.nodes_added, *diff.edges_added), (*diff.nodes_removed, *diff.edges_removed)
    for sign, names in (("+", gained), ("-", lost)):
        parts += ["", *(f"{sign} {name}" for name in names[:ROWS]), *_more(len(names), "")] if names else []
    if diff.foreign:
        parts += ["", f"{diff.foreign:,} kept edges exist in one of the graphs only"]
    return render(*parts)


def format_node(graph: Graph, name: str, circuit: Circuit | None = None) -> str:
    """One node: where it is in the model, what it owns, what it reads and what reads it, what others call it.

    `UnknownNameError` when there is no such node. With a circuit, only kept neighbours.
    """
    node = graph.node(name)
    index = graph.node_index[name]
    keep = np.ones(len(graph.edges), bool) if circuit is None else circuit.edges
    lines = [f"{node.name}  {node.kind.value}" + (f" of layer {node.layer}" if node.layer is not None else "")]
    facts: list[tuple[str, str]] = []
    if str(node.source):
        facts.append(("module", str(node.source)))
    facts.append(("weights", f"{node.weights.size:,}"))
    facts += [("", f"{format_slice(part)} of {tuple(part.shape)}") for part in node.weights]
    for port in node.ports:
        writers = graph.edge_src[(graph.edge_dst == port) & keep].tolist()
        facts.append((f"reads {graph.ports[port].kind}", f"{len(writers)}: {_runs(graph, writers)}"))
    readers = graph.edge_dst[(graph.edge_src == index) & keep].tolist()
    if node.kind is not NodeKind.OUTPUT:
        facts.append(("read by", f"{len(readers)}: {_few([graph.ports[p].name for p in readers])}"))
    facts += [("also called", f"{alias} ({scheme})") for scheme, alias in aliases_of(name).items() if alias != name]
    if node.members and node.members != (node.name,):
        facts.append(("members", _few(list(node.members))))
    if node.note:
        facts.append(("note", node.note))
    width = max(len(label) for label, _ in facts)
    return "\n".join([*lines, *(f"  {label:<{width}}  {text}" for label, text in facts)])


def _runs(graph: Graph, nodes: list[int]) -> str:
    runs = consecutive(nodes)
    return _few([graph.nodes[a].name + (f"..{graph.nodes[b].name}" if b > a else "") for a, b in runs])


def _few(names: list[str], limit: int = 12) -> str:
    return " ".join(names[:limit]) + (f" … {len(names) - limit} more" if len(names) > limit else "")


def all_hold(count: int) -> str:
    """What is said of checks none of which failed.

    >>> all_hold(1), all_hold(6)
    ('the one condition holds', 'all 6 conditions hold')
    """
    return "the one condition holds" if count == 1 else f"all {count} conditions hold"


def some_fail(failed: int, count: int) -> str:
    """What is said of checks some of which failed.

    >>> some_fail(1, 1), some_fail(1, 2), some_fail(2, 6)
    ('the one condition does not hold', '1 of 2 conditions does not hold', '2 of 6 conditions do not hold')
    """
    if count == 1:
        return "the one condition does not hold"
    return f"{failed} of {count} conditions {'does' if failed == 1 else 'do'} not hold"
