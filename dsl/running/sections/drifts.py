"""`drift d = early, late`: the same analysis at several steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.analysis_tables import drift_parts
from dsl.running.drifting import Drifted, DriftStage
from dsl.running.stage import Section, Stage

if TYPE_CHECKING:
    from dsl.running.carrying import Run, RunResult
    from dsl.running.workplace import Workplace
    from dsl.spec import Spec


class Drifts(Section):
    """Follows units over steps."""

    kind, order = "drifts", 78

    def carry_out(self, run: Run) -> None:
        """A table for each."""
        found: dict[str, Drifted] = run.results.setdefault(self.kind, {})
        for spec in run.spec.drifts:
            found[spec.name] = run.place.value(DriftStage(spec))
            run.reporter.show("", *drift_parts(spec.name, found[spec.name]))

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """One for each."""
        return map(DriftStage, spec.drifts)

    def record(self, run: Run) -> Mapping[str, Any]:
        """All that was found."""
        found: Mapping[str, Drifted] = run.results.get(self.kind, {})
        return {"drifts": {name: each.to_json() for name, each in found.items()}} if found else {}

    def parts(self, result: RunResult) -> list[Any]:
        """A table for each."""
        found: Mapping[str, Drifted] = result.results.get(self.kind, {})
        return [part for name, each in found.items() for part in drift_parts(name, each)]


SECTION = Drifts()
