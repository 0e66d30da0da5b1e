"""`analyze m = layers of g on s with gromov_wasserstein`: a matrix of distances between units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.analysis_tables import matrix_data, matrix_parts
from dsl.running.analyzing import AnalysisStage, RepresentationsStage
from dsl.running.stage import ResultSection, Stage

if TYPE_CHECKING:
    from dsl.running.carrying import Run
    from dsl.running.workplace import Workplace
    from dsl.spec import Spec
    from passes.analyze.distances.base import DistanceMatrix


class Analyses(ResultSection):
    """Compares units of graphs."""

    kind, order, stage = "analyses", 70, AnalysisStage

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """Collecting, comparing."""
        for each in spec.analyses:
            yield RepresentationsStage(each)
            yield AnalysisStage(each)

    def tables(self, name: str, found: DistanceMatrix) -> list[Any]:
        """See the base class."""
        return matrix_parts(name, found)

    def told(self, run: Run, spec: Any, found: DistanceMatrix) -> Mapping[str, Any]:
        """Settings, and the matrix where it is not large."""
        return matrix_data(found)


SECTION = Analyses()
