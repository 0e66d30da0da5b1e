"""`graph g = trace MODEL`: the computation graph of a model, its equivalence measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsl.running import tables
from dsl.running.keys import describe
from dsl.running.loading import FALLBACK_TEXT, TRACE_ROWS
from dsl.running.stage import Section, Stage
from dsl.running.storing import read_numbers, write_numbers
from graphir.circuit import Circuit

if TYPE_CHECKING:
    from dsl.running.carrying import Run, RunResult
    from dsl.running.workplace import Workplace
    from dsl.spec import GraphSpec, Spec
    from graphir.ir import Graph

SAVED = "graph"


@dataclass(frozen=True, eq=False)
class TracedGraph:
    """A graph, what its model was traced with, and what the manifest says of the model."""

    graph: Graph
    example: Any
    model: Mapping[str, Any]

    @property
    def stored_example(self) -> Any:
        """What a circuit over the graph has to know for itself: the example, unless the graph's model knows it."""
        return None if self.graph.lifted is not None else self.example


class TraceStage(Stage[TracedGraph]):
    """Load a model and trace it. From the cache comes the graph alone, without the model behind it."""

    kind = "trace"
    code = ("graphir", "dsl.models", "dsl.builtin")

    def __init__(self, spec: GraphSpec) -> None:
        super().__init__(f"trace {spec.name}", spec.span, f"tracing `{spec.model.name}`")
        self.spec = spec

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """The model, the granularity, what it is traced with; the program itself where Python code makes the model."""
        from dsl.running.sections.tasks import TaskStage

        spec, users = self.spec, place.users(self.spec)
        found = {name: value for name, value in describe(spec).items() if name not in ("model", "example")}
        from_task = spec.example is None and bool(users)
        found["model"] = place.identity(spec.model)
        found["example"] = TaskStage(users[0], spec.model) if from_task else spec.example or FALLBACK_TEXT
        corpora = place.corpora(spec)
        if spec.example is None and not users and corpora:
            from dsl.running.samples import CorpusStage

            found["example"] = CorpusStage(corpora[0], spec.model)
        found["rows"] = TRACE_ROWS
        if spec.model.kind == "python":
            traced = getattr(place.live_graph(spec).lifted, "traced", None)
            found["program"] = hashlib.sha256(str(getattr(traced, "graph", "")).encode()).hexdigest()
        return found

    def run(self, place: Workplace) -> TracedGraph:
        """The graph, with the traced model behind it."""
        graph, loaded = place.live_graph(self.spec), place.model(self.spec.model)
        parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
        model = {"identity": loaded.identity, "parameters": parameters, "notes": list(loaded.notes)}
        return TracedGraph(graph, getattr(graph.lifted, "example", None), model)

    def save(self, value: TracedGraph, folder: Path) -> None:
        """As a saved circuit that keeps everything: that holds the example inputs, too."""
        Circuit.full(value.graph).save(folder / SAVED)
        write_numbers(folder, value.model)

    def load(self, folder: Path, place: Workplace) -> TracedGraph:
        """The graph as data."""
        saved = Circuit.load(folder / SAVED)
        return TracedGraph(saved.graph, saved.example, read_numbers(folder))


class Graphs(Section):
    """Traces the graphs of a file."""

    kind, order = "graphs", 10

    def carry_out(self, run: Run) -> None:
        """A line for each."""
        found = run.results.setdefault(self.kind, {})
        for spec in run.spec.graphs:
            found[spec.name] = run.place.value(TraceStage(spec))
            run.reporter.show(tables.graph_line(spec.name, found[spec.name].graph))

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """One for each."""
        return map(TraceStage, spec.graphs)

    def record(self, run: Run) -> Mapping[str, Any]:
        """Models and graphs."""
        traced: Mapping[str, TracedGraph] = run.results.get(self.kind, {})
        models = {run.spec.graph(name).model.name: dict(each.model) for name, each in traced.items()}
        return {"models": models, "graphs": {name: _record(each.graph) for name, each in traced.items()}}

    def parts(self, result: RunResult) -> list[Any]:
        """A line for each."""
        return [tables.graph_line(name, graph) for name, graph in result.graphs.items()]


def _record(graph: Graph) -> dict[str, Any]:
    return {
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
        "opaque": {node.name: node.note for node in graph.opaque},
        "granularity": str(graph.granularity),
        "equivalence": graph.equivalence,
        "model_hash": graph.model_hash,
        "notes": list(graph.notes),
    }


SECTION = Graphs()
