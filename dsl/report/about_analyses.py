"""What a report says of the analyzer: matrices, blocks, clusters, lesions, drifts, smaller modules.

All of it is read off the manifest, which anybody may have written: what does not fit together is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dsl.report.content import (
    Block,
    Cell,
    Dots,
    Drawing,
    HeatMap,
    Name,
    Plot,
    Remark,
    Section,
    Series,
    Share,
    Strip,
    Tree,
    facts,
    table,
)
from dsl.report.drawing import draw_groups
from dsl.report.reading import items, leaves, mapping, mappings, named, number, numbers, share, text

Manifest = Mapping[str, Any]
Data = Mapping[str, Any]
LARGEST = 200
"""Nodes of a matrix or tree that is drawn and written out."""
MATRICES = frozenset({"units", "distances", "lower", "upper"})
SHOWN = 12
"""Names of a group that are written out."""
STRIPS = 40
"""Groups of a lesion that are drawn."""
FARTHEST = 5
"""Units whose drift is drawn."""


def analyses(manifest: Manifest) -> Section | None:
    """A section for each result of the analyzer, in the order in which they are made of each other."""
    matrices = named(manifest.get("analyses"))
    makers: tuple[tuple[str, str, str, Callable[[str, Data], Iterator[Block]]], ...] = (
        ("analyses", "analysis", "Analysis", _matrix),
        ("blocks", "blocks", "Blocks", lambda name, data: _blocks(name, data, matrices)),
        ("clusters", "cluster", "Cluster", _cluster),
        ("lesions", "lesion", "Lesion", _lesion),
        ("drifts", "drift", "Drift", _drift),
        ("shrinks", "shrink", "Smaller module", _shrink),
    )
    sections = [
        Section(f"{key}-{place}", f"{title} {name}", tuple(make(name, data)))
        for kind, key, title, make in makers
        for place, (name, data) in enumerate(named(manifest.get(kind)).items(), 1)
    ]
    rows = [
        (Name(name), number(each.get("samples")), number(each.get("tokens")), Name(text(each.get("identity"))))
        for name, each in named(manifest.get("corpora")).items()
    ]
    blocks = (table(("corpus", "samples", "tokens of the longest", "SHA-256"), rows, "Data"),) if rows else ()
    return Section("analyses", "Analyses", blocks, tuple(sections)) if sections else None


def _matrix(name: str, found: Data) -> Iterator[Block]:
    """Settings, and a heat map where it is not too large."""
    said = [(path, _cell(value)) for path, value in leaves({k: v for k, v in found.items() if k not in MATRICES})]
    if said:
        yield table(("", "value"), said)
    yield from _heat(name, found, ())


def _heat(name: str, found: Data, frames: tuple[int, ...]) -> Iterator[Block]:
    rows = [numbers(row) for row in items(found.get("distances"))]
    units = tuple(text(each) for each in items(found.get("units")))
    label = text(found.get("metric")) or "distance"
    if rows and all(len(row) == len(units) for row in (rows, *rows)) and len(units) <= LARGEST:
        yield HeatMap(f"{name}: {label}", units, tuple(rows), label, frames)
    elif rows:
        yield Remark(f"A matrix of {len(rows):,} rows is not drawn here: export it.")


def _blocks(name: str, found: Data, matrices: Mapping[str, Data]) -> Iterator[Block]:
    """Scores, the blocks with what was measured of each, the matrix with their frames, the graph with their boxes."""
    score, stability = mapping(found.get("score")), mapping(found.get("stability"))
    yield facts(
        {
            "blocks": number(found.get("count")),
            "separation, 1 - within / between": number(score.get("separation")),
            "silhouette": number(score.get("silhouette")),
            "change at boundaries over that inside": number(score.get("contrast")),
            "p, boundaries elsewhere": number(score.get("contrast_p")),
            "p, permuted orders": number(found.get("p")),
            "adjusted Rand index on subsamples, mean": number(stability.get("agreement")),
            "least": number(stability.get("least")),
        }
    )
    names, labels = _grouped(found)
    groups = _groups(names, labels, "block {}")
    along = named(found.get("validation"))
    by_block = {what: items(each.get("by_block")) for what, each in along.items()}
    rows = [
        (title, len(units), Name(_short(units)),
         *(number(values[place]) if place < len(values) else None for values in by_block.values()))
        for place, (title, units) in enumerate(groups.items())
    ]  # fmt: skip
    yield table(("", "units", "", *by_block), rows)
    cuts = tuple(place for place in range(1, len(labels)) if labels[place] != labels[place - 1])
    contiguous = len(cuts) == len(groups) - 1
    yield from _heat(name, matrices.get(text(found.get("analysis")), {}), cuts if contiguous else ())
    values = {what: items(each.get("values")) for what, each in along.items()}
    if values and all(len(each) == len(names) for each in values.values()):
        measured = [
            (Name(unit), labels[i], *(number(each[i]) for each in values.values())) for i, unit in enumerate(names)
        ]
        yield table(("unit", "block", *values), measured, "Along the units")
    for what, each in along.items():
        if (contrast := number(each.get("contrast"))) is not None:
            p = number(each.get("p"))
            yield Remark(
                f"{what}: changes {contrast:.3g} times as much at boundaries as inside"
                + (f" (p {p:.3g})." if p is not None else ".")
            )
    yield from _diagram(f"blocks {name}", groups, found)


def _cluster(name: str, found: Data) -> Iterator[Block]:
    """What the method says, the groups, its tree, the graph with their boxes."""
    about = mapping(found.get("facts"))
    said = {
        "method": text(found.get("method")),
        "n-cut": number(about.get("ncut")),
        "z among shuffled networks": number(about.get("z")),
        "p, more clusterable": number(about.get("p_more")),
        "p, less clusterable": number(about.get("p_less")),
        "shuffled networks": len(items(about.get("null"))) or None,
        "connected parts": number(about.get("pieces")),
        "in no group": ", ".join(map(text, items(about.get("dropped"))[:SHOWN])),
        "modularity": number(about.get("modularity")),
        "never change": ", ".join(map(text, items(about.get("constant"))[:SHOWN])),
    }
    yield facts(said)
    names, labels = _grouped(found)
    groups = _groups(names, labels, "c{}")
    yield table(("group", "units", ""), [(key, len(units), Name(_short(units))) for key, units in groups.items()])
    motifs = named(about.get("motifs"))
    if motifs:
        counted = [(motif, number(each.get("count")), number(each.get("z"))) for motif, each in motifs.items()]
        yield table(("motif", "count", "z among graphs of equal degrees"), counted)
    central = named(about.get("centrality"))
    if central:
        columns = ("pagerank", "betweenness", "in_strength", "out_strength")
        ranked = sorted(central.items(), key=lambda each: -(number(each[1].get("pagerank")) or 0.0))
        rows = [(Name(node), *(number(each.get(column)) for column in columns)) for node, each in ranked]
        yield table(("node", "PageRank", "betweenness", "strength in", "out"), rows, "Most central nodes", limit=SHOWN)
    merges = _merges(found.get("tree"), len(names))
    if merges and len(names) <= LARGEST:
        yield Tree(f"{name}: Ward's tree", names, merges, "height", _cut(merges, len(groups)))
    yield from _diagram(f"cluster {name}", groups, found)


def _lesion(name: str, found: Data) -> Iterator[Block]:
    """Each group beside random ones, by statistic; combined tests."""
    others = "other runs of as many units" if text(found.get("kind")) == "blocks" else "random groups, mean"
    yield facts({"compared with": others, "accuracy of the intact model": share(found.get("accuracy"))})
    rows = mappings(found.get("rows"))
    for statistic in dict.fromkeys(text(row.get("statistic")) for row in rows):
        told = [row for row in rows if text(row.get("statistic")) == statistic]
        strips = []
        for row in told[:STRIPS]:
            effect, random = number(row.get("effect")), number(row.get("random"))
            if effect is not None:
                strips.append(Strip(text(row.get("group")), () if random is None else (random,), None, effect))
        if strips:
            title = f"{name}: {statistic} of each group (bar) and of {others} (circle)"
            yield Dots(title, statistic, "group", tuple(strips))
        keys = ("size", "effect", "random", "p", "q")
        cells = [(Name(text(row.get("group"))), *(number(row.get(key)) for key in keys)) for row in told]
        yield table(("group", "units", "effect", "others", "p", "q"), cells, statistic)
    combined = [
        (each, number(data.get("p")), number(data.get("ratio")))
        for each, data in named(found.get("statistics")).items()
    ]
    if combined:
        yield table(("statistic", "combined p", "mean ratio"), combined)
    skipped = [text(each) for each in items(found.get("skipped"))]
    if skipped:
        yield Remark(f"Not tested, too small or nearly their whole layer: {', '.join(skipped[:SHOWN])}.")


def _drift(name: str, found: Data) -> Iterator[Block]:
    """How far units are from where they were, over the steps."""
    steps, names = numbers(found.get("steps")), [text(each) for each in items(found.get("names"))]
    first = [numbers(row) for row in items(found.get("from_first"))]
    before, agreed = [numbers(row) for row in items(found.get("from_before"))], items(found.get("agreement"))
    if not steps or len(first) != len(steps) or not names or any(len(row) != len(names) for row in (*first, *before)):
        return
    labels, means = [text(each) for each in items(found.get("labels"))], items(found.get("mean"))
    blocks = [items(row) for row in items(found.get("blocks"))]
    rows: list[tuple[Cell, ...]] = []
    for t, step in enumerate(steps):
        moved = sum(before[t - 1]) / len(names) if 0 < t <= len(before) else None
        rows.append(
            (Name(labels[t] if t < len(labels) else ""), step, sum(first[t]) / len(names), moved,
             len({*map(str, blocks[t])}) if t < len(blocks) else None,
             number(agreed[t - 1]) if 0 < t <= len(agreed) else None, number(means[t]) if t < len(means) else None)
        )  # fmt: skip
    metric = text(found.get("metric")) or "distance"
    farthest = sorted(range(len(names)), key=lambda i: -first[-1][i])[:FARTHEST]
    along = list(zip(steps, first, strict=True))
    series = [Series("mean of all", tuple((step, sum(row) / len(names)) for step, row in along))]
    series += [Series(names[i], tuple((step, row[i]) for step, row in along)) for i in farthest]
    yield Plot(f"{name}: {metric} from the first step", "step", metric, tuple(series), (), "number")
    headers = ("", "step", "from the first", "from the step before", "blocks", "same as before", "between units")
    yield table(headers, rows, "Means over units; adjusted Rand index of consecutive blocks")
    ends = [(Name(names[i]), first[-1][i]) for i in sorted(range(len(names)), key=lambda i: -first[-1][i])]
    yield table(("unit", "from the first step to the last"), ends)
    dropped = [text(each) for each in items(found.get("dropped"))]
    if dropped:
        yield Remark(f"Not in every step: {', '.join(dropped[:SHOWN])}{' …' if len(dropped) > SHOWN else ''}.")


def _shrink(name: str, found: Data) -> Iterator[Block]:
    """Sizes before and after by kind of node; how far the outputs are from the masked model's."""
    yield facts({"largest difference of an output from the masked model's": number(found.get("difference"))})
    rows: list[tuple[Cell, ...]] = []
    for row in mappings(found.get("sizes")):
        sizes = [number(row.get(f"{what}_{when}")) for what in ("parameters", "flops") for when in ("before", "after")]
        rest = Share(sizes[1] / sizes[0]) if sizes[0] and sizes[1] is not None else None
        rows.append((text(row.get("kind")), *sizes[:2], rest, *sizes[2:]))
    yield table(("", "parameters", "smaller", "left", "FLOPs", "smaller"), rows)
    left = [text(each) for each in items(found.get("left"))]
    if left:
        yield table(("masked still",), [(Name(each),) for each in left])
    for note in items(found.get("notes"))[:SHOWN]:
        yield Remark(text(note))


# --- groups of units


def _grouped(found: Data) -> tuple[tuple[str, ...], list[int]]:
    """Names and labels of as many units; nothing where they do not fit."""
    names = tuple(text(each) for each in items(found.get("names")))
    labels = [int(each) for each in numbers(found.get("labels"))]
    return (names, labels) if len(names) == len(labels) else ((), [])


def _groups(names: tuple[str, ...], labels: list[int], title: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {title.format(label): [] for label in sorted({*labels}) if label >= 0}
    for name, label in zip(names, labels, strict=True):
        if label >= 0:
            found[title.format(label)].append(name)
    return found


def _short(units: list[str]) -> str:
    return " ".join(units) if len(units) <= SHOWN else f"{' '.join(units[: SHOWN - 1])} … {units[-1]}"


def _diagram(title: str, groups: Mapping[str, list[str]], found: Data) -> Iterator[Block]:
    """The graph with a box a group, and how many edges go from one group to another."""
    home = {unit: key for key, units in groups.items() for unit in units}
    counts: dict[tuple[str, str], int] = {}
    for row in items(found.get("edges")):
        tail, head, count = row if isinstance(row, list | tuple) and len(row) == 3 else (None, None, None)
        if isinstance(tail, str) and isinstance(head, str) and tail in home and head in home:
            counts[tail, head] = int(number(count) or 1)
    if not counts:
        return
    svg = draw_groups(groups, counts, title)
    if svg:
        yield Drawing(f"{title} over the graph", svg)
    between: dict[tuple[str, str], int] = {}
    for (tail, head), count in counts.items():
        pair = (home[tail], home[head])
        between[pair] = between.get(pair, 0) + count
    rows = [(tail, head, count) for (tail, head), count in between.items()]
    yield table(("from", "to", "edges"), rows, "Edges between groups")


def _merges(value: Any, leaves_: int) -> tuple[tuple[int, int, float], ...]:
    """A linkage of so many leaves: each merge joins two that stand, at a height. Empty where it is none."""
    rows = [numbers(row) for row in items(value)]
    if leaves_ < 2 or len(rows) != leaves_ - 1 or any(len(row) < 3 for row in rows):
        return ()
    standing = set(range(leaves_))
    found = []
    for place, row in enumerate(rows):
        left, right = int(row[0]), int(row[1])
        if left == right or not {left, right} <= standing:
            return ()
        standing = (standing - {left, right}) | {leaves_ + place}
        found.append((left, right, float(row[2])))
    return tuple(found)


def _cut(merges: tuple[tuple[int, int, float], ...], groups: int) -> float | None:
    """A height at which the tree falls into so many groups."""
    last = len(merges) - groups
    if groups < 2 or last < 0:
        return None
    return (merges[last][2] + merges[last + 1][2]) / 2


def _cell(value: Any) -> Cell:
    return Name(value) if isinstance(value, str) else value if isinstance(value, bool) else number(value)
