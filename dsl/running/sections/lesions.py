"""`lesion l = c for t`: what ablating groups of units does."""

from __future__ import annotations

from typing import Any

from dsl.running.analysis_tables import lesion_parts
from dsl.running.lesioning import Lesioned, LesionStage
from dsl.running.stage import ResultSection


class LesionsSection(ResultSection):
    """Ablates groups."""

    kind, order, stage = "lesions", 76, LesionStage

    def tables(self, name: str, found: Lesioned) -> list[Any]:
        """See the base class."""
        return lesion_parts(name, found)


SECTION = LesionsSection()
