"""`shrink c to "folder/"`: a really smaller module, compared with the masked one, its weights and graph in files. Made
anew in each run, since the files belong to its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsl.running.failures import located
from dsl.running.obtaining import obtain
from dsl.running.stage import Section
from graphir.errors import DataError

if TYPE_CHECKING:
    from dsl.running.carrying import Run, RunResult
    from dsl.running.workplace import Workplace
    from dsl.spec import AnyCircuit, ShrinkSpec
    from graphir.circuit import Circuit
    from graphir.shrink import ShrinkReport, ShrunkModule

BATCH = 16


class Shrinks(Section):
    """Shrinks circuits."""

    kind, order = "shrinks", 80

    def carry_out(self, run: Run) -> None:
        """Below the run's folder, or elsewhere where that is allowed."""
        found: dict[str, ShrinkReport] = run.results.setdefault(self.kind, {})
        for spec in run.spec.shrinks:
            with located(f"shrinking `{spec.circuit.name}`", spec.span):
                now, final = run.folder.target(spec.path, outside=run.spec.allow_outside)
                with run.reporter.stage(f"shrink {spec.circuit.name}"):
                    module = _shrunk(spec, run.place)
                    module.save(now)
                assert module.report is not None
                label = spec.name if spec.name not in found else f"{spec.name} ({spec.path})"
                found[label] = module.report
            run.files.append(final)
            run.reporter.show("", *_parts(label, module.report))

    def record(self, run: Run) -> Mapping[str, Any]:
        """Sizes before and after, the largest difference, what is masked still."""
        found: Mapping[str, ShrinkReport] = run.results.get(self.kind, {})
        told = {
            name: {"sizes": r.rows(), "difference": r.difference, "left": list(r.left), "notes": list(r.notes)}
            for name, r in found.items()
        }
        return {"shrinks": told} if told else {}

    def parts(self, result: RunResult) -> list[Any]:
        """A table for each."""
        found: Mapping[str, ShrinkReport] = result.results.get(self.kind, {})
        return [part for name, report in found.items() for part in _parts(name, report)]


def _shrunk(spec: ShrinkSpec, place: Workplace) -> ShrunkModule:
    options, circuit = spec.options, spec.circuit
    found = obtain(circuit, place).circuit
    graph = place.program(circuit.graph).graph  # the one with the model behind it
    live = found.with_(graph=graph, example=None)
    module = live.shrink(strict=options.strict, tolerance=options.tolerance, means=_means(spec, live, place))
    if options.dtype != "same":
        import torch

        module.to(getattr(torch, options.dtype))
    return module


def _means(spec: ShrinkSpec, live: Circuit, place: Workplace) -> list[Mapping[str, Any]] | None:
    """Batches to average over, for a circuit that ablates to means that it does not know."""
    circuit: AnyCircuit = spec.circuit
    if not live.ablation.startswith("mean") or live.constants:
        return None
    if not spec.options.fold_means:
        raise DataError("without its means folded in, the smaller module computes something else", ["fold_means: yes"])
    if circuit.task is None:
        raise DataError(
            "the circuit ablates to means, and there is no task to take them from", ["import it `for TASK`"]
        )
    task = place.task(circuit.task, circuit.graph.model)
    return [batch.inputs for batch in task.batches("train", BATCH)]


def _parts(name: str, report: ShrinkReport) -> list[Any]:
    return [f"shrink {name}:", str(report)]


SECTION = Shrinks()
