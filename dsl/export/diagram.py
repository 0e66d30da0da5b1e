"""Groups of units over their graph, as DOT text: one cluster a group, one box a unit, arrows where edges go.

Of many arrows (above `ARROWS`) those inside a group are a chain, and one arrow a pair of groups says how many edges go
between them. Fills are grays and groups have frames and labels, so it reads in black and white.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from graphir.errors import DataError
from graphir.serial import write_bytes, write_text

if TYPE_CHECKING:
    import graphviz

    from graphir.ir import Graph

Counts = Mapping[tuple[str, str], int]
ARROWS = 60
MOST = 300
"""Boxes that a reader can still tell apart."""
GRAYS = ("#ffffff", "#e3e3e3")


def write(
    groups: Mapping[str, Sequence[str]], graph: Graph, nodes_of: Callable[[str, Graph], list[int]], path: Path,
    title: str = "",
) -> None:  # fmt: skip
    """Writes DOT text or, by the suffix, a drawing of it."""
    source = diagram_source(groups, graph, nodes_of, title)
    suffix = path.suffix.lower().lstrip(".")
    if suffix in ("dot", "gv"):
        write_text(path, source)
        return
    from graphir.draw import draw

    write_bytes(path, draw(source, suffix))


def diagram_source(
    groups: Mapping[str, Sequence[str]], graph: Graph, nodes_of: Callable[[str, Graph], list[int]], title: str = ""
) -> str:
    """DOT text of `groups` (units by name of the group), `nodes_of` telling the nodes of a unit.

    Raises `DataError` for no unit, or more than can be drawn.
    """
    units = [unit for group in groups.values() for unit in group]
    return source_of(groups, edges_between(units, graph, nodes_of) if len(units) <= MOST else {}, title)


def source_of(groups: Mapping[str, Sequence[str]], counts: Counts, title: str = "") -> str:
    """The same from the number of edges between each two units."""
    import graphviz

    units = [unit for group in groups.values() for unit in group]
    if not 0 < len(units) <= MOST:
        raise DataError(f"a diagram of {len(units):,} units cannot be drawn", [f"1 to {MOST} units", "export a table"])
    dot = graphviz.Digraph("groups")
    dot.attr("graph", rankdir="BT", compound="true", fontname="Helvetica", fontsize="12", labelloc="b")
    dot.attr("graph", label=_text(title))
    dot.attr("node", shape="box", style="rounded,filled", fontname="Helvetica", fontsize="11", color="#777777")
    dot.attr("edge", fontname="Helvetica", fontsize="8", arrowsize="0.5", color="#555555")
    keys = {unit: f"u{i}" for i, unit in enumerate(units)}
    for number, (name, group) in enumerate(groups.items()):
        with dot.subgraph(name=f"cluster_{number}") as cluster:
            cluster.attr(label=_text(name), labeljust="l", color="black", fontname="Helvetica", fontsize="10")
            for unit in group:
                cluster.node(keys[unit], _text(unit), fillcolor=GRAYS[number % len(GRAYS)])
    if len(counts) <= ARROWS:
        for (tail, head), count in counts.items():
            dot.edge(keys[tail], keys[head], label=str(count) if count > 1 else "")
    else:
        _summary(dot, groups, counts, keys)
    text: str = dot.source
    return text


def edges_between(units: Sequence[str], graph: Graph, nodes_of: Callable[[str, Graph], list[int]]) -> Counts:
    """Edges of the graph from one unit to another, by the pair, in order."""
    owner: dict[int, str] = {}
    for unit in units:
        for node in nodes_of(unit, graph):
            owner.setdefault(node, unit)
    found: Counter[tuple[str, str]] = Counter()
    for source, port in zip(graph.edge_src.tolist(), graph.edge_dst.tolist(), strict=True):
        heads = {owner[node] for node in graph.ports[port].nodes if node in owner}
        if source in owner:
            found.update((owner[source], head) for head in heads if head != owner[source])
    place = {unit: i for i, unit in enumerate(units)}
    return dict(sorted(found.items(), key=lambda item: (place[item[0][0]], place[item[0][1]])))


def _summary(
    dot: graphviz.Digraph, groups: Mapping[str, Sequence[str]], counts: Counts, keys: Mapping[str, str]
) -> None:
    group_of = {unit: number for number, group in enumerate(groups.values()) for unit in group}
    members = [list(group) for group in groups.values()]
    for group in members:
        for tail, head in pairwise(group):
            if (tail, head) in counts or (head, tail) in counts:
                ends = (tail, head) if (tail, head) in counts else (head, tail)
                dot.edge(keys[ends[0]], keys[ends[1]], label=str(counts[ends]))
    between: Counter[tuple[int, int]] = Counter()
    for (tail, head), count in counts.items():
        if group_of[tail] != group_of[head]:
            between[group_of[tail], group_of[head]] += count
    for (left, right), count in sorted(between.items()):
        dot.edge(
            keys[members[left][-1]], keys[members[right][0]], label=f"{count:,}", style="dashed",
            ltail=f"cluster_{left}", lhead=f"cluster_{right}",
        )  # fmt: skip


def _text(text: str) -> str:
    import graphviz

    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    label: str = graphviz.nohtml(graphviz.escape(shown))
    return label
