"""Judge circuits on held-out examples: metrics, conditions of checks, constraints, curves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsl import tree
from dsl.quantities import QUANTITIES
from dsl.running.failures import located
from dsl.running.finding import Found, batch_size_of
from dsl.running.keys import circuit_digest, factors_digest
from dsl.running.neurons import kept_neurons
from dsl.running.sections.graphs import TraceStage
from dsl.running.sections.tasks import TaskStage
from dsl.running.stage import Stage
from dsl.running.storing import read_numbers, write_numbers
from dsl.spec import CircuitSpec
from dsl.translate import Lookup, Table, holds, quantities, symbol_name
from graphir.circuit import Circuit
from graphir.errors import DataError, GraphirError, TrainingError

if TYPE_CHECKING:
    from dsl.running.gathering import Gathered
    from dsl.running.workplace import Workplace
    from dsl.spec import AnyCircuit, CheckSpec, Condition, MeasureSpec, TaskSpec
    from graphir.diagnostics import Span
    from graphir.run.masks import Masks
    from graphir.run.program import MaskedProgram
    from passes.measure import CurvePoint

Metrics = Mapping[str, float]

WITH_DISTRACTOR = ("logit_diff", "logit_diff_ratio", "prob_diff", "faithfulness")
"""Metrics that a task without distractors has not."""
SPLIT = "test"
"""Where circuits are judged: examples that nothing was learned from or chosen by."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What a circuit measured on one split, beside the model, the empty circuit and the circuit's complement."""

    found: Found
    circuit: Circuit
    split: str
    examples: int
    metrics: Metrics
    complement: Metrics
    empty: Metrics
    full: Metrics
    evidence: Gathered | None = None

    def value(self, name: str, arguments: tuple[str, ...]) -> float:
        """A quantity of checks and constraints, `value("kl", ("model", "circuit"))`. `DataError` where the task does
        not have it (a difference to a distractor that there is not)."""
        size = size_of(self.circuit, name, arguments)
        if size is not None:
            return size
        if QUANTITIES[name].evidence:
            return self._from_evidence(name, arguments)
        if name == "stability":
            return stability(list(self.found.seeds.values()), *arguments)
        if name == "equivalence":
            equivalence = self.circuit.graph.equivalence
            return float("nan") if equivalence is None else equivalence
        of = arguments[-1] if arguments else "circuit"
        measured = {"circuit": self.metrics, "model": self.full, "empty": self.empty, "complement": self.complement}[of]
        if name == "kendall_tau" and name not in measured:
            raise DataError("`kendall_tau` ranks a task's answers, and this task has one", ["use kl or exact_match"])
        if name not in measured and name not in WITH_DISTRACTOR:
            raise GraphirError(f"`{name}` is not measured by this release", ["leave the condition out"])
        if name not in measured:
            raise DataError(f"`{name}` needs a distractor for every example", ["use accuracy or kl"])
        return measured[name]

    def _from_evidence(self, name: str, arguments: tuple[str, ...]) -> float:
        """What only the evidence has. `DataError` where it was not asked for, or could not be measured."""
        shown = symbol_name(name, arguments)
        if self.evidence is None:
            label = self.found.spec.label
            raise DataError(f"`{shown}` is part of the evidence", [f"add `evidence {label} {{ }}` to the file"])
        value = self.evidence.value(name, arguments)
        if value is None:
            raise DataError(f"the evidence has no `{shown}`", self.evidence.reasons(QUANTITIES[name].evidence))
        return value


@dataclass(frozen=True)
class Verdict:
    """One condition of a check: whether it holds, and the values of what it names. `kind` says what `circuit` is the
    name of: a circuit, or a section of the analyzer (`dsl.analysis_quantities.SECTION_QUANTITIES`)."""

    circuit: str
    text: str
    passed: bool
    values: Mapping[str, float]
    span: Span = field(repr=False)
    kind: str = "circuit"

    def to_json(self) -> dict[str, Any]:
        """Plain data; of a section of the analyzer its name is under `subject`, beside its kind."""
        subject = {"circuit": self.circuit} if self.kind == "circuit" else {"subject": self.circuit, "kind": self.kind}
        place = {"file": self.span.source.name, "line": self.span.line, "column": self.span.column}
        return {**subject, "condition": self.text, "passed": self.passed, "values": dict(self.values)} | place


@dataclass(frozen=True)
class Point:
    """A point of a curve as `passes.measure.CurvePoint` has it, without torch."""

    density: float
    edges: int
    metrics: Metrics


@dataclass(frozen=True)
class Curve:
    """A ranking's circuits at several sizes: `name` is the circuit's or the method's, `scale` the file's (density,
    sparsity or edges), `points` in the file's order, `empty` and `full` the two ends."""

    name: str
    of: str
    scale: str
    edges: int
    points: tuple[Point | CurvePoint, ...]
    empty: Metrics
    full: Metrics

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rows = [
            {"density": p.density, "sparsity": 1 - p.density, "edges": p.edges, "metrics": dict(p.metrics)}
            for p in self.points
        ]
        return {
            "name": self.name,
            "of": self.of,
            "scale": self.scale,
            "points": rows,
            "empty": dict(self.empty),
            "full": dict(self.full),
        }


@dataclass(frozen=True)
class Measurement:
    """Metrics of a circuit, its complement, the empty circuit and the model on the same examples."""

    split: str
    examples: int
    metrics: Metrics
    complement: Metrics
    empty: Metrics
    full: Metrics


class MeasureStage(Stage[Measurement]):
    """Measure a circuit and its complement on held-out examples: of its own task, or of another one, with the ablation
    values of the data of `reference`."""

    kind = "measure"

    def __init__(
        self,
        spec: AnyCircuit,
        found: Callable[[], Found],
        task: TaskSpec | None = None,
        *,
        reference: TaskSpec | None = None,
        row: str = "",
    ) -> None:
        on = f" on {task.name}" if task is not None else ""
        super().__init__(f"measure {spec.name}{on}", spec.span, f"measuring `{spec.name}`{on}", row)
        judged = task or spec.task
        assert judged is not None
        self.spec, self.task, self._found = spec, judged, found
        other = reference is not None and reference.name != judged.name and judged.ablation.startswith("mean")
        self._reference = reference if other else None

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Graph, task, circuit, and how the examples are cut into batches: sums in another order differ."""
        found = self._found()
        inputs: dict[str, Any] = {
            "graph": TraceStage(self.spec.graph),
            "task": TaskStage(self.task, self.spec.graph.model),
            "metric": self.task.metric,
            "split": SPLIT,
            "batch_size": batch_size_of(self.spec),
            "circuit": circuit_digest(found.circuit),
        }
        if self._reference is not None:
            inputs["reference"] = TaskStage(self._reference, self.spec.graph.model)
        return inputs | ({"factors": factors_digest(found.factors)} if found.factors else {})

    def run(self, place: Workplace) -> Measurement:
        """All metrics, faithfulness being that of the task's own metric."""
        spec, found = self.spec, self._found()
        with located(self.doing, self.span):
            evaluator = place.evaluator(spec.graph, self.task, SPLIT, batch_size_of(spec), self._reference)
            with place.reporter.stage(self.name):
                measured = evaluator.measure_several(both_masks(found, evaluator.program))
        ends, metric = (evaluator.empty, evaluator.full), self.task.metric
        values = [with_faithfulness(each, *ends, metric) for each in (*measured, *ends)]
        return Measurement(SPLIT, len(evaluator.task.examples(SPLIT)), *values)

    def save(self, value: Measurement, folder: Path) -> None:
        """As JSON."""
        write_numbers(folder, asdict(value))

    def load(self, folder: Path, place: Workplace) -> Measurement:
        """The same."""
        return Measurement(**read_numbers(folder))


def both_masks(found: Found, program: MaskedProgram) -> list[Masks]:
    """The masks of a circuit and of its complement; of a sum with the factors of its weights."""
    from graphir.algebra_sum import CircuitSum
    from passes.measure import masks_of

    masks = [masks_of(found.circuit, program, complement=other) for other in (False, True)]
    if found.factors:
        masks[0] = CircuitSum(found.circuit, found.factors).masks(program)
    return masks


def judge(found: Found, place: Workplace) -> Judged:
    """Measure what was found."""
    measured = place.value(MeasureStage(found.spec, lambda: found))
    circuit = found.circuit.with_(metrics=measured.metrics)
    return Judged(found, circuit, **{each.name: getattr(measured, each.name) for each in fields(measured)})


class CurveStage(Stage["Curve"]):
    """Measure the circuits of a ranking at several sizes."""

    kind = "curve"

    def __init__(
        self, spec: MeasureSpec, circuit: AnyCircuit, name: str, *, absolute: bool, ranking: Callable[[], np.ndarray]
    ) -> None:
        doing = f"measuring `{circuit.name}` at several sizes"
        super().__init__(f"curve of {name}", spec.span, doing, f"curve of {circuit.name}")
        self.spec, self.circuit, self.title, self.absolute, self._ranking = spec, circuit, name, absolute, ranking
        assert circuit.task is not None
        self.task: TaskSpec = circuit.task

    def inputs(self, place: Workplace) -> Mapping[str, Any]:
        """Graph, task, sizes, and the ranking itself."""
        return {
            "graph": TraceStage(self.circuit.graph),
            "task": TaskStage(self.task, self.circuit.graph.model),
            "metric": self.task.metric,
            "split": SPLIT,
            "batch_size": batch_size_of(self.circuit),
            "amounts": [self.spec.scale, *self.spec.amounts],
            "absolute": self.absolute,
            "ranking": hashlib.sha256(self._ranking().tobytes()).hexdigest(),
        }

    def run(self, place: Workplace) -> Curve:
        """The curve, with the empty circuit where less than one edge is left."""
        from passes.measure import CurvePoint, curve

        circuit = self.circuit
        with located(self.doing, self.span):
            evaluator = place.evaluator(circuit.graph, self.task, SPLIT, batch_size_of(circuit))
            total = len(evaluator.program.graph.edges)
            densities = self.spec.densities or tuple(min(amount / total, 1.0) for amount in self.spec.amounts)
            inner = [density for density in densities if density * total >= 1 - 1e-9]
            with place.reporter.stage(self.name):
                points = iter(curve(evaluator, self._ranking(), inner, absolute=self.absolute))
        ends, metric = (evaluator.empty, evaluator.full), self.task.metric
        empty, full = (with_faithfulness(each, *ends, metric) for each in ends)
        made = []
        for density in densities:
            if density * total < 1 - 1e-9:
                made.append(CurvePoint(density, 0, dict(empty)))
                continue
            point = next(points)
            made.append(CurvePoint(density, point.edges, with_faithfulness(point.metrics, *ends, metric)))
        return Curve(self.title, circuit.name, self.spec.scale, total, tuple(made), empty, full)

    def save(self, value: Curve, folder: Path) -> None:
        """As JSON."""
        points = [[point.density, point.edges, dict(point.metrics)] for point in value.points]
        write_numbers(folder, {"edges": value.edges, "points": points, "empty": value.empty, "full": value.full})

    def load(self, folder: Path, place: Workplace) -> Curve:
        """The same, under the names of this file."""
        found = read_numbers(folder)
        points = tuple(Point(*each) for each in found["points"])
        name = (self.title, self.circuit.name, self.spec.scale)
        return Curve(*name, found["edges"], points, found["empty"], found["full"])


def with_faithfulness(metrics: Metrics, empty: Metrics, full: Metrics, metric: str) -> dict[str, float]:
    """The metrics, `faithfulness` being (circuit - empty) / (model - empty) of the task's own metric."""
    low, high = empty.get(metric, float("nan")), full.get(metric, float("nan"))
    value = (metrics.get(metric, float("nan")) - low) / (high - low) if high != low else float("nan")
    return {**metrics, "faithfulness": value}


def size_of(circuit: Circuit, name: str, arguments: tuple[str, ...]) -> float | None:
    """A quantity about the circuit's size, None for others."""
    if name in ("edges", "nodes"):
        return float(getattr(circuit, name).sum())
    if name == "weights":
        return float(sum(int(keep.sum()) for keep in circuit.weights.values()))
    if name in ("density", "sparsity"):
        density = circuit.densities().get(arguments[0], 1.0)
        return density if name == "density" else 1.0 - density
    return None


def stability(circuits: Sequence[Circuit], part: str = "edges", index: str = "iou") -> float:
    """The smallest overlap of what two of the circuits keep of a part (edges, nodes, weights or neurons): intersection
    over union (iou), or over the smaller (iomin); 1 where both are empty, not-a-number for fewer than two circuits."""

    def kept(circuit: Circuit) -> np.ndarray:
        if part == "weights":
            return np.concatenate(
                [np.ravel(keep) for _, keep in sorted(circuit.weights.items())] or [np.zeros(0, bool)]
            )
        return kept_neurons(circuit) if part == "neurons" else np.asarray(getattr(circuit, part))

    def overlap_of(first: np.ndarray, second: np.ndarray) -> float:
        whole = int((first | second).sum()) if index == "iou" else min(int(first.sum()), int(second.sum()))
        if not whole:
            return float(index == "iou" or not (first.any() or second.any()))
        return int((first & second).sum()) / whole

    masks = [kept(circuit) for circuit in circuits]
    return min((overlap_of(a, b) for a, b in combinations(masks, 2)), default=float("nan"))


def check_constraints(found: Found) -> None:
    """`StageError` for a constraint that the circuit does not meet."""
    circuit, spec = found.circuit, found.spec
    if not isinstance(spec, CircuitSpec):
        return

    def lookup(name: str, arguments: tuple[str, ...]) -> float:
        size = size_of(circuit, name, arguments)
        assert size is not None  # the check lets sizes only be bounded
        return size

    for constraint in spec.constraints:
        expression = constraint.expression
        if holds(expression, lookup):
            continue
        name, arguments = constraint.quantity, (constraint.part,) if constraint.part else ()
        value = lookup(name, arguments)
        with located(f"running {spec.method.name}", constraint.span):
            raise TrainingError(
                f"`{spec.name}` does not meet `{_text(expression)}`: {symbol_name(name, arguments)} is {value:.6g}",
                ["edges on no path from input to output are dropped, so a circuit may be smaller than its bound"],
            )


def check_conditions(spec: CheckSpec, lookups: Callable[[Condition], Mapping[str, Lookup]]) -> list[Verdict]:
    """Each condition of a check. `lookups` gives the quantities of all that a condition has to hold for, by what tells
    these apart: of one circuit under an empty name, of each seed's under `seed 0` and the like."""
    verdicts = []
    for condition in spec.conditions:
        named = quantities(condition.expression)
        values: dict[str, float] = {}
        passed = True
        with located(f"checking `{spec.circuit.name}`", condition.span):
            for which, lookup in lookups(condition).items():
                tail = f" ({which})" if which else ""
                values |= {symbol_name(*each) + tail: lookup(*each) for each in named}
                passed &= is_met(condition.expression, lookup)
        verdicts.append(Verdict(spec.circuit.name, condition.text, passed, values, condition.span))
    return verdicts


def is_met(expression: tree.Expression, lookup: Lookup, table: Table = QUANTITIES) -> bool:
    """Whether a condition holds. `GraphirError` where it has no value (division by zero)."""
    try:
        return holds(expression, lookup, table)
    except ArithmeticError as error:
        raise GraphirError(f"the condition has no value: {error}") from None


def ranking_of(circuit: Circuit) -> np.ndarray:
    """The scores (E,) that rank a circuit's edges. `GraphirError` where there are none."""
    if "edges" not in circuit.scores:
        raise GraphirError(f"`{circuit.name}` has no ranking of edges to measure at other sizes")
    return np.asarray(circuit.scores["edges"], dtype=np.float64)


def is_absolute(method: Any) -> bool:
    """Whether a method ranks by the size of its scores."""
    return bool(getattr(method.options, "absolute", False))


def _text(expression: tree.Expression) -> str:
    return " ".join(expression.span.text.split())
