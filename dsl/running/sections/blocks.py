"""`blocks b = m`: sub-networks from a matrix of distances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.analysis_tables import blocks_parts, edge_data
from dsl.running.blocking import BlocksStage, FoundBlocks
from dsl.running.stage import Section, Stage

if TYPE_CHECKING:
    from dsl.running.carrying import Run, RunResult
    from dsl.running.workplace import Workplace
    from dsl.spec import Spec


class BlocksSection(Section):
    """Finds blocks, and measures them."""

    kind, order = "blocks", 72

    def carry_out(self, run: Run) -> None:
        """A table for each."""
        found: dict[str, FoundBlocks] = run.results.setdefault(self.kind, {})
        for spec in run.spec.blocks:
            found[spec.name] = run.place.value(BlocksStage(spec))
            run.reporter.show("", *blocks_parts(spec.name, found[spec.name]))

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """One for each."""
        return map(BlocksStage, spec.blocks)

    def record(self, run: Run) -> Mapping[str, Any]:
        """All that was found, the analysis it was found in, and the edges between few units."""
        found: Mapping[str, FoundBlocks] = run.results.get(self.kind, {})
        specs = {each.name: each for each in run.spec.blocks}
        told = {
            name: {
                "analysis": specs[name].analysis.name, **each.to_json(),
                **edge_data(each.blocks.names, specs[name].analysis.graph, run.place),
            }
            for name, each in found.items()
        }  # fmt: skip
        return {"blocks": told} if told else {}

    def parts(self, result: RunResult) -> list[Any]:
        """A table for each."""
        found: Mapping[str, FoundBlocks] = result.results.get(self.kind, {})
        return [part for name, each in found.items() for part in blocks_parts(name, each)]


SECTION = BlocksSection()
