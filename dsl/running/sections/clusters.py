"""`cluster c = neurons of g with ncut`: groups of units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.analysis_tables import cluster_parts, edge_data, tree_data
from dsl.running.grouping import ClusterStage, Grouped
from dsl.running.stage import ResultSection

if TYPE_CHECKING:
    from dsl.running.carrying import Run


class Clusters(ResultSection):
    """Groups units."""

    kind, order, stage = "clusters", 74, ClusterStage

    def tables(self, name: str, found: Grouped) -> list[Any]:
        """See the base class."""
        return cluster_parts(name, found)

    def told(self, run: Run, spec: Any, found: Grouped) -> Mapping[str, Any]:
        """All that was found, with the tree of few units, and the edges between them."""
        return found.to_json() | tree_data(found) | edge_data(found.names, spec.graph, run.place)


SECTION = Clusters()
