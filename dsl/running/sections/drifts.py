"""`drift d = early, late`: the same analysis at several steps."""

from __future__ import annotations

from typing import Any

from dsl.running.analysis_tables import drift_parts
from dsl.running.drifting import Drifted, DriftStage
from dsl.running.stage import ResultSection


class Drifts(ResultSection):
    """Follows units over steps."""

    kind, order, stage = "drifts", 78, DriftStage

    def tables(self, name: str, found: Drifted) -> list[Any]:
        """See the base class."""
        return drift_parts(name, found)


SECTION = Drifts()
