"""`circuit c = discover …`: find a circuit, hold it to its constraints, measure it on held-out examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dsl.running import tables
from dsl.running.failures import StageError
from dsl.running.finding import CompareStage, Found, discover_stages, find_circuit
from dsl.running.fitting import check_fit
from dsl.running.judging import Judged, MeasureStage, check_constraints, judge
from dsl.running.stage import Section, Stage
from graphir.errors import TrainingError

if TYPE_CHECKING:
    from dsl.running.carrying import Run, RunResult
    from dsl.running.workplace import Workplace
    from dsl.spec import CircuitSpec, Spec


class Circuits(Section):
    """Finds and measures the circuits of a file."""

    kind, order = "circuits", 30

    def carry_out(self, run: Run) -> None:
        """Each is saved as soon as it is found, and again when it is measured; those that others start from first."""
        check_fit(run.spec.circuits, run.place)
        for spec in _in_order(run.spec.circuits):
            with _last_good_state(run, spec):
                found = find_circuit(spec, run.place)
            run.keep(found, found.circuit)
            if found.interrupted is not None:
                raise KeyboardInterrupt
            check_constraints(found)
            judged = judge(found, run.place)
            run.judged[spec.name] = judged
            run.keep(found, judged.circuit)
            run.reporter.measured(spec.name, judged.metrics)
            run.reporter.show("", *tables.circuit_parts(judged))

    def stages(self, spec: Spec, place: Workplace) -> Iterator[Stage[Any]]:
        """A seed each, comparing them, measuring the best."""
        for each in spec.circuits:
            seeds = discover_stages(each)
            yield from seeds.values()
            if len(seeds) > 1:
                yield _LateComparison(each)
            yield MeasureStage(each, lambda each=each: find_circuit(each, place))  # type: ignore[misc]

    def record(self, run: Run) -> Mapping[str, Any]:
        """Sizes, seeds and metrics."""
        return {"circuits": {name: _record(each, run.judged.get(name)) for name, each in run.found.items()}}

    def parts(self, result: RunResult) -> list[Any]:
        """A table for each."""
        return [part for judged in result.judged.values() for part in tables.circuit_parts(judged)]


def _in_order(circuits: Sequence[CircuitSpec]) -> Sequence[CircuitSpec]:
    """As they are given, but those that others start from first."""

    def depth(spec: CircuitSpec) -> int:
        return 0 if spec.origin is None else 1 + depth(spec.origin)

    return sorted(circuits, key=depth)


class _LateComparison(CompareStage):
    """The comparison of seeds that are looked for only when its inputs are asked for: in a plan."""

    def __init__(self, spec: CircuitSpec) -> None:
        super().__init__(spec, {})

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """See `CompareStage`."""
        self.seeds = {seed: place.value(stage) for seed, stage in discover_stages(self.spec).items()}
        return super().inputs(place)


@contextmanager
def _last_good_state(run: Run, spec: CircuitSpec) -> Iterator[None]:
    """When learning breaks off, what it had is saved, and the error says so."""
    try:
        yield
    except StageError as error:
        cause = error.__cause__
        circuit: Any = cause.circuit if isinstance(cause, TrainingError) else None
        if circuit is not None and error.span == spec.method.span:  # not what it starts from
            told = {**circuit.provenance, "failed": str(cause)}
            circuit = circuit.with_(name=spec.name, provenance=told)
            run.keep(Found(spec, circuit, {0: circuit}, 0, {}), circuit)
            error.hints = (*error.hints, f"the last good state is in {run.place_of(spec.name)}")
        raise


def _record(found: Found, judged: Judged | None) -> dict[str, Any]:
    circuit = found.circuit
    seeds: dict[str, Any] = {
        str(seed): {"edges": int(each.edges.sum()), "validation_kl": found.validation.get(seed)}
        for seed, each in found.seeds.items()
    }
    data: dict[str, Any] = {
        "kind": found.spec.kind,
        "method": found.origin,
        "edges": int(circuit.edges.sum()),
        "nodes": int(circuit.nodes.sum()),
        "density": circuit.density,
        "densities": circuit.densities(),
        "seed": found.chosen,
        "seeds": seeds | {str(seed): {"failed": reason} for seed, reason in found.failed.items()},
        "stability": found.stability,
        "interrupted": found.interrupted,
    }
    if judged is not None:
        data |= {"split": judged.split, "examples": judged.examples, "metrics": dict(judged.metrics)}
        data |= {"complement": dict(judged.complement), "empty": dict(judged.empty), "model": dict(judged.full)}
    return data


SECTION = Circuits()
