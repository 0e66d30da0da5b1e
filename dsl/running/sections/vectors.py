"""`vector v = tune m for t with lt_sft`: task vectors, tuned, imported and made of others; what they do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dsl.running.stage import ResultSection, Stage
from dsl.running.vector_tables import vector_parts
from dsl.running.vectoring import FoundVector, find_vector, vector_stages

if TYPE_CHECKING:
    from dsl.running.carrying import Run
    from dsl.running.workplace import Workplace
    from dsl.spec import Spec


class Vectors(ResultSection):
    """Finds vectors; those that others are made of come first."""

    kind, order = "vectors", 35

    def carry_out(self, run: Run) -> None:
        """Those that are tuned or imported before those that are made of them, as in the checked file."""
        found: dict[str, FoundVector] = run.results.setdefault(self.kind, {})
        for spec in run.spec.vectors:
            found[spec.name] = find_vector(spec, run.spec, run.place)
            run.reporter.show("", *self.tables(spec.name, found[spec.name]))

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """Tuning, measuring, counting."""
        for each in spec.vectors:
            yield from vector_stages(each, spec)

    def tables(self, name: str, found: FoundVector) -> list[Any]:
        """See the base class."""
        return vector_parts(found)


SECTION = Vectors()
