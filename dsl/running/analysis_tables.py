"""How results of the analyzer look on a terminal, and what the manifest has of them. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphir.display import format_number, simple_table

if TYPE_CHECKING:
    from dsl.running.blocking import FoundBlocks
    from dsl.running.drifting import Drifted
    from dsl.running.grouping import Grouped
    from dsl.running.lesioning import Lesioned
    from dsl.running.workplace import Workplace
    from dsl.spec import GraphSpec
    from passes.analyze.distances.base import DistanceMatrix

FULL = 12
"""Units of which the whole matrix is shown."""
STORED = 64
"""Units of which the manifest has the whole matrix; `export … to "m.npz"` writes any."""
PAIRS = 5


def matrix_parts(name: str, matrix: DistanceMatrix) -> list[Any]:
    """The matrix of a few units; of many the nearest and farthest pairs and each unit's distance to the next."""
    n = len(matrix)
    about = f"analysis {name}: {matrix.metric} between {n:,} units on {matrix.samples:,} samples"
    upper = np.triu_indices(n, 1)
    apart = matrix.values[upper]
    if not len(apart):
        return [f"{about}: one unit, nothing to compare"]
    lines = [f"{about}; distances {_span(apart)}{_bounds(matrix)}"]
    if n <= FULL:
        rows = [(left, *map(float, row)) for left, row in zip(matrix.names, matrix.values, strict=True)]
        return [*lines, simple_table(("", *matrix.names), rows, matrix.names)]
    order = np.argsort(apart, kind="stable")
    chosen = [*order[:PAIRS], *order[-PAIRS:]]
    pairs = [(matrix.names[upper[0][i]], matrix.names[upper[1][i]], float(apart[i])) for i in chosen]
    return [*lines, simple_table((f"nearest and farthest {PAIRS}", "", "distance"), pairs, ("distance",))]


def _span(values: np.ndarray[Any, Any]) -> str:
    return f"{format_number(float(values.min()))} to {format_number(float(values.max()))}"


def _bounds(matrix: DistanceMatrix) -> str:
    told = ", the best that a search found" if matrix.local_optimum else ""
    if matrix.lower is None or matrix.upper is None:
        return told
    upper = np.triu_indices(len(matrix), 1)
    width = float((matrix.upper - matrix.lower)[upper].mean())
    return f"{told}, {matrix.bounds or 'stated'} bounds {format_number(width)} apart on average"


def matrix_data(matrix: DistanceMatrix) -> dict[str, Any]:
    """What the manifest says of a matrix."""
    data: dict[str, Any] = {
        "metric": matrix.metric,
        "samples": matrix.samples,
        "bounds": matrix.bounds,
        "local_optimum": matrix.local_optimum,
        "settings": dict(matrix.settings),
        "units": list(matrix.names) if len(matrix) <= STORED else len(matrix),
    }
    if len(matrix) <= STORED:
        data["distances"] = matrix.values.tolist()
        data |= {side: array.tolist() for side in ("lower", "upper") if (array := getattr(matrix, side)) is not None}
    return data


def edge_data(names: Sequence[str], graph: GraphSpec, place: Workplace) -> dict[str, Any]:
    """What the manifest says of the edges between few units, for the diagram of a report: `[writer, reader, count]`."""
    from dsl.export.diagram import edges_between
    from dsl.running.units import nodes_of

    if len(names) > STORED:
        return {}
    return {"edges": [[*pair, n] for pair, n in edges_between(names, place.graph(graph), nodes_of).items()]}


def tree_data(found: Grouped) -> dict[str, Any]:
    """The linkage of a tree of few units: rows of (left, right, height, units)."""
    return {"tree": found.tree.tree.tolist()} if found.tree is not None and len(found.names) <= STORED else {}


def blocks_parts(name: str, found: FoundBlocks) -> list[Any]:
    """Each block with its units, its scores, and what was measured along the units."""
    blocks = found.blocks
    score = blocks.score
    if blocks.count == 1:
        lines = [f"blocks {name}: one block, no division gains over permuted orders (p {format_number(blocks.p)})"]
    else:
        lines = [
            f"blocks {name}: {blocks.count} blocks, separation {format_number(score.separation)}, silhouette "
            f"{format_number(score.silhouette)}, contrast {format_number(score.contrast)} at the boundaries "
            f"(p {format_number(score.contrast_p)})" + _gain(blocks.p)
        ]
    headers = ("block", "units", "", *found.validations)
    rows = [
        (number, len(group), shorten(group), *(v.by_block[number] for v in found.validations.values()))
        for number, group in enumerate(blocks.groups)
    ]
    parts: list[Any] = [*lines, simple_table(headers, rows, ("block", "units", *found.validations))]
    if found.stability is not None:
        s = found.stability
        often = ", ".join(f"{count} block{'s' * (count > 1)} {times} times" for count, times in s.counts.items())
        parts.append(
            f"on {s.replicates} subsamples: adjusted Rand index {format_number(s.agreement)} on average, "
            f"{format_number(s.least)} at least; {often}"
        )
    parts += [
        f"{v.what}: changes {format_number(v.contrast)} times as much at boundaries as inside (p {format_number(v.p)})"
        for v in found.validations.values()
        if v.contrast == v.contrast
    ]
    return parts


def _gain(p: float) -> str:
    return "" if p != p else f"; gain over permuted orders p {format_number(p)}"


def shorten(names: Sequence[str], most: int = 8) -> str:
    """The names, of many the first and the last ones."""
    if len(names) <= most:
        return " ".join(names)
    return f"{' '.join(names[: most // 2])} … {' '.join(names[-most // 2 :])}"


def cluster_parts(name: str, found: Grouped) -> list[Any]:
    """Each group with its units, and what the method says of them all."""
    groups = found.groups
    kept = sum(map(len, groups.values()))
    about = f"cluster {name}: {len(groups)} groups of {kept:,} units by {found.method}{_facts(found)}"
    if not groups:
        about = f"cluster {name}: a tree of {len(found.names):,} units, not cut{_facts(found)}"
    rows = [(key, len(group), shorten(group)) for key, group in groups.items()]
    table = [simple_table(("group", "units", ""), rows, ("units",))] if rows else []
    dropped = found.facts.get("dropped", [])
    left = [f"in no group, without edges: {shorten(dropped)}"] if dropped else []
    return [about, *table, *left]


def _facts(found: Grouped) -> str:
    facts = found.facts
    if found.method == "ncut":
        if not facts["null"]:
            return f"; n-cut {format_number(facts['ncut'])}"
        side, p = ("more", facts["p_more"]) if facts["z"] <= 0 else ("less", facts["p_less"])
        return (
            f"; n-cut {format_number(facts['ncut'])}, z {format_number(facts['z'])} against {len(facts['null'])} "
            f"shuffled networks (p of being {side} clusterable {format_number(p)})"
        )
    if found.method == "communities":
        shown = {name: each for name, each in facts["motifs"].items() if each["count"]}
        told = ", ".join(f"{name} {each['count']:,} (z {format_number(each['z'])})" for name, each in shown.items())
        return f"; modularity {format_number(facts['modularity'])}" + (f"; motifs {told}" if told else "")
    constant = f", {len(facts['constant'])} constant" if facts["constant"] else ""
    signs = "signs aligned" if facts["odd"] else "signs as they are"
    if facts["by"] == "magnitude":
        signs = "their magnitudes"
    return f"; correlations with {facts['inputs']:,} inputs and {facts['outputs']:,} outputs, {signs}{constant}"


def lesion_parts(name: str, found: Lesioned) -> list[Any]:
    """Each group against random ones."""
    others = "other runs of as many units" if found.kind == "blocks" else "random groups of equal size"
    intact = "" if found.accuracy != found.accuracy else f"; accuracy of the intact model {found.accuracy:.1%}"
    headers = ("group", "units", "statistic", "effect", "others", "p", "q")
    keys = ("group", "size", "statistic", "effect", "random", "p", "q")
    rows = [tuple(row[key] for key in keys) for row in found.rows]
    parts: list[Any] = [
        f"lesion {name}: against {others}{intact}",
        simple_table(headers, rows, ("units", "effect", "others", "p", "q")),
    ]
    parts += [
        f"{statistic}: combined p {format_number(each['p'])}, mean ratio {format_number(each['ratio'])}"
        for statistic, each in found.statistics.items()
    ]
    if found.skipped:
        parts.append(f"not tested, too small or nearly their whole layer: {shorten(found.skipped)}")
    return parts


def drift_parts(name: str, found: Drifted) -> list[Any]:
    """Each step: how far units are from the first and from the step before, and how many blocks there are; then the
    units that moved farthest."""
    t, n = len(found.steps), len(found.names)
    lines = [f"drift {name}: {n:,} units over {t} steps by {found.metric}"]
    rows = []
    for i in range(t):
        before = found.from_before[i - 1] if i else np.full(n, np.nan)
        agreed = float(found.agreement[i - 1]) if i else float("nan")
        rows.append(
            (found.labels[i], found.steps[i], float(found.from_first[i].mean()), float(before.mean()),
             int(found.blocks[i].max()) + 1, agreed, float(found.mean[i]))
        )  # fmt: skip
    headers = ("", "step", "from the first", "from the last step", "blocks", "same as before", "between units")
    parts: list[Any] = [*lines, simple_table(headers, rows, headers[1:])]
    order = np.argsort(-found.from_first[-1], kind="stable")[:PAIRS]
    moved = ", ".join(f"{found.names[i]} {format_number(float(found.from_first[-1][i]))}" for i in order)
    parts.append(f"farthest from the first step in the end: {moved}")
    return [*parts, *([f"not in every step: {shorten(found.dropped)}"] if found.dropped else [])]
