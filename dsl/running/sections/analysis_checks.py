"""`check b { count >= 3 }` of blocks, and of whatever else the analyzer finds: conditions on results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsl.running.gauging import RESULTS, check_section
from dsl.running.stage import Section

if TYPE_CHECKING:
    from dsl.running.carrying import Run


class AnalysisChecks(Section):
    """Evaluates conditions when everything is found; they are shown and recorded with those of circuits."""

    kind, order = "analysis_checks", 85

    def carry_out(self, run: Run) -> None:
        """In the file's order."""
        for check in run.spec.analysis_checks:
            run.verdicts += check_section(check, run.results[RESULTS[check.kind]][check.subject.name])


SECTION = AnalysisChecks()
