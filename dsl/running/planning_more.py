"""What sections beyond circuits and curves cost: imports, compositions, gates, evidence. The formulas are those of
`dsl.running.planning`; a search over knock-outs is counted by its budget, so it may well be done sooner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dsl.running.finding import batch_size_of, seeds_of
from dsl.running.gates import PART_OF
from dsl.running.gathering import has_seeds, parts_of
from dsl.running.interfering import tasks_of_parts
from dsl.running.planning import Stage, Work, learning_stage, measuring_stage
from dsl.spec import AnyCircuit, CircuitSpec, CompositionSpec, Spec, TaskSpec
from dsl.translate import quantities

if TYPE_CHECKING:
    from dsl.spec import CheckSpec, EvidenceSpec

WorkOf = Callable[[AnyCircuit, TaskSpec], Work]
CURVE_POINTS = 10
"""Sizes that a faithfulness curve of the evidence has."""
SEARCH_EXAMPLES = 16
"""Examples that searches over knock-outs see (`passes.evidence.Budget`)."""


def more_stages(spec: Spec, work_of: WorkOf, gflops: float) -> Iterator[Stage]:
    """The rows of a plan for what the file asks for beyond circuits and curves, one row of a name."""
    found: dict[str, Stage] = {}
    for stage in _every(spec, work_of, gflops):
        known = found.get(stage.name)
        found[stage.name] = stage if known is None else _sum_of(known, stage)
    yield from found.values()


def _every(spec: Spec, work_of: WorkOf, gflops: float) -> Iterator[Stage]:
    named: tuple[AnyCircuit, ...] = (*spec.imports, *spec.compositions)
    for each in named:
        if each.task is not None:
            work = work_of(each, each.task)
            yield measuring_stage(f"measure {each.name}", each.span.line, work, "test", 3, gflops)
        if isinstance(each, CompositionSpec) and len(each.operands) > 1:
            for task in tasks_of_parts(each):
                name, masks = f"interference in {each.name}", 2 * (len(each.operands) + 1)
                yield measuring_stage(name, each.span.line, work_of(each, task), "test", masks, gflops)
    for evidence in spec.evidence:
        for circuit in evidence.circuits:
            if circuit.task is not None:
                for part in parts_of(evidence.options, seeds=has_seeds(circuit)):
                    yield from _test(circuit, part, evidence, work_of(circuit, circuit.task), gflops)
    for check in spec.checks:
        yield from _gates(check, spec, work_of, gflops)


def _gates(check: CheckSpec, spec: Spec, work_of: WorkOf, gflops: float) -> Iterator[Stage]:
    from passes.evidence_options import EvidenceOptions

    circuit, line = check.circuit, check.span.line
    if circuit.task is None:
        return
    work = work_of(circuit, circuit.task)
    if isinstance(circuit, CircuitSpec):
        most = max((each.seeds or 0 for each in check.conditions), default=0) - len(seeds_of(circuit))
        if most > 0:
            yield replace(_learning_again(circuit, work, most, gflops), name=f"gates of {circuit.label}", line=line)
    named = {each for condition in check.conditions for each in quantities(condition.expression)}
    if any(circuit in each.circuits for each in spec.evidence):
        return  # counted with the section
    controls: Any = tuple(arguments[0] for name, arguments in sorted(named) if name == "control")
    for part in dict.fromkeys(PART_OF[name] for name, _ in sorted(named) if name in PART_OF):
        yield from _test(circuit, part, check, work, gflops, EvidenceOptions(controls=controls))


def _test(
    circuit: AnyCircuit, part: str, spec: EvidenceSpec | CheckSpec, work: Work, gflops: float, options: Any = None
) -> Iterator[Stage]:
    """One test of the evidence, in the row of the circuit's evidence."""
    options = options or getattr(spec, "options", None)
    name, line = f"evidence of {circuit.label}", spec.span.line
    share = min(1.0, SEARCH_EXAMPLES / max(work.examples["test"], 1))
    random = sum(each != "random_model" for each in options.controls)
    masks = {
        "metrics": 3.0,
        "faithfulness": float(CURVE_POINTS),
        "completeness": 2 * options.budget * share,
        "minimality": options.budget * share,
        "controls": float(options.samples * random),
    }
    if part in masks:
        yield measuring_stage(name, line, work, "test", max(round(masks[part]), 1), gflops)
    again = 0
    if part == "stability" and isinstance(circuit, CircuitSpec):
        again = max(options.seeds - len(seeds_of(circuit)), 0)
    if part == "controls" and "random_model" in options.controls:
        again = 1
    if again and isinstance(circuit, CircuitSpec):
        yield replace(_learning_again(circuit, work, again, gflops), name=name, line=line)


def _learning_again(circuit: CircuitSpec, work: Work, seeds: int, gflops: float) -> Stage:
    """Learning a circuit from so many more seeds, and before it what it starts from."""
    own = learning_stage(circuit, work, seeds, gflops)
    if circuit.origin is None:
        return own
    work = replace(work, batch=batch_size_of(circuit.origin))
    return _sum_of(own, _learning_again(circuit.origin, work, seeds, gflops))


def _sum_of(first: Stage, second: Stage) -> Stage:
    def add(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + b

    peak = None if first.memory is None or second.memory is None else max(first.memory, second.memory)
    return replace(
        first,
        examples=max(first.examples, second.examples),
        forward=first.forward + second.forward,
        backward=first.backward + second.backward,
        flops=add(first.flops, second.flops),
        seconds=add(first.seconds, second.seconds),
        memory=peak,
    )
