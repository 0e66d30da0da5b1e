"""`evidence c { … }`: what shows that a circuit is real."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dsl.running.evidence_lines import evidence_lines
from dsl.running.finding import Found, seeds_of
from dsl.running.gathering import EvidenceStage, Gathered, has_seeds, parts_of, put_together
from dsl.running.obtaining import obtain
from dsl.running.stage import Section, Stage
from dsl.spec import CircuitSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsl.running.carrying import Run, RunResult
    from dsl.running.workplace import Workplace
    from dsl.spec import AnyCircuit, EvidenceSpec, Spec


class EvidenceSection(Section):
    """Gathers evidence for circuits that were measured."""

    kind, order = "evidence", 45

    def carry_out(self, run: Run) -> None:
        """Test by test; checks find it with the circuit."""
        found: dict[str, Gathered] = run.results.setdefault(self.kind, {})
        for spec in run.spec.evidence:
            for circuit in spec.circuits:
                judged = run.judged.get(circuit.name)
                if judged is None or circuit.task is None:
                    run.reporter.warn(f"no evidence for `{circuit.label}`: it is not judged on a task")
                    continue
                kept = judged.found
                stages = _stages(spec, circuit, lambda kept=kept: kept)  # type: ignore[misc]
                parts = {stage.part: run.place.value(stage) for stage in stages}
                gathered = put_together(circuit.name, parts, _missing(spec, circuit))
                found[circuit.name] = gathered
                run.judged[circuit.name] = replace(judged, evidence=gathered)
                run.reporter.show("", evidence_lines(gathered.data))

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """A discovery for each further seed, a stage for each test."""
        for each in spec.evidence:
            for circuit in each.circuits:
                if circuit.task is not None:
                    own = seeds_of(circuit) if isinstance(circuit, CircuitSpec) else ()
                    for stage in _stages(each, circuit, _lately(circuit, place)):
                        yield from (found for seed, found in stage.discoveries().items() if seed not in own)
                        yield stage

    def record(self, run: Run) -> Mapping[str, Any]:
        """All that was measured."""
        found: Mapping[str, Gathered] = run.results.get(self.kind, {})
        return {"evidence": {name: each.data for name, each in found.items()}} if found else {}

    def parts(self, result: RunResult) -> list[Any]:
        """A line for each test."""
        found: Mapping[str, Gathered] = result.results.get(self.kind, {})
        return [evidence_lines(each.data) for each in found.values()]


def _lately(circuit: AnyCircuit, place: Workplace) -> Callable[[], Found]:
    """What was found when it is asked for, so that a plan can name stages before there is one."""
    return lambda: obtain(circuit, place)


def _stages(spec: EvidenceSpec, circuit: AnyCircuit, found: Callable[[], Found]) -> list[EvidenceStage]:
    parts = parts_of(spec.options, seeds=has_seeds(circuit))
    return [EvidenceStage(spec, circuit, part, found) for part in parts]


def _missing(spec: EvidenceSpec, circuit: AnyCircuit) -> dict[str, str]:
    """What was asked for, or meant by default, and cannot be."""
    found = {}
    if spec.options.seeds > 1 and not has_seeds(circuit):
        found["stability"] = "no seed decides what is found: there is nothing to compare"
    return found


SECTION = EvidenceSection()
