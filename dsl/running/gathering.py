"""Gather the evidence for circuits: a stage for each test, so that each is kept on its own, and asking for more of one
does not repeat the others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsl.objectives import objective_options
from dsl.running.failures import StageError, located
from dsl.running.finding import LATER, DiscoverStage, Found, batch_size_of, bounds_on, discoveries, seeds_of
from dsl.running.keys import circuit_digest, describe, describe_method, factors_digest
from dsl.running.obtaining import obtain
from dsl.running.sections.graphs import TraceStage
from dsl.running.sections.tasks import TaskStage
from dsl.running.stage import Stage
from dsl.running.storing import read_numbers, write_numbers
from dsl.spec import CircuitSpec
from graphir.errors import GraphirError

if TYPE_CHECKING:
    from dsl.running.workplace import Workplace
    from dsl.spec import AnyCircuit, EvidenceSpec
    from graphir.circuit import Circuit

SPLIT = "test"
BATCH = 8
"""Rows in a batch where the circuit has no method that says so."""
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "metrics": (),
    "faithfulness": (),
    "roc": (),
    "completeness": ("budget", "seed"),
    "minimality": ("budget", "seed"),
    "stability": ("seeds", "confidence", "seed"),
    "controls": ("controls", "samples", "seed"),
}
"""The tests, and the options that each depends on; `metrics` are those that need no test."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """The evidence for a circuit: `data` as `passes.evidence.Evidence.to_json` has it."""

    circuit: str
    data: Mapping[str, Any] = field(repr=False)

    def value(self, name: str, arguments: tuple[str, ...] = ()) -> float | None:
        """A quantity of checks that only evidence has (see `dsl.quantities`); None where it was not measured."""
        path = _PLACES.get(name)
        if name == "control" and arguments:
            path = _CONTROLS.get(arguments[0])
        found: Any = self.data if path is not None else None
        for step in path or ():
            found = found.get(step) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, int | float) else None

    def reasons(self, part: str) -> list[str]:
        """Why a test is missing: what was said when it was tried, or how to ask for it."""
        tests = {"curve": ("faithfulness", "roc")}.get(part, (part,))
        missing = self.data.get("missing") or {}
        found = [f"{test}: {missing[test]}" for test in tests if test in missing]
        if part == "controls":
            made = (self.data.get("controls") or {}).values()
            found += [each["failed"] for each in made if isinstance(each, Mapping) and each.get("failed")]
        return found or [f"see `{part}` in `evidence {self.circuit} {{ … }}`"]


_PLACES: Mapping[str, tuple[str, ...]] = {
    "incompleteness": ("completeness", "worst", "incompleteness"),
    "minimality": ("minimality", "smallest", "score"),
    "cpr": ("faithfulness", "cpr"),
    "cmd": ("faithfulness", "cmd"),
    "auroc": ("roc", "auroc"),
}
_CONTROLS: Mapping[str, tuple[str, ...]] = {
    "random_circuit": ("controls", "random", "p_value"),
    "complement_circuit": ("controls", "complement", "p_value"),
    "random_model": ("controls", "random_weights", "recovered"),
}


class EvidenceStage(Stage[Mapping[str, Any]]):
    """One test of one circuit. The value is an `Evidence` with that test alone, as JSON data."""

    kind = "evidence"

    def __init__(self, spec: EvidenceSpec, circuit: AnyCircuit, part: str, found: Callable[[], Found]) -> None:
        row, doing = f"evidence of {circuit.label}", f"gathering evidence for `{circuit.label}`"
        super().__init__(f"{row}: {part}", spec.span, doing, row)
        self.options, self.circuit, self.part, self._found = spec.options, circuit, part, found
        self._true = spec.truth if part == "roc" else None

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Graph, task, circuit and its ranking, the options of the test; what discovers, for tests that discover."""
        spec, obtained = self.circuit, self._found()
        found = obtained.circuit
        assert spec.task is not None
        inputs: dict[str, Any] = {
            "graph": TraceStage(spec.graph),
            "task": TaskStage(spec.task, spec.graph.model),
            "metric": spec.task.metric,
            "part": self.part,
            "split": SPLIT,
            "batch_size": self._batch_size,
            "circuit": circuit_digest(found),
            "options": {name: describe(getattr(self.options, name)) for name in OPTIONS[self.part]},
        }
        if obtained.factors:
            inputs["factors"] = factors_digest(obtained.factors)
        if self.part in ("faithfulness", "roc"):
            inputs |= {"ranking": _ranking(found), "absolute": bool(found.provenance.get("absolute", True))}
        if self._true is not None:
            inputs["truth"] = circuit_digest(obtain(self._true, place).circuit)
        if self.part == "stability":
            inputs["seeds"] = {str(seed): stage for seed, stage in self.discoveries().items()}
        if self._controls_weights and isinstance(spec, CircuitSpec):
            inputs |= {"method": describe_method(spec.method), "bounds": describe(spec, without=LATER)}
            if spec.origin is not None:
                inputs["origin"] = discoveries(spec.origin, 1, self.row)[seeds_of(spec.origin)[0]]
        return inputs

    def run(self, place: Workplace) -> Mapping[str, Any]:
        """Measured on held-out examples. What cannot be measured is named in `missing`."""
        from graphir.algebra_sum import CircuitSum
        from passes.evidence import Budget, gather_evidence

        spec, options = self.circuit, self.options
        assert spec.task is not None
        budget = Budget(
            batch_size=self._batch_size,
            completeness_runs=options.budget,
            minimality_runs=options.budget,
            random_circuits=options.samples if set(options.controls) - {"random_model"} else 0,
        )
        runs = self._runs(place) if self.part == "stability" else ()
        with located(self.doing, self.span):
            program, task = place.program(spec.graph), place.task(spec.task, spec.graph.model)
            obtained = self._found()
            circuit = obtained.circuit.with_(graph=program.graph, example=None)
            found = CircuitSum(circuit, obtained.factors) if obtained.factors else circuit
            with place.reporter.stage(self.name):
                gathered = gather_evidence(
                    found, program, task, split=SPLIT, metric=spec.task.metric, seed=options.seed, budget=budget,
                    parts=(self.part,), confidence=options.confidence, seed_runs=runs, observer=place.reporter,
                    discover=self._discover(place) if self._controls_weights else None,
                    truth=self._truth(place) if self.part == "roc" else None,
                )  # fmt: skip
        return gathered.to_json()

    def save(self, value: Mapping[str, Any], folder: Path) -> None:
        """As JSON."""
        write_numbers(folder, value)

    def load(self, folder: Path, place: Workplace) -> Mapping[str, Any]:
        """The same."""
        return dict(read_numbers(folder))

    @property
    def _batch_size(self) -> int:
        return batch_size_of(self.circuit) if isinstance(self.circuit, CircuitSpec) else BATCH

    @property
    def _controls_weights(self) -> bool:
        """Whether the method is run on random weights."""
        return self.part == "controls" and "random_model" in self.options.controls

    def discoveries(self) -> dict[int, DiscoverStage]:
        """A discovery for each seed: the circuit's own first, then others, as many as are asked for."""
        spec = self.circuit
        if self.part != "stability" or not isinstance(spec, CircuitSpec) or not has_seeds(spec):
            return {}
        return discoveries(spec, self.options.seeds, self.row)

    def _runs(self, place: Workplace) -> tuple[Any, ...]:
        """The circuit of each seed, or why there is none: the others stand."""
        from passes.evidence.stability import SeedRun

        program = place.program(self.circuit.graph)
        runs = []
        for seed, stage in self.discoveries().items():
            try:
                runs.append(SeedRun(seed, place.value(stage).with_(graph=program.graph, example=None)))
            except StageError as error:
                runs.append(SeedRun(seed, None, error.message.splitlines()[0]))
        return tuple(runs)

    def _discover(self, place: Workplace) -> Callable[[int, Any], Circuit | None]:
        """The circuit's method, on any program, from where the circuit started there."""
        import passes

        assert isinstance(self.circuit, CircuitSpec)

        def discover(spec: CircuitSpec, seed: int, program: Any) -> Circuit:
            method, task = spec.method, place.task(spec.task, spec.graph.model)
            options = {each.name: getattr(method.options, each.name) for each in fields(method.options)}
            options |= objective_options(spec) | bounds_on(spec, program)
            origin = None if spec.origin is None else discover(spec.origin, seed, program)
            return passes.run(method.name, program, task, seed=seed, metric=spec.task.metric, origin=origin, **options)

        return partial(discover, self.circuit)

    def _truth(self, place: Workplace) -> Collection[str] | None:
        """The edges of the circuit that the file says is true; else the true edges of a built-in model on its own task,
        where they are known and the graph has them."""
        from dsl.builtin.truth import ground_truth

        if self._true is not None:
            return {str(edge) for edge in obtain(self._true, place).circuit.kept_edges()}
        spec = self.circuit
        model, task = spec.graph.model, spec.task
        if model.kind != "builtin" or task is None or task.where is not None:
            return None
        if (task.data.kind, task.data.reference) != ("builtin", model.reference):
            return None
        try:
            edges = ground_truth(model.reference, task.ablation)  # type: ignore[arg-type]
            graph = place.graph(spec.graph)
            for edge in edges:
                graph.edge(edge)
        except (GraphirError, KeyError, ValueError):
            return None
        return edges


def parts_of(options: Any, *, seeds: bool) -> list[str]:
    """The tests that the options ask for; stability where the circuit's method has `seeds`."""
    wanted = ["metrics"]
    wanted += ["faithfulness", "roc"] if options.curve else []
    wanted += ["completeness"] if options.completeness else []
    wanted += ["minimality"] if options.minimality else []
    wanted += ["stability"] if options.seeds > 1 and seeds else []
    return wanted + (["controls"] if options.controls else [])


def put_together(circuit: str, parts: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str]) -> Gathered:
    """The evidence of all tests; `missing` are those that could not be begun."""
    data: dict[str, Any] = dict(parts["metrics"]) | {"circuit": circuit}
    missing = dict(missing) | dict(data.get("missing") or {})
    for name, part in parts.items():
        if name != "metrics":
            data[name] = part.get(name)
        missing |= part.get("missing") or {}
    data |= {"missing": missing, "flagged": any(part.get("flagged") is True for part in parts.values())}
    return Gathered(circuit, data)


def has_seeds(circuit: AnyCircuit) -> bool:
    """Whether another seed could find another circuit: by what is drawn in learning, or by which examples are taken."""
    if not isinstance(circuit, CircuitSpec):
        return False
    options = circuit.method.options
    return hasattr(options, "seeds") or getattr(options, "examples", None) is not None


def _ranking(circuit: Circuit) -> str | None:
    scores = circuit.scores.get("edges")
    return None if scores is None else hashlib.sha256(np.asarray(scores, np.float64).tobytes()).hexdigest()
