"""`blocks b = m`: sub-networks from a matrix of distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.analysis_tables import blocks_parts, edge_data
from dsl.running.blocking import BlocksStage, FoundBlocks
from dsl.running.stage import ResultSection

if TYPE_CHECKING:
    from dsl.running.carrying import Run


class BlocksSection(ResultSection):
    """Finds blocks, and measures them."""

    kind, order, stage = "blocks", 72, BlocksStage

    def tables(self, name: str, found: FoundBlocks) -> list[Any]:
        """See the base class."""
        return blocks_parts(name, found)

    def told(self, run: Run, spec: Any, found: FoundBlocks) -> Mapping[str, Any]:
        """All that was found, the analysis it was found in, and the edges between few units."""
        edges = edge_data(found.blocks.names, spec.analysis.graph, run.place)
        return {"analysis": spec.analysis.name, **found.to_json(), **edges}


SECTION = BlocksSection()
