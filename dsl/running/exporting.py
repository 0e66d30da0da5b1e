"""What an export writes of an analysis, of blocks, a cluster, a lesion or a drift, in each format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl.running.units import nodes_of
from graphir.errors import DataError

if TYPE_CHECKING:
    from dsl.running.carrying import Run
    from graphir.ir import Graph

KINDS = ("analysis", "blocks", "cluster", "lesion", "drift")
DRAWINGS = ("svg", "png", "pdf")


@dataclass(frozen=True, eq=False)
class Contents:
    """A result as the exporters take it: a table, plain data, arrays; where it has them a distance matrix, blocks, a
    tree, groups of units by name, values beside those of random groups, a drift."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    data: Mapping[str, Any]
    drawing: str
    graph: Graph | None = None
    arrays: Mapping[str, Any] = field(default_factory=dict)
    matrix: Any = None
    blocks: Any = None
    tree: Any = None
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    drift: Any = None


def export_analysis(run: Run, name: str, kind: str, path: Path, form: str) -> None:
    """Write a result of the analyzer. `form` is a suffix, or heatmap, dendrogram, diagram for a drawing. `DataError`
    where the result has no such form."""
    from dsl.export import diagram, matrix

    found = contents(run, name, kind)
    shape = found.drawing if form in DRAWINGS else "diagram" if form in ("dot", "gv") else form
    path.parent.mkdir(parents=True, exist_ok=True)
    if shape == "json":
        matrix.write_json({"name": name, "kind": kind, **found.data}, path)
    elif shape == "csv" and kind == "analysis":
        matrix.write_matrix(found.matrix, path)
    elif shape == "csv":
        matrix.write_table(found.header, found.rows, path)
    elif shape == "npz" and kind == "analysis":
        matrix.write_matrix(found.matrix, path)
    elif shape == "npz":
        matrix.write_arrays(found.arrays, path)
    elif shape == "heatmap" and found.matrix is not None:
        matrix.write_heatmap(found.matrix, path, found.blocks)
    elif shape == "dendrogram" and found.tree is not None:
        matrix.write_dendrogram(found.tree, path, height=found.tree.cut_height(len(found.groups)))
    elif shape == "dendrogram" and found.matrix is not None:
        matrix.write_dendrogram(found.matrix, path)
    elif shape == "effects":
        matrix.write_effects(found.rows, path)
    elif shape == "drift":
        matrix.write_drift(found.drift, path)
    elif shape == "diagram" and found.groups and found.graph is not None:
        diagram.write(found.groups, found.graph, nodes_of, path, f"{kind} {name}")
    else:
        raise DataError(f"`{name}` cannot be drawn as a {shape}: {MISSING.get(shape, 'it has no such form')}")


def export_vector(run: Run, name: str, folder: Path) -> None:
    """Save a task vector to a folder, as `graphir.TaskVector.load` and `import vector` read it."""
    from dsl.running.tuning import obtain_vector

    spec = next(each for each in run.spec.vectors if each.name == name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    obtain_vector(spec, run.place).save(folder)


MISSING = {
    "heatmap": "it has no matrix of distances",
    "dendrogram": "it has no tree",
    "diagram": "it has no groups of units",
}


def contents(run: Run, name: str, kind: str) -> Contents:
    """The result of a section by name."""
    make = {"analysis": _analysis, "blocks": _blocks, "cluster": _cluster, "lesion": _lesion, "drift": _drift}[kind]
    return make(run, name)


def _analysis(run: Run, name: str) -> Contents:
    from dsl.export.matrix import matrix_json

    matrix = run.results["analyses"][name]
    return Contents(name, (), (), matrix_json(matrix), "heatmap", matrix=matrix)


def _blocks(run: Run, name: str) -> Contents:
    spec = next(each for each in run.spec.blocks if each.name == name)
    found, matrix = run.results["blocks"][name], run.results["analyses"][spec.analysis.name]
    blocks, along = found.blocks, found.validations
    rows = [
        (unit, int(label), *(float(v.values[i]) for v in along.values()))
        for i, (unit, label) in enumerate(zip(blocks.names, blocks.labels, strict=True))
    ]
    arrays = {"names": list(blocks.names), "labels": blocks.labels, "distances": matrix.values}
    arrays |= {what: v.values for what, v in along.items()}
    framed = blocks if blocks.method == "contiguous" else None
    groups = {f"block {number}": group for number, group in enumerate(blocks.groups)}
    return Contents(
        name, ("unit", "block", *along), rows, found.to_json(), "heatmap", run.place.graph(spec.analysis.graph), arrays,
        matrix, framed, None, groups,
    )  # fmt: skip


def _cluster(run: Run, name: str) -> Contents:
    spec = next(each for each in run.spec.clusters if each.name == name)
    found = run.results["clusters"][name]
    rows = [(unit, int(label) if label >= 0 else "") for unit, label in zip(found.names, found.labels, strict=True)]
    arrays: dict[str, Any] = {"names": list(found.names), "labels": found.labels}
    if found.tree is not None:
        arrays |= {"tree": found.tree.tree, "features": found.tree.features, "signs": found.tree.signs}
    drawing = "diagram" if found.tree is None else "dendrogram"
    graph = run.place.graph(spec.graph)
    return Contents(
        name, ("unit", "group"), rows, found.to_json(), drawing, graph, arrays, tree=found.tree, groups=found.groups
    )


def _lesion(run: Run, name: str) -> Contents:
    found = run.results["lesions"][name]
    keys = ("group", "size", "statistic", "effect", "random", "p", "q")
    return Contents(name, keys, [tuple(row[key] for key in keys) for row in found.rows], found.to_json(), "effects")


def _drift(run: Run, name: str) -> Contents:
    """A row a unit and step: its block, and how far it is from the first step, the one before and the last."""
    found = run.results["drifts"][name]
    rows = [
        (label, step, unit, int(found.blocks[t, i]), float(found.from_first[t, i]),
         float(found.from_before[t - 1, i]) if t else float("nan"), float(found.to_last[t, i]))
        for t, (label, step) in enumerate(zip(found.labels, found.steps, strict=True))
        for i, unit in enumerate(found.names)
    ]  # fmt: skip
    data = found.to_json()
    arrays = {each: data[each] for each in data if each not in ("metric", "dropped")}
    header = ("analysis", "step", "unit", "block", "from_first", "from_before", "to_last")
    return Contents(name, header, rows, data, "drift", arrays=arrays, drift=found)
