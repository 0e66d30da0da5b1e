"""`export c to …`: files. Written anew in each run, since they belong to its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.exporting import KINDS, export_analysis, export_vector
from dsl.running.failures import located
from dsl.running.stage import Section

if TYPE_CHECKING:
    from dsl.running.carrying import Run


class Exports(Section):
    """Writes the files a file asks for, last of all."""

    kind, order = "exports", 90

    def carry_out(self, run: Run) -> None:
        """Below the run's folder, or elsewhere where that is allowed."""
        from dsl.export import export

        for spec in run.spec.exports:
            for target in spec.targets:
                with located(f"exporting `{spec.subject}`", target.span):
                    now, final = run.folder.target(target.path, outside=run.spec.allow_outside)
                    with run.reporter.stage(f"write {target.path}", minor=True):
                        if spec.subject_kind in KINDS:
                            export_analysis(run, spec.subject, spec.subject_kind, now, target.format)
                        elif spec.subject_kind == "vector":
                            export_vector(run, spec.subject, now)
                        else:
                            export(run.subject(spec.subject, spec.subject_kind), now, target.format)
                run.files.append(final)

    def record(self, run: Run) -> Mapping[str, Any]:
        """Paths."""
        return {"exports": [str(path) for path in run.files]}


SECTION = Exports()
