"""`cluster c = neurons of g with ncut`: groups of units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.analysis_tables import cluster_parts, edge_data, tree_data
from dsl.running.grouping import ClusterStage, Grouped
from dsl.running.stage import Section, Stage

if TYPE_CHECKING:
    from dsl.running.carrying import Run, RunResult
    from dsl.running.workplace import Workplace
    from dsl.spec import Spec


class Clusters(Section):
    """Groups units."""

    kind, order = "clusters", 74

    def carry_out(self, run: Run) -> None:
        """A table for each."""
        found: dict[str, Grouped] = run.results.setdefault(self.kind, {})
        for spec in run.spec.clusters:
            found[spec.name] = run.place.value(ClusterStage(spec))
            run.reporter.show("", *cluster_parts(spec.name, found[spec.name]))

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """One for each."""
        return map(ClusterStage, spec.clusters)

    def record(self, run: Run) -> Mapping[str, Any]:
        """All that was found, with the tree of few units, and the edges between them."""
        found: Mapping[str, Grouped] = run.results.get(self.kind, {})
        graphs = {each.name: each.graph for each in run.spec.clusters}
        told = {
            name: each.to_json() | tree_data(each) | edge_data(each.names, graphs[name], run.place)
            for name, each in found.items()
        }
        return {"clusters": told} if told else {}

    def parts(self, result: RunResult) -> list[Any]:
        """A table for each."""
        found: Mapping[str, Grouped] = result.results.get(self.kind, {})
        return [part for name, each in found.items() for part in cluster_parts(name, each)]


SECTION = Clusters()
